"""64 inputs with the answers that an artefact gave where it was made, to be replayed elsewhere.

The inputs are random tokens of natural lengths: no text of anybody's is shipped. Each folder of an
artefact holds them in `probe.npz`, with the answers of the files beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bertcompress.deployment import KNOWN_ANSWERS_FILE
from bertcompress.errors import CheckpointError, NotFound
from bertcompress.heads.pooling import Pooling
from bertcompress.runtimes import INPUTS, RUNTIMES, Batch, Logits, Predictor, open_predictor
from bertcompress.support.reading import read_arrays
from bertcompress.wording import clean

if TYPE_CHECKING:  # they are read without torch
    from bertcompress.deployment import Deployment, Product

__all__ = [
    "KnownAnswers",
    "alike",
    "answers",
    "known_inputs",
    "read_known_answers",
    "record",
    "write_known_answers",
]

FORMAT = 1
ROWS, BATCH, SHORTEST, LONGEST = 64, 8, 6, 48

EXACT, ALIKE, AGREE = 1e-3, 0.98, 0.95
"""fp32 may differ by so much of the largest answer. int8 is chaotic: one unit of rounding travels,
so there the answers must correlate, and decide the same, by so much."""
STRETCHED, MOVED = 1.25, 0.5
"""Times that the spread of answers may be another, and how far they may lie beside, in spreads."""


def known_inputs(tokenizer: Any, longest: int) -> dict[str, NDArray[np.int64]]:
    """Return the inputs, always the same for a tokenizer. Shape: (64, T).

    `longest`: tokens that the model takes at most.
    """
    rng = np.random.default_rng(0)
    special = {int(i) for i in tokenizer.all_special_ids}
    words = np.array([i for i in range(len(tokenizer)) if i not in special] or [0])
    lengths = np.sort(rng.integers(SHORTEST, min(LONGEST, longest) + 1, ROWS))
    ids = np.full((ROWS, int(lengths[-1])), int(tokenizer.pad_token_id or 0), np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.choice(words, length)
        mask[row, :length] = 1
        for place, name in ((0, "cls_token_id"), (length - 1, "sep_token_id")):
            if getattr(tokenizer, name, None) is not None:
                ids[row, place] = getattr(tokenizer, name)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def answers(predictor: Predictor, inputs: Batch) -> Logits:
    """Return the answers, always in the same batches: some runtimes scale by the batch.

    Shape: (64, ...).
    """
    found = []
    for start in range(0, len(inputs["input_ids"]), BATCH):
        part = {name: values[start : start + BATCH] for name, values in inputs.items()}
        longest = int(part["attention_mask"].sum(axis=1).max())
        found.append(predictor({name: values[:, :longest] for name, values in part.items()}))
    width = max(each.shape[1] for each in found)
    if all(each.shape[1] == width for each in found):
        return np.concatenate(found).astype(np.float32)
    # Answers per token: as wide as the longest batch.
    padded = [
        np.pad(each, [(0, 0), (0, width - each.shape[1]), *[(0, 0)] * (each.ndim - 2)])
        for each in found
    ]
    return np.concatenate(padded).astype(np.float32)


@dataclass(frozen=True)
class KnownAnswers:
    """What `probe.npz` of a folder holds."""

    inputs: Mapping[str, NDArray[np.int64]]
    answers: Mapping[str, Logits]
    """By the name of the file beside it; `model.safetensors` for the torch model."""
    environment: Mapping[str, Any]
    """The machine that gave these answers."""
    latency_ms: Mapping[str, float]
    """By file: median of one text of 128 tokens there; absent where it was not measured."""
    runs_as: Mapping[str, tuple[str, str]]
    """By file: runtime and precision."""
    built_for: Mapping[str, str] = field(default_factory=dict)
    """By file: the machine that it runs on alone; absent for files that run elsewhere."""
    vectors: frozenset[str] = frozenset()
    """Files whose answers are vectors, of which no dimension decides anything."""


def write_known_answers(folder: Path, known: KnownAnswers) -> Path:
    """Write the known answers of a folder, and return the file."""
    tensors = {f"inputs/{name}": np.asarray(values) for name, values in known.inputs.items()}
    tensors |= {f"answers/{name}": np.asarray(values) for name, values in known.answers.items()}
    facts = {
        "format": FORMAT,
        "environment": dict(known.environment),
        "latency_ms": dict(known.latency_ms),
        "runs_as": {name: list(pair) for name, pair in known.runs_as.items()},
    }
    if known.vectors:
        facts["vectors"] = sorted(known.vectors)
    if known.built_for:
        facts["built_for"] = dict(known.built_for)
    file = folder / KNOWN_ANSWERS_FILE
    np.savez_compressed(file, facts=np.asarray(json.dumps(facts)), **tensors)  # type: ignore[arg-type]
    return file


def record(
    deployments: Sequence[Deployment],
    product: Product,
    host: Mapping[str, Any],
    latency_ms: Mapping[Path, float] | None = None,
) -> None:
    """Write beside each file what it answers to 64 inputs, one `probe.npz` for each folder.

    `host`: the machine, as `environment` tells it; `latency_ms`: of what was timed, by path.
    """
    from bertcompress.models.io import max_tokens

    inputs = known_inputs(product.tokenizer, max_tokens(product.model))
    files: dict[Path, dict[str, Deployment]] = {}
    for each in deployments:
        whole = each.path.is_dir()
        folder = each.path if whole else each.path.parent
        files.setdefault(folder, {})["model.safetensors" if whole else each.path.name] = each
    speeds = latency_ms or {}
    for folder, held in files.items():
        found = {
            name: answers(
                open_predictor(d.path, d.runtime, None, d.precision, device=d.device), inputs
            )
            for name, d in held.items()
        }
        timed = {name: speeds[d.path] for name, d in held.items() if d.path in speeds}
        runs_as = {name: (d.runtime, d.precision) for name, d in held.items()}
        built_for = {name: d.built_for for name, d in held.items() if d.built_for}
        embeds = Pooling.of(product.model.config) is not None
        vectors = frozenset(name for name, each in found.items() if embeds and each.ndim == 2)
        known = KnownAnswers(inputs, found, host, timed, runs_as, built_for, vectors)
        write_known_answers(folder, known)


class _Host(BaseModel):
    """What is read of the machine that gave the answers; more may be there."""

    model_config = ConfigDict(extra="allow")

    processor: str | None = None
    instruction_sets: list[str] = []
    threads: int | None = None
    versions: dict[str, str | None] = {}


def _known(name: str) -> str:
    if name not in RUNTIMES:
        raise ValueError(f"unknown runtime '{name}'; known here: {', '.join(RUNTIMES)}")
    return name


class _Facts(BaseModel):
    """What lies beside the arrays."""

    model_config = ConfigDict(extra="ignore")

    format: int = Field(ge=1)
    environment: _Host
    latency_ms: dict[str, float]
    runs_as: dict[str, tuple[Annotated[str, AfterValidator(_known)], str]]
    built_for: dict[str, str] = {}
    vectors: list[str] = []


def read_known_answers(folder: Path) -> KnownAnswers:
    """Return the known answers of a folder.

    Raises NotFound, and CheckpointError for a damaged file.
    """
    file = folder / KNOWN_ANSWERS_FILE
    if not file.is_file():
        raise NotFound(f"{folder}: no {KNOWN_ANSWERS_FILE}; it is in the folders that a run ships")
    tensors = dict(read_arrays(file))
    try:
        plain = json.loads(str(tensors.pop("facts", "{}")))
        if isinstance(plain, dict) and int(plain.get("format") or 0) > FORMAT:
            raise CheckpointError(
                f"{file}: of a newer bertcompress (format {plain['format']}); upgrade"
            )
        facts = _Facts.model_validate(clean(plain))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file}: damaged ({place}: {first['msg']})") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged ({error})") from None
    parts: dict[str, dict[str, Any]] = {"inputs": {}, "answers": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    if words := _wrong(parts, facts):
        raise CheckpointError(f"{file}: damaged ({words})")
    host = facts.environment.model_dump()
    return KnownAnswers(
        parts["inputs"],
        parts["answers"],
        host,
        facts.latency_ms,
        dict(facts.runs_as),
        facts.built_for,
        frozenset(facts.vectors),
    )


def _wrong(parts: Mapping[str, Mapping[str, NDArray[Any]]], facts: _Facts) -> str | None:
    """Return what does not hold together in a file; None where all does."""
    inputs, answered = parts["inputs"], parts["answers"]
    if unknown := set(parts) - {"inputs", "answers"} or set(inputs) - set(INPUTS):
        return f"it holds '{min(unknown)}', which no such file has"
    if {"input_ids", "attention_mask"} - set(inputs) or not answered:
        return "inputs or answers are missing"
    shape = inputs["input_ids"].shape
    if len(shape) != 2 or not all(shape) or any(each.shape != shape for each in inputs.values()):
        return "its inputs are no rows of tokens"
    if any(each.dtype.kind not in "iu" or each.min() < 0 for each in inputs.values()):
        return "its inputs are no numbers of tokens"
    mask = inputs["attention_mask"]
    if mask.max() > 1 or mask.sum(axis=1).min() < 1:
        return "its attention mask is none"
    for name, each in answered.items():
        if name not in facts.runs_as or Path(name).name != name or name.startswith("."):
            return f"'{name}' is no file beside it"
        if each.dtype.kind != "f" or not each.ndim or len(each) != shape[0]:
            return f"the answers of '{name}' are not one for each row"
    return None


def alike(got: Logits, wanted: Logits, precision: str, vectors: bool = False) -> tuple[bool, str]:
    """Return whether answers are those that were recorded, and by how much, in words.

    `vectors`: of sentences, which decide nothing.
    """
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return False, "answers of another shape" if got.shape != wanted.shape else "NaN or infinity"
    if np.array_equal(got, wanted):
        return True, "the same to the bit"
    off = float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-9))
    if precision == "fp32":
        return off <= EXACT, f"differs by {off:.1e} of the largest answer"
    # What rows have in common says nothing: a file that ignores its input would have it too.
    flat = [(each - each.mean(axis=0)).ravel() for each in (got, wanted)]
    ours, theirs = (float(np.std(each)) for each in flat)
    together = float(np.corrcoef(*flat)[0, 1]) if min(ours, theirs) > 0 else 0.0
    stretched = ours / max(theirs, 1e-9)
    moved = float(np.abs((got - wanted).mean(axis=0)).max()) / max(theirs, 1e-9)
    if together >= ALIKE and (not 1 / STRETCHED <= stretched <= STRETCHED or moved > MOVED):
        told = f"{stretched:.2f} times as far apart and moved by {moved:.2f} of that"
        return False, f"correlation {together:.4f}, but {told}"
    if got.ndim == 2 and got.shape[1] > 1 and not vectors:
        same = float((got.argmax(1) == wanted.argmax(1)).mean())
        return together >= ALIKE and same >= AGREE, (
            f"correlation {together:.4f}, the same class for {100 * same:.0f} %"
        )
    return together >= ALIKE, f"correlation {together:.4f}"
