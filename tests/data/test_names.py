"""Classes go by their names: among splits and files, and between a model and a task."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
import yaml
from data_support import ALL, known_words, lines, named, own, read
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from tests_support import tiny_model

import bertcompress as bc
from bertcompress.data import align_labels
from bertcompress.data.matching import same_numbers
from bertcompress.errors import DataError, ModelError
from bertcompress.task import Task

NAMES = ["no", "maybe", "yes"]
TURNED = ["yes", "no", "maybe"]


def part(names: list[str], start: int, count: int = 30, many: bool = False) -> Dataset:
    """Rows whose n-th text has the class `NAMES[n % 3]`, numbered as these names are."""
    labels: list = [names.index(NAMES[i % 3]) for i in range(count)]
    texts = [f"text number {start + i}" for i in range(count)]
    kind = ClassLabel(names=names)
    features = Features({"comment": Value("string"), "topic": List(kind) if many else kind})
    rows = {"comment": texts, "topic": [[i] for i in labels] if many else labels}
    return Dataset.from_dict(rows, features=features)


def right(data, starts: tuple[int, ...] = (0, 900)) -> bool:
    found = named(data, *ALL, *data.also)
    return all(
        found[f"text number {start + i}"] == NAMES[i % 3] for start in starts for i in range(9)
    )


class TestSplitsInAnotherOrder:
    def test_in_memory(self):
        data = DatasetDict(train=part(NAMES, 0), validation=part(TURNED, 900))
        loaded, _ = read(Task.from_dataset(data, text="comment", label="topic"))
        assert loaded.labels == tuple(NAMES) and right(loaded)

    def test_further_validation_sets(self):
        data = DatasetDict(train=part(NAMES, 0), validation=part(NAMES, 900), hard=part(TURNED, 50))
        task = Task.from_dataset(data, text="comment", label="topic", also={"h": "hard"})
        assert right(read(task)[0], (0, 900, 50))

    def test_other_spelling(self):
        data = DatasetDict(train=part(NAMES, 0), validation=part(NAMES, 900))
        turned = ClassLabel(names=["Yes", "No", "Maybe"])
        rows = {"comment": data["validation"]["comment"][:], "topic": [1, 2, 0] * 10}
        features = Features({"comment": Value("string"), "topic": turned})
        data["validation"] = Dataset.from_dict(rows, features=features)
        loaded, _ = read(Task.from_dataset(data, text="comment", label="topic"))
        assert loaded.labels == tuple(NAMES) and right(loaded)

    def test_lists_of_classes(self):
        data = DatasetDict(train=part(NAMES, 0, many=True), validation=part(TURNED, 900, many=True))
        loaded, _ = read(Task.from_dataset(data, text="comment", label="topic"))
        assert loaded.validation["label"][:3] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    @pytest.mark.parametrize("form", ["files", "folder", "disk"])
    def test_on_disk(self, form, tmp_path, monkeypatch):
        """Read by `datasets`, a folder gets the names of its first file, by number."""
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        parts = {"train": part(NAMES, 0), "validation": part(TURNED, 900)}
        given = {"text": "comment", "label": "topic"}
        folder = tmp_path / "d"
        if form == "disk":
            DatasetDict(parts).save_to_disk(folder)
            task = Task.from_files(folder, **given)
        else:
            folder.mkdir()
            for name, rows in parts.items():
                rows.to_parquet(folder / f"{name}.parquet")
            files = [folder / f"{name}.parquet" for name in parts]
            task = Task.from_files(*([folder] if form == "folder" else files), **given)
        loaded, _ = read(task)
        assert loaded.labels == tuple(NAMES) and right(loaded)

    def test_several_files_of_one_split(self, tmp_path):
        for name, names, start in (("a", NAMES, 0), ("b", TURNED, 50), ("v", TURNED, 900)):
            part(names, start).to_parquet(tmp_path / f"{name}.parquet")
        files = {
            "train": (str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")),
            "validation": str(tmp_path / "v.parquet"),
        }
        task = Task(name="t", dataset="parquet", files=files, text=("comment",), label="topic")
        assert right(read(task)[0], (0, 50, 900))

    def test_another_configuration_trains(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        folder = tmp_path / "d"
        for config, names, start in (("big", NAMES, 0), ("hard", TURNED, 900)):
            (folder / config).mkdir(parents=True)
            part(names, start).to_parquet(folder / config / "0.parquet")
        configs = [
            {"config_name": c, "data_files": [{"split": s, "path": f"{c}/*"}]}
            for c, s in (("big", "train"), ("hard", "test"))
        ]
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
        task = Task.from_files(
            folder, "test", text="comment", label="topic", config="hard", train_config="big"
        )
        assert right(read(task)[0])

    def test_the_task_names_its_own_order(self):
        data = DatasetDict(train=part(NAMES, 0), validation=part(TURNED, 900))
        task = Task.from_dataset(data, text="comment", label="topic", labels=["Maybe", "Yes", "No"])
        loaded, _ = read(task)
        found = named(loaded, "validation")
        assert loaded.labels == ("Maybe", "Yes", "No")
        assert [found[f"text number {900 + i}"] for i in range(3)] == ["No", "Maybe", "Yes"]

    def test_other_names_in_the_task_are_refused(self):
        data = DatasetDict(train=part(NAMES, 0), validation=part(NAMES, 900))
        task = Task.from_dataset(data, text="comment", label="topic", labels=["x", "y", "z"])
        with pytest.raises(DataError, match="the task names its classes x, y, z, the data no, may"):
            read(task)

    def test_a_folder_says_what_the_classes_of_its_files_are(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        folder = tmp_path / "d"
        folder.mkdir()
        for name, start in (("train", 0), ("validation", 900)):
            plain = part(NAMES, start).cast_column("topic", Value("int64"))
            plain.to_pandas().to_parquet(folder / f"{name}.parquet")
        names = {str(i): name for i, name in enumerate(NAMES)}
        features = [
            {"name": "comment", "dtype": "string"},
            {"name": "topic", "dtype": {"class_label": {"names": names}}},
        ]
        info = yaml.safe_dump({"dataset_info": {"features": features}})
        (folder / "README.md").write_text(f"---\n{info}---\n")
        loaded, _ = read(Task.from_files(folder, text="comment", label="topic"))
        assert loaded.labels == tuple(NAMES) and right(loaded)


@pytest.mark.parametrize(
    ("names", "model", "order"),
    [
        (["+", "-"], ["-", "+"], (1, 0)),
        (["a", "A"], ["A", "a"], (1, 0)),
        (["日本", "中国"], ["中国", "日本"], (1, 0)),
        (["хорошо", "плохо"], ["Плохо", "Хорошо"], (1, 0)),
        (["दिन", "दान"], ["दान", "दिन"], (1, 0)),
        (["🙂", "🙁"], ["🙁", "🙂"], (1, 0)),
        (["C", "C++", "C#"], ["c#", "c++", "c"], None),
        (["C", "C++", "C#"], ["C#", "C++", "C"], (2, 1, 0)),
        (["very good", "bad"], ["BAD", "Very_Good"], (1, 0)),
        (["+", "-"], ["positive", "negative"], None),
        (["a-b", "a b"], ["ab", "c"], None),
    ],
)
def test_exact_names_first_then_spelling_where_one_to_one(names, model, order):
    assert align_labels(names, dict(enumerate(model))) == order


@pytest.mark.parametrize(
    ("names", "model", "same"),
    [
        (["0", "1"], ["LABEL_0", "LABEL_1"], True),
        (["0", "1"], ["0", "1"], True),
        (["1", "2"], ["LABEL_0", "LABEL_1"], False),
        (["0", "1"], ["LABEL_1", "LABEL_0"], False),
        (["no", "yes"], ["LABEL_0", "LABEL_1"], False),
    ],
)
def test_numbers_go_to_the_same_numbers_without_a_guess(names, model, same):
    assert same_numbers(names, dict(enumerate(model))) == same


def saved(folder: Path, names: list[str], favourite: str) -> Path:
    """A model that always answers with one of its classes."""
    model = tiny_model(
        num_labels=len(names),
        vocab_size=64,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.bias[names.index(favourite)] = 5.0
    return bc.save(model, folder / "model", known_words())


def always(folder: Path, names: list[str], favourite: str, cells: list[str], **options):
    """The accuracy of such a model on rows of which three in four are its favourite."""
    task = own(folder, lines(cells * 3), lines(cells, 900), max_length=16)
    rows = bc.evaluate(saved(folder, names, favourite), task, **options)
    return next(row.value for row in rows if row.metric == "accuracy")


@pytest.mark.parametrize(("one", "other"), [("+", "-"), ("是", "否"), ("A", "a")])
def test_a_model_is_scored_by_names_that_have_no_letters_or_case(one, other, tmp_path):
    for favourite, share in ((one, 0.75), (other, 0.25)):
        folder = tmp_path / str(share)
        folder.mkdir()
        with pytest.warns(bc.errors.Notice) if one == "A" else _nothing():
            score = always(folder, [other, one], favourite, [one, one, other, one] * 4)
        assert score == share


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_other_names_are_refused_not_taken_in_order(tmp_path):
    with pytest.raises(ModelError, match=r"its classes are up, down, those of .* no, yes"):
        always(tmp_path, ["up", "down"], "up", ["no", "yes", "no", "no"] * 4)


class TestAModelWithMoreClasses:
    NAMES = ("contradiction", "entailment", "neutral")

    def test_it_is_evaluated_and_it_is_said(self, tmp_path):
        said: list[str] = []
        cells = ["neutral", "neutral", "entailment", "neutral"] * 4
        score = always(tmp_path, list(self.NAMES), "neutral", cells, say=said.append)
        assert score == 0.75
        assert any("the model's 3 classes stay, 1 of which no row has: contra" in s for s in said)

    def test_a_run_keeps_its_head(self, tmp_path):
        cells = ["neutral", "entailment"] * 8
        own(tmp_path, lines(cells * 2), lines(cells, 900))
        model = saved(tmp_path, list(self.NAMES), "neutral")
        task = Task.from_files(
            tmp_path / "train.csv",
            tmp_path / "validation.csv",
            text="comment",
            label="topic",
            max_length=16,
        )
        said: list[str] = []
        recipe = bc.Recipe.parse(
            {
                "model": str(model),
                "task": task,
                "methods": [{"prune_structured": {"keep": 0.5, "rows": 8}}],
                "measure": {"latency": False},
            }
        )
        made = bc.run(recipe, tmp_path / "run", say=said.append)
        assert bc.load(made.model).model.config.num_labels == 3
        first = made.report.stages[0].deployments[0].scores[0]
        assert (first.metric, first.value) == ("accuracy", 0.5)
        assert any("classes stay" in note for note in made.report.notes)
        assert any("classes stay" in line for line in said)


def test_a_teacher_with_other_names_is_refused(tmp_path):
    cells = ["no", "yes"] * 8
    own(tmp_path, lines(cells * 2), lines(cells, 900))
    for name, classes in (("student", ["no", "yes"]), ("teacher", ["up", "down"])):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, classes, classes[0])
    files = (tmp_path / "train.csv", tmp_path / "validation.csv")
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "student" / "model"),
            "teacher": str(tmp_path / "teacher" / "model"),
            "task": Task.from_files(*files, text="comment", label="topic", max_length=16),
            "methods": [{"distill": {"epochs": 1}}],
            "measure": {"latency": False},
        }
    )
    with pytest.raises(ModelError, match=r"teacher .*: its classes are up, down, those of .*never"):
        bc.run(recipe, tmp_path / "run")
