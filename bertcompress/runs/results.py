"""The result of a stage: its record, the answers that it gave, and its model while it is asked for.

A stage's model lies on disk. It is opened when somebody asks for it, and one that nobody uses any
more is let go: a run of ten stages needs no more memory than one of two.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from bertcompress.deployment import Deployment, Findings, Measurement, Product, StageLayout
from bertcompress.measure.scores import Cost
from bertcompress.models.config_fields import read_fields_of
from bertcompress.models.io import load
from bertcompress.runtimes import Logits

__all__ = ["BATCHED", "OpenModels", "StageRecord", "StageResult", "logits_name", "read_record_of"]

BATCHED = "validation-batched"
"""The name of the validation split where it is answered in batches, though one by one is served."""


_WRITTEN = ("runtime", "precision", "path", "simulated", "device", "built_for")
"""Fields of a deployment in `stage.json`, in this order; the last two only where they are told."""


def _read_deployment(value: Any) -> Any:
    """Return the fields of a deployment from the list that stands for it."""
    if not isinstance(value, list | tuple) or not 4 <= len(value) <= len(_WRITTEN):
        return value
    return dict(zip(_WRITTEN, value, strict=False))


def _write_deployment(deployment: Deployment) -> list[Any]:
    """Return a deployment as a list, without the device and machine that most have."""
    fields = dataclasses.asdict(deployment) | {"path": deployment.path.as_posix()}
    plain = (deployment.device, deployment.built_for) == ("cpu", None)
    return [fields[name] for name in (_WRITTEN[:4] if plain else _WRITTEN)]


DeploymentRecord = Annotated[
    Deployment, BeforeValidator(_read_deployment), PlainSerializer(_write_deployment)
]
"""A deployment whose path is relative to the folder of its stage."""


class StageRecord(BaseModel):
    """What `stage.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(description="Hash of everything that determines the stage")
    name: str = Field(description="Folder name")
    method: str = Field(description="Key of the method, or original")
    findings: Findings = Field(description="What the method found and chose")
    measurement: Measurement | None = Field(None, description="What a probe measured")
    cost: Cost = Field(description="What the step cost")
    files: tuple[DeploymentRecord, ...] = Field(
        description="Deployments: runtime, precision, path in the folder, simulated, and where it "
        "is not the processor of any machine, its device and the machine that it was built for"
    )


def read_record_of(folder: Path) -> StageRecord | None:
    """Return the record of a stage folder; None where there is none that can be read."""
    try:
        return StageRecord.model_validate_json(StageLayout(folder).record.read_text("utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


@dataclass
class OpenModels:
    """Opens models of stages: one that somebody still holds, or the last one, is not read again."""

    _held: WeakValueDictionary[Path, Product] = field(default_factory=WeakValueDictionary)
    _last: Product | None = None

    def open(self, folder: Path) -> Product:
        """Return model and tokenizer of a folder, which the caller shares with others."""
        found = self._held.get(folder)
        if found is None:
            self._last = None  # let go before the next one takes its memory
            found = load(folder)
            self._held[folder] = found
        self._last = found
        return found

    def close(self) -> None:
        """Let go of the last model, before something that needs the memory."""
        self._last = None


@dataclass(frozen=True)
class StageResult:
    """A stage that is done."""

    record: StageRecord
    folder: Path
    model_folder: Path
    """Where its model lies: in its own folder, or in that of the stage whose files it made."""
    models: OpenModels

    @property
    def product(self) -> Product:
        """Model and tokenizer, read from disk unless they are open; shared: not to be changed."""
        return self.models.open(self.model_folder)

    @property
    def measures(self) -> bool:
        """Whether it is a probe's, which leaves the model before it as it is."""
        return self.record.measurement is not None

    @property
    def edited(self) -> bool:
        """Whether the shape of the model was changed, by its config alone."""
        fields = read_fields_of(self.model_folder / "config.json", str(self.model_folder))
        return bool((fields.get("bertcompress") or {}).get("edits"))

    @property
    def deployments(self) -> list[Deployment]:
        """What can be run, with absolute paths."""
        return [
            dataclasses.replace(each, path=self.folder / each.path) for each in self.record.files
        ]

    def logits(self, deployment: Deployment, split: str) -> Logits:
        """Return the stored answers to a split, given as they are served. Shape: (N, K)."""
        with np.load(StageLayout(self.folder).answers, allow_pickle=False) as stored:
            return np.asarray(stored[logits_name(deployment, split)], np.float32)

    def batched_logits(self, deployment: Deployment) -> Logits | None:
        """Return the answers to the validation split in batches of like length. Shape: (N, K).

        None where they do not depend on the batch.
        """
        with np.load(StageLayout(self.folder).answers, allow_pickle=False) as stored:
            name = logits_name(deployment, BATCHED)
            return np.asarray(stored[name], np.float32) if name in stored else None


def logits_name(deployment: Deployment, split: str) -> str:
    """Return the name of a deployment's answers to a split in `logits.npz`."""
    return f"{deployment.runtime}-{deployment.precision}-{split}"
