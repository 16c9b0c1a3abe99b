"""Habits of a command line: version, help, quiet, verbose, JSON, completion, copies."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.cli.main import main
from bertcompress.errors import InputError, NotFound
from bertcompress.measure.scores import Score
from bertcompress.recipe import Recipe, recipe_schema
from bertcompress.support import catalogue
from bertcompress.support.display import shown
from bertcompress.verbs.bench import BenchRow

TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _as_before():
    """The command line quietens libraries for good; other tests are not to notice."""
    import datasets
    import transformers

    before = transformers.utils.logging.get_verbosity(), datasets.utils.logging.get_verbosity()
    token, handlers = shown.set(None), list(logging.root.handlers)
    yield
    shown.reset(token)
    logging.root.handlers[:] = handlers
    transformers.utils.logging.set_verbosity(before[0])
    datasets.utils.logging.set_verbosity(before[1])
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with rows of one's own, a recipe in a subfolder, and its finished run."""
    place = tmp_path_factory.mktemp("finished")
    bc.save(tiny_model("bert", "Model"), place / "bert", tiny_tokenizer())
    write_rows(place / "train.csv", 80, 0, yes="yes", no="no")
    write_rows(place / "validation.csv", 24, 1, yes="yes", no="no")
    write_rows(place / "test.csv", 16, 2, yes="yes", no="no")
    (place / "sub").mkdir()
    task = {"name": "mine", "dataset": "csv", "text": "text", "label": "label", "max_length": 24}
    files = {"train": "../train.csv", "validation": "../validation.csv"}
    (place / "sub" / "task.yaml").write_text(yaml.safe_dump({**task, "files": files}))
    methods = [
        {"finetune": {**TRAIN, "epochs": 2}},
        {"prune_structured": {"keep": 0.5, "rows": 16}},
        {"distill": {**TRAIN, "max_epochs": 4}},
    ]
    recipe = {"model": str(place / "bert"), "task": "task.yaml", "methods": methods}
    quiet = {"measure": {"latency": False}}
    (place / "sub" / "recipe.yaml").write_text(yaml.safe_dump(recipe | quiet))
    bc.run(Recipe.load(place / "sub" / "recipe.yaml"), str(place / "run"), progress=False)
    return place


def command(monkeypatch, capsys, *arguments):
    """Run the command line in this process; return status, standard output and error."""
    monkeypatch.setattr(sys, "argv", ["bertcompress", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    found = capsys.readouterr()
    return end.value.code, found.out, found.err


def test_version_and_short_help(monkeypatch, capsys):
    said = command(monkeypatch, capsys, "--version")
    assert said == (0, f"bertcompress {bc.__version__}\n", "")
    status, text, _ = command(monkeypatch, capsys, "-h")
    assert status == 0 and "Compress a model" in text and "--install-completion" in text
    assert "--keep" not in command(monkeypatch, capsys, "evaluate", "-h")[1]


def test_the_help_of_run_has_example_recipes_and_settings(monkeypatch, capsys):
    _, text, _ = command(monkeypatch, capsys, "run", "--help")
    assert "Example:\n  bertcompress run small --train rows.csv" in text
    for name in catalogue.list_names("recipes"):
        assert re.search(rf"^  {name}  ", text, re.M), name
    words = " ".join(text.split())
    assert "methods.prune_structured. keep, keep_layers" in words
    assert "of training epochs, max_steps" in words
    assert "`bertcompress show METHOD` describes them" in words


def test_a_run_knows_its_task_and_a_test_file_is_enough(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    run = bc.Run.load("run")
    told = [row.value for row in run.report.last.deployments[0].scores]
    status, text, _ = command(monkeypatch, capsys, "evaluate", "run", "--json")
    assert status == 0
    assert [row["value"] for row in json.loads(text)] == told
    assert set(json.loads(text)[0]) == set(Score.model_fields)
    inside = command(monkeypatch, capsys, "evaluate", "run/model", "--json")[1]
    assert [row["value"] for row in json.loads(inside)] == told
    status, text, _ = command(
        monkeypatch, capsys, "evaluate", "run", "--test", "test.csv", "--json"
    )
    rows = json.loads(text)
    assert status == 0 and {row["n"] for row in rows} == {16}
    assert {row["split"] for row in rows} == {"test"}
    again = bc.evaluate("run", test="test.csv")
    assert [row.value for row in again] == [row["value"] for row in rows]
    columns = ["--text", "text", "--label", "label"]
    other = ["evaluate", "run/model", "--test", "test.csv", *columns, "--json"]
    assert [r["value"] for r in json.loads(command(monkeypatch, capsys, *other)[1])] == [
        row["value"] for row in rows
    ]


def test_a_test_file_of_one_class_and_one_row(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    rows = Path("test.csv").read_text().splitlines()
    Path("one.csv").write_text("\n".join(rows[:2]))
    status, text, error = command(
        monkeypatch, capsys, "evaluate", "run", "--test", "one.csv", "--json"
    )
    assert status == 0, error
    assert {row["n"] for row in json.loads(text)} == {1}


def test_a_model_that_is_no_run_does_not_know(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    status, _, error = command(monkeypatch, capsys, "evaluate", "bert")
    assert status == 2 and "--task: on which task?" in error
    shutil.copytree("run/model", "lone")
    with pytest.raises(InputError, match="no run, which would know its own"):
        bc.evaluate("lone")


def test_json_is_all_there_is_on_stdout(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    _, text, _ = command(monkeypatch, capsys, "inspect", "run", "--json")
    seen, told = json.loads(text), bc.inspect("run")
    assert seen["loads_in"] == told.loads_in
    assert [row["name"] for row in seen["rows"]] == [row.name for row in told.rows]
    assert seen["parameters"]["total"] == told.parameters.total
    _, text, _ = command(monkeypatch, capsys, "verify", "run", "--seconds", "0", "--json")
    assert [row["file"] for row in json.loads(text)["files"]] == ["model/model.safetensors"]
    for kind in ("recipes", "methods", "tasks", "families"):
        _, text, _ = command(monkeypatch, capsys, "list", kind, "--json")
        assert all(set(row) == {"name", "description"} for row in json.loads(text))
    _, text, _ = command(monkeypatch, capsys, "check", "sub/recipe.yaml", "--json")
    found = json.loads(text)
    assert found["kind"] == "recipe"
    assert found["recipe"]["methods"][1]["keep"] == 0.5
    timing = ["--seconds", "0.05", "--batch", "1", "--length", "8", "--threads", "1"]
    _, text, _ = command(monkeypatch, capsys, "bench", "run/model", *timing, "--json")
    (row,) = json.loads(text)
    assert set(row) == set(BenchRow.model_fields)


def test_quiet_and_verbose(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    usual = command(monkeypatch, capsys, "evaluate", "run")[2]
    assert "which its verdict is about" in usual
    assert command(monkeypatch, capsys, "evaluate", "run", "-q")[2] == ""
    assert "Traceback" in command(monkeypatch, capsys, "evaluate", "none", "-v")[2]
    assert "Traceback" not in command(monkeypatch, capsys, "evaluate", "none")[2]


def test_a_task_is_found_beside_its_recipe_and_settings_by_name(finished, monkeypatch, capsys):
    recipe = Recipe.load(
        finished / "sub" / "recipe.yaml", ["methods.finetune.epochs=3", "methods.distill.epochs=1"]
    )
    assert Path(recipe.task) == finished / "sub" / "task.yaml"
    assert (recipe.methods[0].epochs, recipe.methods[2].epochs) == (3, 1)
    monkeypatch.chdir(finished)
    kept = Recipe.load("run/recipe.yaml")
    assert kept.resolved_task().text == ("text",)


def test_home_means_the_same_everywhere(finished, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(finished))
    assert command(monkeypatch, capsys, "evaluate", "~/run", "--test=~/test.csv", "-q")[0] == 0
    assert command(monkeypatch, capsys, "verify", "~/run", "--seconds=0")[0] == 0
    assert command(monkeypatch, capsys, "plot", "~/run", "--out=~/drawn")[0] == 0
    assert list((finished / "drawn").glob("*.svg"))
    assert command(monkeypatch, capsys, "check", "~/sub/recipe.yaml")[0] == 0
    assert command(monkeypatch, capsys, "copy", "small", "~/copied.yaml")[0] == 0
    task = bc.Task.from_files("~/train.csv", text="text", label="label")
    assert task.files["train"] == str(finished / "train.csv")
    status, _, error = command(monkeypatch, capsys, "run", "small", "--out=~/run")
    assert status == 2 and "exists already" in error
    assert bc.Run.load("~/run").folder == finished / "run"
    assert bc.Run("~/run").model.is_dir()


def test_run_load_wants_a_finished_run(finished):
    with pytest.raises(NotFound, match="no finished run"):
        bc.Run.load(str(finished / "bert"))


@pytest.mark.parametrize("name", ["small", "glue/mrpc"])
def test_a_copy_names_a_schema_that_resolves(tmp_path, monkeypatch, capsys, name):
    target = tmp_path / "mine.yaml"
    assert command(monkeypatch, capsys, "copy", name, target)[0] == 0
    first, rest = target.read_text(encoding="utf-8").split("\n", 1)
    schema = Path(first.partition("$schema=")[2])
    assert json.loads(schema.read_text(encoding="utf-8"))["title"] in ("Recipe", "Task")
    kind = "tasks" if "/" in name else "recipes"
    assert rest in catalogue.resolve(kind, name).read_text(encoding="utf-8")
    assert bc.Task.load(target) if kind == "tasks" else Recipe.load(target)


def test_the_wheel_has_types_and_schemas():
    import tomllib

    root = Path(bc.__file__).parents[1]
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    forced = build["targets"]["wheel"]["force-include"]
    for kind in ("recipes", "tasks"):
        source = catalogue.schema_file(kind).relative_to(root).as_posix()
        assert forced[source] == f"bertcompress/_catalogue/schemas/{kind[:-1]}.schema.json"
    assert (Path(bc.__file__).parent / "py.typed").is_file()
    assert json.loads(catalogue.schema_file("recipes").read_text())["title"] == "Recipe"
    assert recipe_schema()["title"] == "Recipe"


def test_lists_of_what_is_allowed_are_cut_at_ten(finished, monkeypatch, capsys):
    for arguments in (["show", "zzz"], ["run", "small", "--task", "zzz", "--out", "o"]):
        error = command(monkeypatch, capsys, *arguments)[2]
        assert re.search(r", \.\.\. \(\d+ in all\)", error), error
        assert error.count(", ") <= 11
