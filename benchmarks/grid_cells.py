"""Cells of the desk grid: read from one packed file per task, or from the files of a running grid.

    python benchmarks/grid.py compact

A running grid writes two files a cell, `ARM--TASK--SEED.json` and `.npz`; git does not keep them.
`compact` packs them into `TASK.npz` beside them and removes them. A packed file is a zip archive:
`cells.json` (every cell, and which arrays are its answers) and each distinct array once. Answers
are in half precision. Those of classes are shifted so that the largest of a row is 0, and rounded
down to 1/16: the chosen class stays the same, and no probability moves by more than 0.016. What was
packed by 1/32 stays so until it is packed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEP = 16
"""Logits of classes are kept in multiples of 1 / STEP."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of every member: the same cells give the same bytes."""


@dataclass(frozen=True)
class Cell:
    """One recipe on one task with one seed: its report, and its answers to the validation rows."""

    body: dict[str, Any]
    answers: Mapping[str, Any]
    """`labels` (N,), and `STAGE/RUNTIME-PRECISION-validation` (N, K)."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Arm, task and seed."""
        return str(self.body["arm"]), str(self.body["task"]), int(self.body["seed"])


def read(results: Path) -> list[Cell]:
    """Return all cells of a folder by name of arm; single files come before what was packed."""
    cells = {cell.key: cell for path in sorted(results.glob("*.npz"))
             if "--" not in path.name for cell in unpack(path)}  # fmt: skip
    cells |= {cell.key: cell for cell in map(read_single, single_files(results))}
    return [cells[key] for key in sorted(cells)]


def find(results: Path, arm: str, task: str, seed: int) -> dict[str, Any] | None:
    """Return the body of one cell without reading answers, None where there is none."""
    single = results / f"{arm}--{task}--{seed}.json"
    if single.exists():
        return dict(json.loads(single.read_text(encoding="utf-8")))
    packed = results / f"{task}.npz"
    if not packed.exists():
        return None
    with np.load(packed, allow_pickle=False) as stored:
        bodies = [row["cell"] for row in json.loads(stored["cells.json"])]
    return next((body for body in bodies if (body["arm"], body["seed"]) == (arm, seed)), None)


def single_files(results: Path) -> list[Path]:
    """Return the JSON files of cells that are not packed."""
    return sorted(results.glob("*--*.json"))


def read_single(path: Path) -> Cell:
    """Return the cell of `ARM--TASK--SEED.json`, with the answers beside it."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
        answers = {name: stored[name] for name in stored.files}
    return Cell(json.loads(path.read_text(encoding="utf-8")), answers)


def unpack(path: Path) -> list[Cell]:
    """Return the cells of one packed file."""
    with np.load(path, allow_pickle=False) as stored:
        rows = json.loads(stored["cells.json"])
        arrays = {name: stored[name] for name in stored.files if name != "cells.json"}
    return [
        Cell(row["cell"], {name: arrays[array] for name, array in row["answers"].items()})
        for row in rows
    ]


def compact(results: Path, wanted: Callable[[Cell], Iterable[str]]) -> list[Path]:
    """Pack the cells of a folder, one file a task, and remove their single files.

    `wanted`: names of the answers of a cell that are kept.
    """
    cells, singles = read(results), single_files(results)
    packed = []
    for task in sorted({cell.key[1] for cell in cells}):
        mine = [cell for cell in cells if cell.key[1] == task]
        packed.append(pack(results / f"{task}.npz", mine, wanted))
    for path in singles:
        path.unlink()
        path.with_suffix(".npz").unlink()
    return packed


def pack(path: Path, cells: Sequence[Cell], wanted: Callable[[Cell], Iterable[str]]) -> Path:
    """Write cells of one task into one file, whole or not at all; equal arrays once."""
    names: dict[str, str] = {}
    members: dict[str, bytes] = {}
    rows = []
    for cell in cells:
        answers = {}
        for name in sorted(wanted(cell)):
            content = _npy(_halved(cell.answers[name]))
            digest = hashlib.sha256(content).hexdigest()
            names.setdefault(digest, f"{len(names):03d}")
            members[f"{names[digest]}.npy"] = content
            answers[name] = names[digest]
        rows.append({"cell": cell.body, "answers": answers})
    members["cells.json"] = json.dumps(rows, sort_keys=True).encode()
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, content in members.items():
            about = zipfile.ZipInfo(name, date_time=EPOCH)
            archive.writestr(about, content, compress_type=zipfile.ZIP_LZMA)
    return partial.replace(path)


def _halved(answers: Any) -> Any:
    """Return answers as they are packed; labels, numbers and what is packed already stay as is."""
    if answers.ndim < 2 or answers.shape[1] < 2:
        return answers
    logits = answers.astype(np.float32)
    below = logits - logits.max(axis=1, keepdims=True)
    # Down, never to the nearest: only the largest may be 0, or another class would be chosen.
    return (np.floor(below * STEP) / STEP).astype(np.float16)


def _npy(array: Any) -> bytes:
    """Return an array as the bytes of a .npy file, a column after the other: they pack better."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asfortranarray(array), allow_pickle=False)
    return buffer.getvalue()
