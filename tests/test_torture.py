"""A short form of `benchmarks/torture.py`: a case of each part, and its table."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import torture
import torture_inputs
from torture_compare import differing, fingerprint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are forked")


@pytest.fixture(scope="module")
def tortured(tmp_path_factory):
    return torture.Torture(tmp_path_factory.mktemp("torture"))


@pytest.fixture(scope="module")
def calm(tortured):
    return tortured.calm(tortured.recipe)


@pytest.mark.slow
def test_a_killed_run_leaves_the_files_of_an_undisturbed_one(tortured, calm):
    assert tortured.kills(1, calm)["wrong"] == ""


@pytest.mark.slow
def test_two_processes_on_one_folder(tortured):
    row = tortured.folders(0, None)
    assert (row["refused"], row["wrong"]) == (True, "")


KINDS = [kind for kind in torture_inputs.KINDS if kind != "hub"]  # needs its server at import


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_refused_or_answered(tortured, kind):
    whole = tortured.whole()
    tortured.hub = type("Nowhere", (), {"draw": None})
    number = list(torture_inputs.KINDS).index(kind)
    rows = [tortured.inputs(number + len(torture_inputs.KINDS) * n, whole) for n in range(1)]
    assert [row["wrong"] for row in rows] == [""]
    assert {row["kind"] for row in rows} == {kind}


def test_a_mutation_is_always_the_same_and_changes_something(tortured, tmp_path):
    made = []
    for name in ("one", "two"):
        place = tmp_path / name
        place.mkdir()
        (place / "validation.csv").write_text("text,label\n" + "good,yes\n" * 50)
        for number in range(5):
            torture_inputs.mutate("csv", place, number)
        made.append((place / "validation.csv").read_bytes())
    assert made[0] == made[1] != b"text,label\n" + b"good,yes\n" * 50


def test_a_difference_is_found(tmp_path):
    for name, weights, seconds in (("a", b"1", 1), ("b", b"1", 2), ("c", b"2", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "stage.json").write_text(json.dumps({"cost": seconds, "kept": 3}))
    one, same, other = (fingerprint(tmp_path / name) for name in "abc")
    assert differing(one, same) == []
    assert differing(one, other) == ["model.safetensors"]
    assert differing(one, {}) == ["model.safetensors", "stage.json"]


def test_it_goes_on_where_it_stopped_and_makes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(torture, "RESULT", tmp_path / "torture.json")
    done = []

    class Quick:
        def folders(self, number, _):
            done.append(number)
            return {"mb": 1.0, "refused": True, "wrong": "lost" if number == 1 else ""}

    for count in (2, 3):
        torture.go("folders", count, 0, Quick())
    assert done == [0, 1, 1, 2]  # the second went wrong
    (row,) = [line for line in torture.table().splitlines() if "60 kB to 300 MB" in line]
    assert row.endswith("| 3 of 20 | 2 | 3 refused while the first lived |")


def test_the_table_of_the_page_is_that_of_the_results():
    page = torture.PAGE.read_text(encoding="utf-8")
    assert torture.table() in page
