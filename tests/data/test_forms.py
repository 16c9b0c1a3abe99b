"""What people hold in memory, one file alone, and what a task is called."""

from __future__ import annotations

import itertools

import datasets
import numpy as np
import pandas as pd
import pytest
from data_support import ALL, lines, named, own, read, written
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Value

from bertcompress.data import load_data
from bertcompress.errors import DataError
from bertcompress.task import Task

GIVEN = {"text": "comment", "label": "topic"}


def frame(count: int = 40, start: int = 0) -> pd.DataFrame:
    texts = [f"text number {start + i}" for i in range(count)]
    return pd.DataFrame({"comment": texts, "topic": ["no", "yes"] * (count // 2)})


def made(count: int = 40, start: int = 0) -> Dataset:
    return Dataset.from_pandas(frame(count, start))


def both(part) -> dict:
    return {"train": part(40, 0), "validation": part(10, 900)}


EXPECTED = both(frame)

FORMS = {
    "numpy": lambda: DatasetDict(both(made)).with_format("numpy"),
    "torch": lambda: DatasetDict(both(made)).with_format("torch"),
    "pandas": lambda: DatasetDict(both(made)).with_format("pandas"),
    "arrow": lambda: DatasetDict(both(made)).with_format("arrow"),
    "a dict": lambda: both(made),
    "frames": lambda: both(frame),
    "categories": lambda: {n: f.astype({"topic": "category"}) for n, f in both(frame).items()},
    "streams": lambda: datasets.IterableDatasetDict(
        {name: part.to_iterable_dataset() for name, part in both(made).items()}
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_splits_of_any_form(form):
    data, warned = read(Task.from_dataset(FORMS[form](), **GIVEN))
    assert data.fingerprint == load_data(Task.from_dataset(EXPECTED, **GIVEN)).fingerprint
    assert data.labels == ("no", "yes") and not warned


@pytest.mark.parametrize(
    "one",
    [made, frame, lambda count: made(count).to_iterable_dataset()],
    ids=["dataset", "frame", "stream"],
)
def test_one_alone_is_enough(one):
    data, _ = read(Task.from_dataset(one(60), **GIVEN))
    assert len(data.validation) == 12
    assert len(data.train) + len(data.selection) == 48
    assert data.notes == (
        "no split to judge on: 12 of 60 rows of 'train' are split off, each class in its share, "
        "always the same rows",
    )


@pytest.mark.parametrize(
    ("columns", "fields", "shared"),
    [
        ({"score": [i / 7 for i in range(60)]}, {"label": "score"}, "each range of numbers"),
        ({}, {"label": None, "problem": "vectors"}, None),
    ],
    ids=["numbers", "texts"],
)
def test_rows_that_are_split_off_are_said_to_be_what_they_are(columns, fields, shared):
    """Plain texts were said to be split off with each class in its share."""
    rows = Dataset.from_dict({"comment": [f"text {i}" for i in range(60)], **columns})
    task = Task.from_dataset(rows, text="comment", **fields)
    share = f", {shared} in its share" if shared else ""
    assert load_data(task).notes == (
        f"no split to judge on: 12 of 60 rows of 'train' are split off{share}, always the same "
        "rows",
    )


def test_rows_of_one_query_are_said_to_stay_together():
    columns = {"query": [f"query {i // 6}" for i in range(60)], "grade": [i % 2 for i in range(60)]}
    rows = Dataset.from_dict({**columns, "passage": [f"text {i}" for i in range(60)]})
    task = Task.from_dataset(rows, text=["query", "passage"], label="grade", problem="reranker")
    (note,) = [each for each in load_data(task).notes if each.startswith("no split")]
    assert "rows of one query or context together" in note and "share" not in note


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "eval", "test"])
def test_other_names_of_the_validation_split(name):
    data, _ = read(Task.from_dataset(DatasetDict(train=made(), **{name: made(10, 900)}), **GIVEN))
    assert len(data.validation) == 10 and data.task.validation == name
    told = (f"no split 'validation': judged on '{name}'",)
    assert data.notes == (() if name == "validation" else told)


@pytest.mark.parametrize("name", ["test", "validation", "all"])
def test_one_split_of_any_name(name):
    data, _ = read(Task.from_dataset(DatasetDict({name: made(60)}), **GIVEN))
    assert len(data.validation) == 12
    assert data.notes[0] == f"no split 'train': trained on '{name}', the only one"


def test_a_test_split_with_hidden_labels_is_no_validation_split():
    features = Features({"comment": Value("string"), "topic": ClassLabel(names=["no", "yes"])})
    train = Dataset.from_dict(frame(60).to_dict("list"), features=features)
    hidden = {"comment": frame(10, 900)["comment"].tolist(), "topic": [-1] * 10}
    test = Dataset.from_dict(hidden, features=features)
    data, _ = read(Task.from_dataset(DatasetDict(train=train, test=test), **GIVEN))
    assert len(data.validation) == 12 and "split off" in data.notes[0]


def test_an_endless_stream_needs_a_limit(monkeypatch):
    monkeypatch.setattr("bertcompress.data.tables.STREAM_ROWS", 200)

    def rows():
        for i in itertools.count():
            yield {"comment": f"text number {i}", "topic": "ab"[i % 2]}

    task = Task.from_dataset(IterableDataset.from_generator(rows), **GIVEN)
    with pytest.raises(DataError, match=r"a stream of more than 200 rows; say how many .*limit"):
        load_data(task)
    data = load_data(task, limit=50)
    assert len(data.train) + len(data.selection) + len(data.validation) == 50


def test_what_is_no_table_is_refused():
    with pytest.raises(DataError, match="list is no table of rows; give a Dataset"):
        load_data(Task.from_dataset([{"comment": "x", "topic": "a"}], **GIVEN))


class TestRowsSplitOff:
    def test_every_class_in_its_share_and_always_the_same(self, tmp_path):
        cells = (["rare"] + ["often"] * 9) * 40
        task = own(tmp_path, lines(cells), None)
        one, other = load_data(task, seed=1), load_data(task, seed=2)
        labels = np.asarray(one.validation["label"][:])
        assert (len(labels), (labels == one.labels.index("rare")).sum()) == (80, 8)
        assert one.validation["text"][:] == other.validation["text"][:]

    def test_no_text_is_on_both_sides(self, tmp_path):
        twice = "comment,topic\n" + "".join(f"t {i // 2},{'ab'[i // 2 % 2]}\n" for i in range(140))
        data = load_data(own(tmp_path, twice, None))
        seen = {*data.train["text"], *data.selection["text"]}
        assert not seen & set(data.validation["text"]) and len(data.validation)

    @pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet", "folder"])
    def test_one_file_of_every_form(self, form, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        folder = tmp_path / "d"
        folder.mkdir()
        path = folder / f"train.{'csv' if form == 'folder' else form}"
        if form == "parquet":
            frame(60).to_parquet(path)
        elif form == "jsonl":
            frame(60).to_json(path, orient="records", lines=True)
        else:
            frame(60).to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
        task = Task.from_files(folder if form == "folder" else path, **GIVEN)
        assert task.name == "d"
        data, _ = read(task)
        assert (len(data.validation), len(data.notes)) == (12, 1)

    def test_a_task_file_of_one_file(self, tmp_path):
        written(tmp_path, {"rows.csv": lines("ab" * 30)})
        (tmp_path / "own.yaml").write_text(
            "name: t\ndataset: csv\nfiles: {train: rows.csv}\ntext: comment\nlabel: topic\n"
        )
        assert len(load_data(Task.load(tmp_path / "own.yaml")).validation) == 12


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("reviews/train.csv", "reviews"),
        ("reviews/data/train-00000-of-00001.parquet", "reviews"),
        ("reviews/Training_data.jsonl", "reviews"),
        ("reviews.csv.gz", "reviews"),
        ("my reviews.tsv", "my-reviews"),
        ("reviews/", "reviews"),
        ("me/reviews", "reviews"),
        ("reviews/train", "reviews"),
    ],
)
def test_a_task_is_named_after_its_file_or_folder(source, name):
    assert Task.from_files(source, text="a").name == name


def test_a_folder_of_tables_is_read_by_the_same_rules(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "d"
    folder.mkdir()
    files = {"train.csv": lines(["01", "2"] * 20), "validation.csv": lines(["2", "01"] * 3, 900)}
    written(folder, files)
    data, _ = read(Task.from_files(folder, **GIVEN))
    assert data.labels == ("01", "2")
    written(folder, {"train.csv": lines(["01", "2"] * 20) + "a,b,c\n"})
    with pytest.raises(DataError, match=r"train\.csv: line 42 has 3 cells"):
        read(Task.from_files(folder, **GIVEN))
    assert named(data, *ALL)["text number 0"] == "01"
