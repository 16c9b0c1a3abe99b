"""An `Edit` is a decided, data-free description of a shape; this applies, records and replays it.

The record lives in the config as `bertcompress: {"format": 1, "edits": {kind: {...}}}`, one entry
per kind, in the original numbering. Loading builds the plain model, replays the record and then
fills the tensors: cutting and reloading are one code path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypedDict, TypeVar, cast

from torch import nn

from bertcompress.shapes.cutting import Heads, Layers, Neurons
from bertcompress.shapes.families.anatomy import Anatomy, anatomy
from bertcompress.shapes.families.views import ShapeError
from bertcompress.shapes.hidden import Hidden
from bertcompress.shapes.lowbit import LowBit
from bertcompress.shapes.lowrank import Embedding, LowRanks
from bertcompress.shapes.masked import Masked
from bertcompress.shapes.sharing import Sharing
from bertcompress.shapes.vocabulary import Vocabulary

__all__ = ["FORMAT", "KINDS", "Edit", "Record", "edited", "read_record", "record_edit", "replay"]

FORMAT = 2
"""Raised when an older release could not replay what this one writes; what it could is still
written as 1: all but weights that are not stored in one way."""


Same = TypeVar("Same")


class Edit(Protocol):
    """What each kind offers; kinds are stdlib dataclasses of plain lists."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    kind: ClassVar[str]

    @property
    def simulated(self) -> bool:
        """Whether bytes and time do not shrink as the record says: zeros, bits without storage."""
        ...

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError where the model cannot take this."""

    def apply(self, view: Anatomy) -> None:
        """Change the model in place."""

    def merged(self: Same, earlier: Same | None, at: Sequence[int], total: int) -> Same:
        """Return what the record holds after this edit of a model that had `earlier` before.

        `at`: the layers that the model has now, in the original numbering; `total`: layers that it
        had at first.
        """
        ...


class Record(TypedDict, total=False):
    """The edits of a model by kind, in the original numbering; a kind that is not there: none."""

    vocabulary: Vocabulary
    embedding: Embedding
    hidden: Hidden
    heads: Heads
    neurons: Neurons
    lowrank: LowRanks
    sharing: Sharing
    layers: Layers
    masked: Masked
    lowbit: LowBit


KINDS: Mapping[str, Callable[..., Edit]] = {
    "vocabulary": Vocabulary,
    "embedding": Embedding,
    "hidden": Hidden,
    "heads": Heads,
    "neurons": Neurons,
    "lowrank": LowRanks,
    "sharing": Sharing,
    "layers": Layers,
    "masked": Masked,
    "lowbit": LowBit.read,
}
"""In replay order: layers go late, so that the per-layer records count the original layers; what is
shared is shared when it has its shape; what is masked or stored in few bits has its last shape."""

_OF_LAYERS = (Heads, Neurons, LowRanks, Sharing)
"""Kinds that have an entry for each layer."""
_OF_VALUES = {
    "masked": "weights are zero already, and their number is recorded",
    "lowbit": "the weights are stored in few bits already",
}
"""Kinds that the values of the tensors fill, and why what comes before them is too late then."""


def read_record(config: Any) -> Record:
    """Return the edits that a config records, by kind; raises ShapeError for an unknown format."""
    raw = getattr(config, "bertcompress", None)
    if not raw:
        return {}
    if raw.get("format", 0) > FORMAT or set(raw["edits"]) - set(KINDS):
        unknown = sorted(set(raw["edits"]) - set(KINDS))
        raise ShapeError(
            f"this model was written by a newer bertcompress (format {raw.get('format')}, "
            f"unknown edits {unknown}): upgrade bertcompress"
        )
    edits = {kind: KINDS[kind](**raw["edits"][kind]) for kind in KINDS if kind in raw["edits"]}
    return cast(Record, edits)


def edited(model: nn.Module) -> bool:
    """Return whether the model carries a record of edits."""
    return bool(read_record(getattr(model, "config", None)))


def record_edit(config: Any, edit: Edit, view: Anatomy) -> None:
    """Merge an edit, about to be applied to the model in `view`, into the config's record."""
    records = read_record(config)
    order = list(KINDS)
    for kind, words in _OF_VALUES.items():
        if kind in records and order.index(edit.kind) < order.index(kind):
            raise ShapeError(f"{edit.kind}: {words}; change the shape before that")
    total = _original_layers(view, records)
    at = records["layers"].kept if "layers" in records and not view.family.shared else range(total)
    by_kind = cast(dict[str, Edit], records)
    by_kind[edit.kind] = edit.merged(by_kind.get(edit.kind), list(at), total)
    # Neurons keeps its indices only until they are applied: the record of a shape needs widths.
    edits = {kind: _plain(by_kind[kind]) for kind in KINDS if kind in by_kind}
    older = "lowbit" not in records or records["lowbit"].is_uniform
    config.bertcompress = {"format": 1 if older else FORMAT, "edits": edits}


def _plain(edit: Edit) -> dict[str, Any]:
    fields = edit.plain() if isinstance(edit, LowBit) else dataclasses.asdict(edit)
    return {name: value for name, value in fields.items() if value is not None}


def _original_layers(view: Anatomy, records: Record) -> int:
    for record in records.values():
        if isinstance(record, _OF_LAYERS):
            return record.layers
    if view.family.shared or "layers" not in records:
        return len(view.layers)
    return view.family.depth_of(view.config)


def _gone(record: Record, view: Anatomy) -> Collection[int]:
    """Return the layers that a record drops; none of a family whose layers are one."""
    if view.family.shared or "layers" not in record:
        return ()
    return set(range(len(view.layers))) - set(record["layers"].kept)


def replay(model: nn.Module) -> None:
    """Give a freshly built plain model the shape that its config records, in place."""
    record = read_record(model.config)
    for edit in cast(dict[str, Edit], record).values():
        view = anatomy(model)
        if isinstance(edit, _OF_LAYERS):  # what a layer that goes was like is not kept
            edit = cast(Edit, edit.leaving(_gone(record, view), view))
        edit.check(view)
        edit.apply(view)
