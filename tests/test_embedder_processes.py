"""Embedders in two processes of `accelerate launch`: the same steps, and a model that works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from embedder_support import sentences, tiny_embedder
from search_support import parts, write_beir

import bertcompress as bc
from bertcompress.report import Report

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TRAIN = {"batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "epochs": 3}
# `--cpu` would need mpirun; this launcher is torchrun, and without a GPU it speaks gloo.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
          "--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no",
          "--dynamo_backend", "no", "-m"]  # fmt: skip


def two_reports(place: Path, methods: list[object], task: bc.Task, *words: str) -> list[Report]:
    """Run a recipe by the command line in two processes, and in this one."""
    tiny_embedder(place / "m")
    recipe = {"methods": methods, "measure": {"latency": False, "controls": False}}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ("run", str(place / "recipe.yaml"), "--model", str(place / "m"), *words)
    done = subprocess.run(
        [*LAUNCH, "bertcompress", *words, "--out", str(place / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "BERTCOMPRESS_HOME": str(place / "home"),
             "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    one = bc.Recipe.parse({**recipe, "model": str(place / "m"), "task": task})
    return [Report.load(place / "two"), bc.run(one, place / "one").report]


def check_alike(place: Path, reports: list[Report], tolerance: float) -> None:
    """The same stages and steps; scores that differ by what another order of sums makes."""
    two, one = reports
    for ours, theirs in zip(two.stages, one.stages, strict=True):
        assert (ours.name, ours.cost.steps) == (theirs.name, theirs.cost.steps)
        pairs = zip(ours.deployments[0].scores, theirs.deployments[0].scores, strict=True)
        for mine, other in pairs:
            assert abs(mine.value - other.value) < tolerance
    assert two.stages[-1].cost.steps > 0
    rows, _ = bc.verify(place / "two", seconds=0)  # what is on disk answers as it did there
    assert rows and all(row.passes for row in rows)


def test_a_corpus_is_shared(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(sentences(150)))
    cut = {"prune_structured": {"keep": 0.5}}
    methods = ["trim_vocabulary", cut, {"distill": TRAIN}]
    path = tmp_path / "corpus.txt"
    reports = two_reports(tmp_path, methods, bc.Task.from_texts(path), "--texts", str(path))
    check_alike(tmp_path, reports, 0.1)


def test_a_search_is_shared(tmp_path):
    folder = write_beir(tmp_path / "beir", parts())
    task = {"name": "tiny", "dataset": str(folder), "text": ["text"], "label": "score",
            "problem": "retrieval", "metrics": ["ndcg"]}  # fmt: skip
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    methods = [{"finetune": TRAIN}, {"prune_structured": {"keep": 0.5}}, {"distill": TRAIN}]
    path = str(tmp_path / "task.yaml")
    reports = two_reports(tmp_path, methods, bc.Task.load(path), "--task", path)
    check_alike(tmp_path, reports, 0.15)
