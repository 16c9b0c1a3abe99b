"""What needs no model is refused before torch is there: one process, many mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROGRAM = """
import contextlib, io, json, os, sys
from bertcompress.cli.main import main
found = {}
for name, arguments in json.loads(sys.stdin.read()).items():
    sys.argv[1:] = arguments
    words = io.StringIO()
    with contextlib.redirect_stderr(words), contextlib.redirect_stdout(io.StringIO()):
        try: main()
        except SystemExit as exit: status = exit.code
    heavy = sorted({"torch", "transformers", "datasets"} & set(sys.modules))
    found[name] = [status, words.getvalue(), heavy]
print(json.dumps(found))
"""
RUN = ["run", "recipe.yaml", "--out", "out"]
FILES = ["run", "small", "--out", "out", "--train", "rows.csv"]

CASES = {
    "unknown recipe": (["run", "smal", "--out", "out"], "did you mean 'small'"),
    "unknown field": (["run", "sede.yaml", "--out", "out"], "did you mean 'seed'"),
    "unknown method": (["run", "method.yaml", "--out", "out"], "did you mean 'distill'"),
    "order": (["run", "order.yaml", "--out", "out"], "put quantize_int8 last"),
    "uneven before shared": (["run", "uneven.yaml", "--out", "out"], "put share_layers first"),
    "--set of nothing": ([*RUN, "--set", "methods.distill.epoch=1"], "did you mean 'epochs'"),
    "--set out of range": ([*RUN, "--set", "methods.0.epochs=0"], r"greater than 0 (got 0)"),
    "--set against itself": (
        [*RUN, "--set", "methods.1.layer_order=top"],
        "'spread' or 'bottom'",
    ),
    "--set of no method": (
        [*RUN, "--set", "methods.distil.epochs=1"],
        "no entry 'distil'; did you mean 'distill'? allowed: 0 to 3, or by name: finetune, ",
    ),
    "--set of two methods": (
        [*RUN, "--set", "methods.finetune.epochs=1"],
        "finetune is there 2 times; say methods.0 or methods.3",
    ),
    "unknown task": ([*RUN, "--task", "glue/mrcp"], "did you mean 'glue/mrpc'"),
    "task file": ([*RUN, "--task", "lable.yaml"], "unknown field 'lable'; did you mean 'label'"),
    "task file beside the recipe": (["run", "there/recipe.yaml", "--out", "o"], "'sentance'"),
    "column": ([*FILES, "--text", "sentance", "--label", "verdict"], "did you mean 'sentence'"),
    "column of the label": ([*FILES, "--text", "sentence", "--label", "verdit"], "'verdict'"),
    "no such file": (["run", "small", "--out", "o", "--train", "no.csv", "--text", "x"], "no.csv"),
    "format": (["run", "small", "--out", "o", "--train", "a.xlsx", "--text", "x"], "'.xlsx'"),
    "existing folder": (["run", "small", "--out", "there"], "exists already"),
    "below a file": (["run", "small", "--out", "rows.csv/out"], "rows.csv is a file"),
    "export onto a file": (["export", "there", "--out", "rows.csv"], "rows.csv: is a file"),
    "plot below a file": (["plot", "there", "--out", "rows.csv/x"], "rows.csv is a file"),
    "bench on no task": (["bench", "there", "--task", "lable.yaml"], "did you mean 'label'"),
    "runtime": (
        ["evaluate", "there", "--runtime", "onxruntime"],
        "unknown runtime 'onxruntime'; did you mean 'onnxruntime'",
    ),
    "no task": (["evaluate", "there"], "--task: on which task?"),
    "columns of a test file": (
        ["evaluate", "there", "--test", "rows.csv", "--text", "sentance", "--label", "verdict"],
        "did you mean 'sentence'",
    ),
    "test file without columns": (["evaluate", "x", "--test", "rows.csv"], "--text: which column"),
    "--test and --train": (
        ["evaluate", "x", "--test", "rows.csv", "--train", "rows.csv", "--text", "sentence"],
        "--train: not beside --test",
    ),
    "check of a recipe": (["check", "method.yaml"], "did you mean 'distill'"),
    "check of columns": (["check", "there/task.yaml"], "did you mean 'sentence'"),
}


def write(file, **content):
    Path(file).write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Every case through one fresh process."""
    place = tmp_path_factory.mktemp("early")
    (place / "there").mkdir()
    rows = [f"text {i},{'yes' if i % 2 else 'no'}" for i in range(20)]
    (place / "rows.csv").write_text("\n".join(["sentence,verdict", *rows]), encoding="utf-8")
    methods = ["finetune", {"prune_structured": {"keep": 0.5}}, "distill", "finetune"]
    write(place / "recipe.yaml", methods=methods)
    write(place / "sede.yaml", methods=methods, sede=1)
    write(place / "method.yaml", methods=["distil"])
    write(place / "order.yaml", methods=["quantize_int8", "finetune"])
    uneven = ["kprune", "share_layers"]
    write(place / "uneven.yaml", methods=uneven)
    task = {"name": "mine", "dataset": "csv", "text": "sentance", "label": "verdict"}
    write(place / "lable.yaml", **task, lable="x")
    write(place / "there" / "task.yaml", **task, files={"train": "../rows.csv"})
    write(place / "there" / "recipe.yaml", methods=methods, task="task.yaml")
    given = json.dumps({name: arguments for name, (arguments, _) in CASES.items()})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=given,
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_it_is_told_before_torch(answers, name):
    status, words, heavy = answers[name]
    assert status == 2, words
    assert words.startswith("error: ") and words.count("\n") == 1
    assert CASES[name][1] in words
    assert heavy == []
