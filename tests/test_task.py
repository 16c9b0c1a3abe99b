"""`Task`: the shipped ones, the user's own, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import datasets
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from bertcompress.data import load_data
from bertcompress.errors import InputError, NotFound, TaskError
from bertcompress.support import catalogue
from bertcompress.task import Task, task_schema

SHIPPED = catalogue.list_names("tasks")


def test_reading_a_task_is_cheap():
    code = (
        "import sys; from bertcompress.task import Task; Task.load('glue/mrpc');"
        "print([m for m in ('torch', 'datasets', 'transformers', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_task_fits_the_schema(name):
    task = Task.load(name)
    assert task.name == name
    assert task.summary and task.license
    fields = catalogue.read_yaml(catalogue.resolve("tasks", name))
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(fields, task_schema())


@pytest.mark.parametrize(
    ("name", "metrics", "headline", "chance", "columns"),
    [
        ("cola", ("matthews", "accuracy"), "matthews", 0.0, 1),
        ("sst2", ("accuracy",), "accuracy", 0.509, 1),
        ("mrpc", ("accuracy", "f1"), "accuracy", 0.684, 2),
        ("qqp", ("accuracy", "f1"), "accuracy", 0.632, 2),
        ("stsb", ("spearman", "pearson", "mae"), "spearman", 0.0, 2),
        ("mnli", ("accuracy",), "accuracy", 0.354, 2),
        ("qnli", ("accuracy",), "accuracy", 0.505, 2),
        ("rte", ("accuracy",), "accuracy", 0.527, 2),
        ("wnli", ("accuracy",), "accuracy", 0.563, 2),
    ],
)
def test_glue(name, metrics, headline, chance, columns):
    task = Task.load(f"glue/{name}")
    assert (task.metrics, task.headline, task.chance) == (metrics, headline, chance)
    assert (task.dataset, task.config, len(task.text)) == ("nyu-mll/glue", name, columns)


def test_mnli_is_judged_on_both_validation_sets():
    task = Task.load("glue/mnli")
    assert (task.validation, task.also) == (
        "validation_matched",
        {"mismatched": "validation_mismatched"},
    )
    ax = Task.load("glue/ax")
    assert (ax.problem, ax.train_config, ax.validation) == ("unlabelled", "mnli", "test")


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "wnli"])
def test_glue_tasks_match_the_data(name, glue):
    """Columns and class names are those of the data; the chance level is that of the rows."""
    task = Task.load(f"glue/{name}")
    data = load_data(task, data_dir=glue)
    raw = datasets.load_dataset(str(glue), name)[task.validation]
    assert data.validation["text"][:] == raw[task.text[0]][:]
    if name != "stsb":
        assert list(data.labels) == raw.features["label"].names
    assert data.validation["label"][:] == raw["label"][:]
    found = load_data(task.model_copy(update={"chance": None}), data_dir=glue).task.chance
    assert found == pytest.approx(task.chance, abs=0.003)
    if name == "mnli":
        assert len(data.also["mismatched"]) == len(
            datasets.load_dataset(str(glue), name)["validation_mismatched"]
        )


def rows(label, feature=None, count=12):
    columns = {"comment": [f"text {i}" for i in range(count)], "topic": label}
    features = Features({"comment": Value("string"), "topic": feature}) if feature else None
    return Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize(
    ("label", "feature", "problem"),
    [
        (["a", "b"] * 6, None, "single_label"),
        ([0, 1] * 6, None, "single_label"),
        ([True, False] * 6, None, "single_label"),
        ([0, 1] * 6, ClassLabel(names=["no", "yes"]), "single_label"),
        ([0.5, 1.5] * 6, None, "regression"),
        ([[0, 2], []] * 6, None, "multi_label"),
        ([["x"], ["y", "x"]] * 6, None, "multi_label"),
        ([[0], [1]] * 6, List(ClassLabel(names=["no", "yes"])), "multi_label"),
    ],
)
def test_the_problem_is_told_from_the_labels(label, feature, problem):
    data = DatasetDict(train=rows(label, feature), validation=rows(label, feature))
    task = Task.from_dataset(data, text="comment", label="topic")
    assert task.problem == problem
    assert task.text == ("comment",)
    assert task.in_memory is data


def test_without_a_label_it_is_unlabelled():
    data = DatasetDict(train=rows([0] * 12), validation=rows([0] * 12))
    task = Task.from_dataset(data, text=["comment"])
    assert (task.problem, task.label) == ("unlabelled", None)


def test_a_label_of_no_known_kind():
    data = DatasetDict(train=rows([7] * 12, Value("timestamp[s]")))
    with pytest.raises(TaskError, match="datetime"):
        Task.from_dataset(data, text="comment", label="topic")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x.csv", "csv"),
        ("x.tsv", "csv"),
        ("x.jsonl", "json"),
        ("x.json", "json"),
        ("x.parquet", "parquet"),
    ],
)
def test_files(name, form):
    task = Task.from_files(name, f"y{name[1:]}", text="comment", label="topic")
    assert (task.dataset, task.name, task.problem) == (form, "x", "auto")
    assert [
        path.endswith(n)
        for path, n in zip(task.files.values(), (name, f"y{name[1:]}"), strict=True)
    ]


def test_a_hub_id_and_a_folder(tmp_path):
    task = Task.from_files("me/reviews", "test", text="comment", label="topic", config="en")
    assert (task.dataset, task.config, task.validation) == ("me/reviews", "en", "test")
    assert Task.from_files(tmp_path, text="a").validation == "validation"


def test_paths_in_a_task_file_are_relative_to_it(tmp_path, monkeypatch):
    folder = tmp_path / "sub"
    folder.mkdir()
    fields = {
        "name": "own",
        "dataset": "csv",
        "files": {"train": "a.csv", "validation": ["b.csv", "c.csv"]},
        "text": "comment",
        "label": "topic",
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.chdir(tmp_path)
    task = Task.load("sub/own.yaml")
    assert task.files == {
        "train": str(folder / "a.csv"),
        "validation": (str(folder / "b.csv"), str(folder / "c.csv")),
    }


def test_round_trip_and_schema():
    task = Task.load("glue/mnli")
    again = Task.model_validate(json.loads(task.model_dump_json()))
    assert again == task
    schema = task_schema()
    assert all(field.get("description") for field in schema["properties"].values())
    assert schema["additionalProperties"] is False
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x", "dataset": "y", "text": "a", "lable": "b"}, schema)


def test_a_task_cannot_be_changed():
    task = Task.load("embedded")
    with pytest.raises(ValueError, match="frozen"):
        task.name = "other"


GOOD = {"name": "t", "dataset": "me/x", "text": "a", "label": "b"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lable": "b"}, "unknown field 'lable'; did you mean 'label'"),
        ({"text": ["a", "b", "c"]}, "text: .*at most 2"),
        ({"text": []}, "text: .*at least 1"),
        ({"text": ["a", "a"]}, "column 'a' is given twice"),
        ({"label": "a"}, "'a' is a text column too"),
        ({"metrics": ["acuracy"]}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"metrics": ["accuracy"], "headline": "f1"}, "headline: unknown metric 'f1'"),
        (
            {"problem": "regression", "metrics": ["accuracy"]},
            "'accuracy' does not fit a regression",
        ),
        ({"problem": "regression", "labels": ["x", "y"]}, "regression task has no class names"),
        ({"labels": ["x", "x"]}, "labels: 'x' is given twice"),
        ({"labels": ["x"]}, "one class alone"),
        ({"labels": ["x", "y", "z"], "problem": "single_label", "metrics": ["f1"]}, "use f1_macro"),
        ({"problem": "single"}, "problem: .*single_label"),
        ({"problem": "unlabelled"}, "'b' was given"),
        ({"problem": "single_label", "label": None}, "needs a label column"),
        ({"chance": 3}, "chance: .*less than or equal to 1"),
        ({"max_length": 1}, "max_length: "),
        (
            {"dataset": "csv", "files": {"train": "x.csv"}, "validation": "dev"},
            "unknown split 'dev'",
        ),
        ({"files": {"train": "x.csv"}}, "files: only for dataset csv"),
        ({"validation": "train"}, "'train' is the training split"),
        ({"also": {"selection": "x"}}, "the name 'selection' is taken"),
    ],
)
def test_bad_fields(change, says, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(TaskError, match=says) as error:
        Task.load(path)
    assert str(error.value).startswith(str(path))
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


def test_missing_fields_and_names(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("name: t\ntext: a\n")
    with pytest.raises(TaskError, match="the field 'dataset' is missing"):
        Task.load(path)
    with pytest.raises(NotFound, match="did you mean 'glue/mnli'"):
        Task.load("glue/mnlli")
    with pytest.raises(InputError, match="given twice"):
        path.write_text("name: t\nname: u\n")
        Task.load(path)
    with pytest.raises(TaskError, match=r"same format as x\.csv"):
        Task.from_files("x.csv", "y.jsonl", text="a", label="b")
