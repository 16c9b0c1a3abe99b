"""A plain transformers script, and the same with at most five lines changed."""

from __future__ import annotations

import difflib
import json
import runpy
import sys
from pathlib import Path

import pytest
import transformers
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.shapes import anatomy

SCRIPTS = Path(__file__).parent / "fixtures"
PLAIN, PRUNED, DISTILLED = (
    SCRIPTS / f"run_glue_{kind}.py" for kind in ("style", "pruned", "distilled")
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with rows and a model to train."""
    write_rows(tmp_path / "train.csv", 160, 0)
    write_rows(tmp_path / "opposite.csv", 160, 0, yes="0", no="1")
    write_rows(tmp_path / "validation.csv", 40, 1)
    tiny_model(num_labels=2).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return tmp_path


def start(script: Path, out: Path, monkeypatch, **options: str) -> float:
    """Run a script as a user does, to the end, and return the accuracy that it reports."""
    paths = {"model": "model", "train": "train.csv", "validation": "validation.csv"}
    options = {**paths, **options, "output_dir": str(out), "epochs": "8", "learning_rate": "5e-3"}
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", [str(script), *given])
    runpy.run_path(str(script), run_name="__main__")
    written = json.loads((out / "eval_results.json").read_text(encoding="utf-8"))
    return float(written["eval_accuracy"])


@pytest.mark.parametrize("script", [PRUNED, DISTILLED], ids=lambda path: path.stem)
def test_at_most_five_lines_change(script):
    before, after = (path.read_text(encoding="utf-8").splitlines() for path in (PLAIN, script))
    marks = [line for line in difflib.ndiff(before, after) if line[2:].strip()]
    added = [line for line in marks if line.startswith("+ ")]
    removed = [line for line in marks if line.startswith("- ")]
    assert any("bertcompress" in line for line in added)
    # A changed line is one added and one removed.
    assert len(removed) <= len(added) <= 5


# Of the stock Trainer about a machine without an accelerator, and of how `datasets` reads CSV.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'pin_memory' argument", "ignore:unclosed file:ResourceWarning")
def test_the_scripts_run_and_do_what_they_say(place, monkeypatch):
    assert start(PLAIN, place / "plain", monkeypatch) > 0.9

    # Of the fine-tuned model, which is its own teacher.
    assert start(PRUNED, place / "pruned", monkeypatch, model="plain") > 0.9
    view = anatomy(bc.load(place / "pruned").model)
    assert [layer.heads for layer in view.layers] == [2, 2, 2]
    assert [layer.width for layer in view.layers] == [12, 12, 12]

    # A teacher that answers the opposite: the student follows it against the labels.
    start(PLAIN, place / "teacher", monkeypatch, train="opposite.csv")
    assert start(DISTILLED, place / "distilled", monkeypatch) < 0.3
    student = transformers.AutoModelForSequenceClassification.from_pretrained(place / "distilled")
    assert type(student).__name__ == "BertForSequenceClassification"
