"""Runs of embedders: killed and gone on with, timed, and judged again by what ships."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embedder_support import tiny_embedder, write_texts
from test_runs import all_scores, kill_when

import bertcompress as bc
from bertcompress.runs.store import StageStore

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_figures")]
TRAIN = {"batch_size": 4, "learning_rate": 1e-3, "precision": "fp32", "epochs": 60}

PROGRAM = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import bertcompress as bc
from test_embedder_runs import recipe
place = Path({place!r})
bc.run(recipe(place), place / "killed")
"""


METHODS = ["trim_vocabulary", {"prune_hidden": {"keep": 0.5}}, {"distill": TRAIN}]


def recipe(place: Path, methods=METHODS, **measure) -> bc.Recipe:
    """The recipe of a model and texts that lie there."""
    task = bc.Task.from_texts(place / "train.jsonl", place / "test.jsonl")
    measure = measure or {"latency": False}
    return bc.Recipe.parse(
        {"model": str(place / "m"), "task": task, "methods": methods, "measure": measure}
    )


@pytest.fixture
def place(tmp_path):
    write_texts(tmp_path / "train.jsonl", 80)
    write_texts(tmp_path / "test.jsonl", 40, 5)
    tiny_embedder(tmp_path / "m")
    return tmp_path


def test_a_killed_run_of_an_embedder_goes_on_and_ends_the_same(place):
    calm = bc.run(recipe(place), place / "calm", store=StageStore(place / "calm-store")).report
    program = PROGRAM.format(tests=str(Path(__file__).parent), place=str(place))
    environment = {**os.environ, "BERTCOMPRESS_HOME": str(place / "home"), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([sys.executable, "-c", program], env=environment)
    kill_when(first, place / ".killed.partial", "work/03-distill-*/training/checkpoint-*")
    assert not (place / "killed").exists()
    store = StageStore(place / "store")
    done = bc.run(recipe(place), place / "killed", resume=True, store=store)
    np.testing.assert_allclose(all_scores(done.report), all_scores(calm), atol=1e-6)
    assert done.report.opponents == calm.opponents
    assert (done.folder / "static/modules.json").is_file()


def test_a_run_is_timed_and_its_verdict_names_a_file(place):
    timing = {"shapes": [(1, 8)], "seconds": 0.2, "threads": 1}
    done = bc.run(recipe(place, METHODS[:1], **timing), place / "out")
    rows = [row for row in done.report.last.deployments if row.latency]
    assert rows and all(row.headline is not None for row in rows)
    assert {use.path for use in done.report.verdict.uses} <= {row.path for row in rows}
    (row,) = bc.bench([done.folder], **timing)
    assert (row.runtime, row.precision) == ("torch", "fp32") and row.time.p50_ms > 0
