"""What a model returns, as one array: the numbers that a head reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertcompress.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OUTPUTS", "outputs_of"]

OUTPUTS = (("logits",), ("start_logits", "end_logits"), ("last_hidden_state",))
"""Names in what models of transformers return: with a head, for spans, and without a head."""


def outputs_of(returned: Any) -> Tensor:
    """Return the outputs in what a model returned: start and end logits are stacked last.

    Shape: (B, K) for texts, (B, T, K) for tokens, (B, T, 2) for spans, (B, T, H) of an encoder
    without a head. Raises ModelError where none of them is there.
    """
    import torch

    if isinstance(returned, torch.Tensor):
        return returned
    if not isinstance(returned, Mapping):
        first: Tensor = returned[0]
        return first
    for names in OUTPUTS:
        if names[0] in returned:
            found: list[Tensor] = [returned[name] for name in names]
            return found[0] if len(found) == 1 else torch.stack(found, dim=-1)
    wanted = ", ".join(" and ".join(names) for names in OUTPUTS)
    raise ModelError(f"the model returns {', '.join(returned)}; needed is one of {wanted}")
