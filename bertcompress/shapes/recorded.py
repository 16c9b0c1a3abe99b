"""What the record of a model's edits says, asked without naming a kind of edit.

What is above this room asks here, so that a new kind of edit changes nothing there.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from bertcompress.shapes.edits import read_record, record_edit
from bertcompress.shapes.families.anatomy import Anatomy, anatomy
from bertcompress.shapes.families.views import ShapeError
from bertcompress.shapes.masked import Masked, counted_zeros, weights_of, zeros_of

__all__ = [
    "count_zeros",
    "densities",
    "forget_zeros",
    "has_thin_tables",
    "has_zeros",
    "imitates",
    "keep_zeros",
    "kept_layers",
    "lost_zeros",
    "recorded_zeros",
    "stored_bits",
]


def _masked(model: nn.Module) -> Masked:
    return read_record(getattr(model, "config", None)).get("masked") or Masked({})


def densities(model: nn.Module) -> dict[str, float]:
    """Return the share of weights that may be other than zero, of each linear that has zeros."""
    return {name: share for name, share in _masked(model).density.items() if share < 1}


def has_zeros(model: nn.Module) -> bool:
    """Return whether zeros are recorded, which every training keeps and no shape survives."""
    return bool(densities(model))


def recorded_zeros(model: nn.Module) -> int:
    """Return how many weights were zero when they were counted for the record."""
    weights = weights_of(model, _masked(model))
    return sum(
        round((1 - share) * weights[name].numel()) for name, share in densities(model).items()
    )


def count_zeros(model: nn.Module) -> int:
    """Return how many weights are zero now, in the linears whose zeros are recorded."""
    return sum(zeros_of(model, _masked(model)).values())


def lost_zeros(model: nn.Module) -> tuple[str, float] | None:
    """Return the first linear with fewer zeros than recorded, and its recorded share of zeros.

    None where all are there. Raises ShapeError for a record of another model.
    """
    masked = _masked(model)
    if not stored_bits(model):  # the linears of one that stores bits are no linears any more
        masked.check(anatomy(model))
    for name, weight in weights_of(model, masked).items():
        size, share = weight.numel(), masked.density[name]
        if int((weight == 0).sum()) < size - round(share * size):
            return name, 1 - share
    return None


def keep_zeros(model: nn.Module, stock: nn.Module) -> None:
    """Count the zeros of a model in the config of its stock form, whose linears may be renamed.

    In place, and only where the model has a record of zeros: a stock class ignores the entry.
    """
    if has_zeros(model):
        view = anatomy(stock)
        record_edit(view.config, counted_zeros(view), view)


def forget_zeros(model: nn.Module) -> None:
    """Take the record of zeros from the config of a stock model, in place."""
    config: Any = model.config
    if set(read_record(config)) != {"masked"}:
        raise ShapeError("zeros are forgotten of a stock class alone: it has no other record")
    del config.bertcompress


def stored_bits(model: nn.Module) -> set[int]:
    """Return the numbers of bits that weights are stored in; empty for a model in floats."""
    record = read_record(getattr(model, "config", None)).get("lowbit")
    return {each.bits for each in record.weights.values()} if record else set()


def imitates(model: nn.Module) -> bool:
    """Return whether bytes and time are not those that the model's edits claim.

    Of bits that nothing packs, and of zeros. What is stored in few bits is as small as those,
    whatever zeros it has.
    """
    record = read_record(getattr(model, "config", None))
    if "lowbit" in record:
        return record["lowbit"].simulated
    return has_zeros(model)


def has_thin_tables(model: nn.Module) -> bool:
    """Return whether the embeddings are narrower than the layers by an edit."""
    return "embedding" in read_record(getattr(model, "config", None))


def kept_layers(view: Anatomy) -> tuple[int, list[int]]:
    """Return how many layers there were at first, and the original number of each that is left."""
    records = read_record(view.config)
    if "layers" in records and not view.family.shared:
        return view.family.depth_of(view.config), list(records["layers"].kept)
    return len(view.layers), list(range(len(view.layers)))
