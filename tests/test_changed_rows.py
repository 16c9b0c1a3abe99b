"""Files whose rows were changed since a run: nothing passes for what it was judged on."""

from __future__ import annotations

import shutil

import pytest
from datasets import Dataset
from test_starting import FINETUNE, recipe, task
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.data import judged_digest, load_data
from bertcompress.errors import InputError, OutputError
from bertcompress.report import Report

SPLITS = ("train", "validation")

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, and the files that it was made of."""
    place = tmp_path_factory.mktemp("changed")
    write_rows(place / "train.csv", 60, 0, yes="yes", no="no")
    write_rows(place / "validation.csv", 40, 1, yes="yes", no="no")
    tiny_model("bert", "Model").save_pretrained(place / "bare")
    tiny_tokenizer().save_pretrained(place / "bare")
    bc.run(recipe(place, [FINETUNE], "bare"), place / "run")
    return place


@pytest.fixture
def other_rows(finished):
    """As many rows as before, and others, where the run's were."""
    kept = (finished / "validation.csv").read_bytes()
    write_rows(finished / "validation.csv", 40, 9, yes="yes", no="no")
    yield finished
    (finished / "validation.csv").write_bytes(kept)


def test_a_digest_is_of_what_is_judged_and_of_no_number(finished):
    same, turned = (
        load_data(task(finished), model_labels=names) for names in (None, {0: "yes", 1: "no"})
    )
    assert judged_digest(same) == judged_digest(turned)
    fewer = load_data(task(finished), limit=20)
    assert judged_digest(same) != judged_digest(fewer)
    assert Report.load(finished / "run").data.judged == judged_digest(same)


def test_a_finished_run_is_not_handed_back_for_other_rows(other_rows):
    with pytest.raises(OutputError, match="finished before, on other rows than those of 'changed"):
        bc.run(recipe(other_rows, [FINETUNE], "bare"), other_rows / "run", resume=True)


def test_a_finished_run_is_handed_back_for_its_rows_and_for_none(finished, tmp_path):
    again = recipe(finished, [FINETUNE], "bare")
    assert bc.run(again, finished / "run", resume=True).folder == finished / "run"
    moved = tmp_path / "moved.csv"
    shutil.move(finished / "validation.csv", moved)
    assert bc.run(again, finished / "run", resume=True).folder == finished / "run"
    shutil.move(moved, finished / "validation.csv")


def test_rows_in_memory_are_those_that_are_asked_for_again(finished, tmp_path):
    rows = {split: Dataset.from_csv(str(finished / f"{split}.csv")) for split in SPLITS}

    def again(splits) -> bc.Recipe:
        asked = bc.Task.from_dataset(splits, text="text", label="label")
        return recipe(finished, [FINETUNE], "bare").model_copy(update={"task": asked})

    bc.run(again(rows), tmp_path / "run")
    assert bc.run(again(rows), tmp_path / "run", resume=True).folder == tmp_path / "run"
    others = rows | {"validation": rows["validation"].select(range(39, -1, -1))}
    others["validation"] = others["validation"].map(lambda row: {"text": row["text"] + " so"})
    with pytest.raises(OutputError, match="finished before, on other rows than those of 'in-mem"):
        bc.run(again(others), tmp_path / "run", resume=True)


def test_a_run_that_is_evaluated_on_other_rows_says_so(other_rows):
    said: list[str] = []
    bc.evaluate(other_rows / "run", say=said.append)
    assert any("other rows than the run reported on are there now (40 rows)" in s for s in said)


def test_a_run_that_is_evaluated_on_its_own_rows_says_nothing(finished):
    said: list[str] = []
    bc.evaluate(finished / "run", say=said.append)
    bc.evaluate(finished / "run", limit=20, say=said.append)
    assert not any("other rows" in line for line in said)


def test_runs_that_were_judged_on_other_rows_are_not_compared(finished, tmp_path):
    report = Report.load(finished / "run")
    data = report.data.model_copy(update={"judged": "0" * 64})
    for name, judged in (("other", data), ("old", data.model_copy(update={"judged": None}))):
        (tmp_path / name).mkdir()
        report.model_copy(update={"data": judged}).save(tmp_path / name)
    with pytest.raises(InputError, match="other: was judged on other rows than run"):
        bc.compare(finished / "run", tmp_path / "other")
    assert len(bc.compare(finished / "run", tmp_path / "old").runs) == 2
