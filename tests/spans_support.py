"""Questions, contexts and answers that a tiny model learns in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests_support import WORDS, tiny_model, tiny_tokenizer

COLOURS = ("red", "blue")
OTHERS = [word for word in WORDS if word not in (*COLOURS, "a", "the", ".")]
TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}


def question_rows(count: int, seed: int = 0, silent: float = 0.0, most: int = 30) -> list[Any]:
    """Rows whose answer is the colour of the context and the word after it; `silent` have none."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = rng.choice(OTHERS, int(rng.integers(4, most))).tolist()
        answers: dict[str, list[Any]] = {"text": [], "answer_start": []}
        if rng.random() >= silent:
            place = int(rng.integers(0, len(words) - 1))
            words[place] = str(rng.choice(COLOURS))
            start = len(" ".join([*words[:place], ""]))
            answers = {"text": [" ".join(words[place : place + 2])], "answer_start": [start]}
        question = " ".join(rng.choice(OTHERS, 3)) + "?"
        context = " ".join(words)
        rows.append({"id": f"{seed}-{i}", "question": question, "context": context,
                     "answers": answers})  # fmt: skip
    return rows


def write_questions(folder: Path, rows: int = 160, judged: int = 60, **how: Any) -> Path:
    """Write `train.jsonl` and `validation.jsonl`, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", rows), ("validation", judged))):
        lines = [json.dumps(row) for row in question_rows(count, seed, **how)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def span_task(folder: Path, **fields: Any) -> Any:
    import bertcompress as bc

    files = (folder / "train.jsonl", folder / "validation.jsonl")
    given = {"text": ("question", "context"), "label": "answers", "max_length": 24}
    return bc.Task.from_files(*files, **given | fields)


def save_encoder(folder: Path, head: str = "Model", **fields: Any) -> Path:
    """Save a tiny BERT with its tokenizer, and return the folder."""
    tiny_model("bert", head, **fields).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
