"""A plain transformers script, and the same with at most five lines changed: it prunes or distils."""

from __future__ import annotations

import difflib
import json
import random
import runpy
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tests_support import WORDS, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.shapes import anatomy

SCRIPTS = Path(__file__).parent / "fixtures"
PLAIN, PRUNED, DISTILLED = (
    SCRIPTS / f"run_glue_{kind}.py" for kind in ("style", "pruned", "distilled")
)
AUTO = transformers.AutoModelForSequenceClassification


def write_rows(path: Path, rows: int, seed: int) -> None:
    draw = random.Random(seed)
    lines = ["text,label"]
    for i in range(rows):
        words = draw.choices([w for w in WORDS if w not in ("good", "bad", ".")], k=6)
        words[draw.randrange(6)] = "good" if i % 2 else "bad"
        lines.append(f"{' '.join(words)},{i % 2}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with rows, a model to train, and a teacher that somebody trained before."""
    write_rows(tmp_path / "train.csv", 96, 0)
    write_rows(tmp_path / "validation.csv", 32, 1)
    for name, seed in (("model", 0), ("teacher", 7)):
        tiny_model(seed=seed, num_labels=2).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return tmp_path


def start(script: Path, place: Path, monkeypatch) -> Path:
    """Run a script as a user does, to the end, and return its output folder."""
    out = place / script.stem
    paths = {"model": "model", "train": "train.csv", "validation": "validation.csv"}
    options = {**paths, "output_dir": str(out), "epochs": "2", "learning_rate": "2e-3"}
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", [str(script), *given])
    torch.manual_seed(0)
    runpy.run_path(str(script), run_name="__main__")
    score = json.loads((out / "eval_results.json").read_text(encoding="utf-8"))["eval_accuracy"]
    assert 0 <= score <= 1
    return out


def distance(folder: Path, teacher: Path) -> float:
    """Mean distance between the answers of two saved models."""
    batch = tiny_inputs()
    with torch.inference_mode():
        mine, theirs = (bc.load(each).model(**batch).logits for each in (folder, teacher))
    return float((mine - theirs).abs().mean())


@pytest.mark.parametrize("script", [PRUNED, DISTILLED], ids=lambda path: path.stem)
def test_at_most_five_lines_change(script):
    before, after = (path.read_text(encoding="utf-8").splitlines() for path in (PLAIN, script))
    marks = [line for line in difflib.ndiff(before, after) if line[2:].strip()]
    added = [line for line in marks if line.startswith("+ ")]
    removed = [line for line in marks if line.startswith("- ")]
    assert any("bertcompress" in line for line in added)
    # A changed line is one added and one removed.
    assert len(removed) <= len(added) <= 5


# What the stock Trainer says about a machine without an accelerator is not about these scripts.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_the_scripts_run_and_do_what_they_say(place, monkeypatch):
    plain = start(PLAIN, place, monkeypatch)
    assert type(AUTO.from_pretrained(plain)).__name__ == "BertForSequenceClassification"

    pruned = bc.load(start(PRUNED, place, monkeypatch)).model
    whole = bc.load(plain).model
    assert [layer.heads for layer in anatomy(pruned).layers] == [2, 2, 2]
    assert [layer.width for layer in anatomy(pruned).layers] == [12, 12, 12]
    assert pruned.num_parameters() < whole.num_parameters()

    distilled = start(DISTILLED, place, monkeypatch)
    assert type(AUTO.from_pretrained(distilled)).__name__ == "BertForSequenceClassification"
    teacher = place / "teacher"
    assert distance(distilled, teacher) < 0.8 * distance(plain, teacher)
