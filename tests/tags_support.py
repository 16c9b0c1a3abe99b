"""Rows of words and tags that a tiny model learns in seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests_support import WORDS

import bertcompress as bc

NAMES = ("B-ANIMAL", "B-PLACE", "I-PLACE", "O")
TRAIN = {"batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
LONGEST = 20
"""Words of the longest row; `MAX_LENGTH` makes three windows of it."""
MAX_LENGTH = 12


def sentence(draw: random.Random) -> tuple[list[str], list[str]]:
    """Return words and their tags, which the words alone tell but for one I."""
    words = draw.choices(WORDS, k=draw.choice((3, 4, 5, 6, 7, 8, LONGEST)))
    tags: list[str] = []
    for i, word in enumerate(words):
        if word in ("cat", "dog", "bird"):
            tags.append("B-ANIMAL")
        elif word in ("house", "tree"):
            tags.append("I-PLACE" if i and tags[-1].endswith("PLACE") else "B-PLACE")
        else:
            tags.append("O")
    return words, tags


def rows_of(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    draw = random.Random(seed)
    return [sentence(draw) for _ in range(count)]


def write_conll(path: Path, rows: Any, separator: str = "\t") -> Path:
    blocks = ("\n".join(f"{w}{separator}{t}" for w, t in zip(*row, strict=True)) for row in rows)
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


def tags_task(folder: Path, train: int = 160, validation: int = 60, **fields: Any) -> bc.Task:
    files = [
        write_conll(folder / f"{name}.conll", rows_of(count, seed))
        for name, count, seed in (("train", train, 0), ("validation", validation, 1))
    ]
    return bc.Task.from_files(*files, **{"max_length": MAX_LENGTH, **fields})
