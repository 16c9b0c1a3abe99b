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
            from accelerate import PartialState

            self._state = PartialState()

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self._state is None or bool(self._state.is_main_process)

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
