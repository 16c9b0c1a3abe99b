"""Several processes on one training: who writes, and how the others learn what was decided."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["Ranks"]


class Ranks:
    """The processes that `accelerate launch` started; alone where it did not."""

    def __init__(self) -> None:
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch
            from accelerate import PartialState

            # Without the flag and without a GPU each process would believe that it is alone.
            self._state = PartialState(cpu=not torch.cuda.is_available())

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self._state is None or bool(self._state.is_main_process)

    @property
    def count(self) -> int:
        """How many processes there are."""
        return 1 if self._state is None else int(self._state.num_processes)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def agree(self, value: Any) -> Any:
        """Return the main process's value in every process."""
        if self._state is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]
