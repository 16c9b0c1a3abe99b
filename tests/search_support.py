"""Tiny searches for tests: documents of two topic words, queries that name both, in BEIR's form."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tests_support import WORDS

import bertcompress as bc

TOPICS = [word for word in WORDS if word not in ("the", "a", "and", "or", ".")]


def parts(documents: int = 60, train: int = 40, test: int = 15, seed: int = 0) -> dict[str, Any]:
    """Rows of corpus, queries, train and test; a document says its two topics among other words."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.combinations(TOPICS, 2))
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:documents]]
    corpus = [
        {
            "_id": f"d{i}",
            "title": one,
            "text": " ".join(
                [other, *[["the", "a", "and", "or"][int(j)] for j in rng.integers(0, 4, 3)]]
            ),
        }
        for i, (one, other) in enumerate(chosen)
    ]
    names = [f"q{i}" for i in range(train + test)]
    target = {name: int(rng.integers(documents)) for name in names}
    queries = [
        {"_id": name, "text": " ".join([*chosen[target[name]], *["."] * (1 + i // len(pairs))])
         + f" {' '.join(rng.choice(TOPICS, 1))}"}
        for i, name in enumerate(names)
    ]  # fmt: skip
    rows = [{"query-id": n, "corpus-id": f"d{target[n]}", "score": 1} for n in names]
    return {"corpus": corpus, "queries": queries, "train": rows[:train], "test": rows[train:]}


def write_beir(folder: Path, rows: Mapping[str, Any]) -> Path:
    """Write the rows as BEIR ships them."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, part in rows.items():
        if name in ("corpus", "queries"):
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
        else:
            lines = ["query-id\tcorpus-id\tscore"]
            lines += ["\t".join(str(value) for value in row.values()) for row in part]
            (folder / "qrels" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def search_task(source: Any, **fields: Any) -> bc.Task:
    """The task on a folder, or on rows in memory."""
    given = {"text": "text", "label": "score", "problem": "retrieval", **fields}
    if not isinstance(source, Mapping):
        return bc.Task.from_files(source, **given)
    from datasets import Dataset

    return bc.Task.from_dataset({n: Dataset.from_list(part) for n, part in source.items()}, **given)
