"""What data can be wrong in, and the one error that says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from datasets import ClassLabel, Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError

from bertcompress.data import load_data
from bertcompress.errors import DataError
from bertcompress.task import Task

GOOD = "comment,topic\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(12))
OTHER = "comment,topic\nnew one,a\nnew two,b\n"

Write = Callable[[Path], None]


def csv(train: str | bytes = GOOD, validation: str | bytes = OTHER) -> Write:
    def write(folder: Path) -> None:
        for name, content in (("train.csv", train), ("validation.csv", validation)):
            raw = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(raw)

    return write


def numbers(*cells: str) -> str:
    """A training file with these labels."""
    return "comment,topic\n" + "".join(f"text {i},{cell}\n" for i, cell in enumerate(cells))


TWO = numbers(*"010101")

# name: (files, fields of the task, what the message has to say)
FILES: dict[str, tuple[Write, dict, list[str]]] = {
    "no such file": (lambda folder: None, {}, ["train.csv", "no such file"]),
    "a folder for a file": (lambda f: (f / "train.csv").mkdir(), {}, ["train.csv", "is a folder"]),
    "empty file": (csv(train=""), {}, ["train.csv", "the file is empty"]),
    "header only": (csv(train="comment,topic\n"), {}, ["'train' is empty"]),
    "empty validation": (csv(validation="comment,topic\n"), {}, ["'validation' is empty"]),
    "not UTF-8": (
        csv(train=b"comment,topic\nfine,a\ncaf\xe9,b\n"),
        {},
        ["train.csv:3", "byte 0xe9 at position 24", "iconv"],
    ),
    "ragged table": (csv(train=GOOD + "a,b,c,d\n"), {}, ["train.csv", "line 14"]),
    "text column": (
        csv(),
        {"text": "coment"},
        ["unknown column 'coment'", "did you mean 'comment'"],
    ),
    "label column": (csv(), {"label": "Topic"}, ["unknown column 'Topic'", "did you mean 'topic'"]),
    "second text column": (csv(), {"text": ["comment", "reply"]}, ["unknown column 'reply'"]),
    "column in validation only": (
        csv(validation="comment,theme\nx,a\ny,b\n"),
        {},
        ["validation", "unknown column 'topic'", "Allowed: comment, theme"],
    ),
    "missing text": (csv(train=GOOD + ",a\n,b\n"), {}, ["'comment' has no text in rows 13, 14"]),
    "missing label": (csv(train=GOOD + "more,\n"), {}, ["'topic'", "NaN label in row 13"]),
    "NaN among numbers": (
        csv(train=numbers("0.5", "nan", "1.5"), validation=numbers("0.5", "1.5")),
        {},
        ["'topic'", "NaN label in row 2"],
    ),
    "label out of range": (
        csv(train=numbers(*"0123"), validation=OTHER),
        {"labels": ["x", "y"]},
        ["train", "row 3", "label 2 is outside 0 to 1"],
    ),
    "unknown label in validation": (
        csv(validation="comment,topic\nnew,a\nnewer,aa\n"),
        {"labels": ["a", "b"]},
        ["validation", "row 2", "unknown label 'aa'; did you mean 'a'"],
    ),
    "unknown number in validation": (
        csv(train=TWO, validation="comment,topic\nnew,1\nnewer,7\n"),
        {"labels": ["no", "yes"]},
        ["validation", "row 2", "label 7 is outside 0 to 1"],
    ),
    "label not among the task's": (
        csv(),
        {"labels": ["a", "c"]},
        ["train", "row 2", "unknown label 'b'", "Allowed: a, c"],
    ),
    "hidden labels": (
        csv(train=TWO, validation="comment,topic\nnew,-1\nnewer,-1\n"),
        {},
        ["validation", "hidden (-1) in rows 1, 2", "test split"],
    ),
    "hidden numbers": (
        csv(train=numbers("0.5", "1.5", "2.5"), validation="comment,topic\nnew,-1\nnewer,-1\n"),
        {},
        ["validation", "'topic'", "hidden (-1 in all rows)"],
    ),
    "one class": (csv(train=numbers(*"aaaa")), {}, ["'topic' of 'train'", "only one class, 'a'"]),
    "one value": (
        csv(train=numbers("0.5", "0.5"), validation=numbers("0.5", "0.7")),
        {},
        ["'topic' of 'train'", "only one value, 0.5"],
    ),
    "words for numbers": (csv(), {"problem": "regression"}, ["'topic'", "'a' is no number", "row"]),
    "fractions for classes": (
        csv(train=numbers("0.5", "1"), validation=numbers("1", "1")),
        {"problem": "single_label", "labels": ["x", "y"]},
        ["'topic'", "row 1", "label 0.5 is outside 0 to 1"],
    ),
    "lists wanted": (
        csv(),
        {"problem": "multi_label"},
        ["'topic'", "one value per row", "multi_label"],
    ),
    "validation is train": (csv(validation=GOOD), {}, ["'validation' is in 'train' too"]),
    "validation within train": (
        csv(validation="\n".join(GOOD.splitlines()[:4]) + "\n"),
        {},
        ["'validation' is in 'train' too"],
    ),
    "one training row": (
        csv(train="comment,topic\nx,a\n"),
        {"labels": ["a", "b"]},
        ["has one row"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case, tmp_path):
    write, fields, says = FILES[case]
    write(tmp_path)
    given = {"text": "comment", "label": "topic", **fields}
    task = Task.from_files(tmp_path / "train.csv", tmp_path / "validation.csv", **given)
    check(task, says)


def check(task: Task, says: list[str], **options) -> None:
    with pytest.raises(DataError) as error:
        load_data(task, **options)
    message = str(error.value)
    assert all(part in message for part in says), message
    assert "\n" not in message
    assert error.value.exit_code == 2


LINE = '{"comment": "x", "topic": "a"}\n{"comment": "y", "topic": "b"}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LINE + '{"comment": "z", \n', ["train.jsonl:3", "not JSON"]),
        (LINE + '["z", "a"]\n', ["train.jsonl:3", "expected an object", "list"]),
        (LINE.replace("comment", "coment"), ["train.jsonl", "unknown column 'comment'", "coment"]),
        (LINE + '{"comment": "z"}\n', ["'topic'", "label in row 3"]),
        (LINE + '{"comment": null, "topic": "a"}\n', ["'comment' has no text in row 3"]),
        (LINE + '{"comment": 7, "topic": "a"}\n', ["train.jsonl", "'comment'", "mixes kinds"]),
        ('{"comment": 7, "topic": "a"}\n' * 2, ["'comment' holds int, not text"]),
        ('{"comment": "z", "topic": {"x": 1}}\n' * 2, ["'topic'", "no known problem"]),
    ],
)
def test_json_lines(content, says, tmp_path):
    train, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    train.write_text(content)
    validation.write_text(LINE.replace('"x"', '"new"'))
    check(Task.from_files(train, validation, text="comment", label="topic"), says)


def test_json_array_and_parquet(tmp_path):
    (tmp_path / "t.json").write_text("[1, 2]")
    (tmp_path / "v.json").write_text("[")
    files = [tmp_path / "t.json", tmp_path / "v.json"]
    check(Task.from_files(*files, text="comment", label="topic"), ["t.json", "row 1", "int"])
    check(Task.from_files(*files[::-1], text="comment", label="topic"), ["v.json:1", "not JSON"])
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    files = [tmp_path / "t.parquet"] * 2
    check(Task.from_files(*files, text="comment", label="topic"), ["t.parquet", "not a readable"])


def memory(train: dict, validation: dict, feature=None, **fields) -> Task:
    splits = {
        name: Dataset.from_dict(part)
        for name, part in (("train", train), ("validation", validation))
    }
    if feature is not None:
        splits = {name: part.cast_column("y", feature) for name, part in splits.items()}
    return Task.from_dataset(DatasetDict(splits), text="a", label="y", **fields)


ROWS = {"a": ["p", "q", "r", "s"], "y": [[1, 0], [0, 1], [1, 1], [0, 0]]}


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            lambda: memory(ROWS, {"a": ["x", "z"], "y": [[1, 0, 0], [0, 1, 0]]}),
            ["validation", "row 1", "[1, 0, 0] is not one 0 or 1 for each of 2 classes"],
        ),
        (
            lambda: memory(
                {"a": ["p", "q"], "y": [["u"], ["v"]]},
                {"a": ["x"], "y": [["w"]]},
                labels=["u", "v"],
            ),
            ["validation", "row 1", "unknown label 'w'"],
        ),
        (
            lambda: memory(
                {"a": ["p", "q"], "y": [0, 1]},
                {"a": ["x"], "y": [1]},
                ClassLabel(names=["no", "yes"]),
                labels=["no", "perhaps", "yes"],
            ),
            ["the task names 3 classes", "the data 2 (no, yes)"],
        ),
        (
            lambda: memory(
                {"a": ["p", "q"], "y": [0, 1]},
                {"a": ["x", "z"], "y": [-1, -1]},
                ClassLabel(names=["no", "yes"]),
            ),
            ["validation", "hidden (-1) in rows 1, 2"],
        ),
        (
            lambda: memory(ROWS, {"a": ["x", "z"], "y": [1, 0]}),
            ["validation", "'y' holds int in rows 1, 2", "multi_label does not"],
        ),
        (
            lambda: memory(ROWS, ROWS, problem="single_label"),
            ["'y' holds lists", "single_label"],
        ),
        (
            lambda: memory(ROWS, ROWS).model_copy(update={"validation": "test"}),
            ["unknown split 'test'", "Allowed: train, validation"],
        ),
        (
            lambda: memory({"a": ["p"], "y": ["u"]}, {"a": [], "y": []}),
            ["'validation' is empty"],
        ),
    ],
)
def test_in_memory(task, says):
    check(task(), says)


def test_a_task_whose_data_are_gone():
    task = memory(ROWS, ROWS)
    check(Task.model_validate(task.model_dump()), ["in-memory", "Task.from_dataset"])


def test_an_unknown_embedded_data_set():
    task = Task(name="t", dataset="embedded:acceptabilty", text=("a",), label="b")
    check(task, ["did you mean 'acceptability'"])


class TestHub:
    def test_no_network(self, monkeypatch):
        monkeypatch.delenv("BERTCOMPRESS_GLUE", raising=False)
        monkeypatch.delenv("BERTCOMPRESS_DATA_DIR", raising=False)
        task = Task.load("glue/mrpc").model_copy(update={"dataset": "nobody/not-in-any-cache"})
        check(
            task, ["nobody/not-in-any-cache (mrpc)", "cannot be reached", "--data-dir", "offline"]
        )

    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (
                DatasetNotFoundError("Dataset 'me/x' doesn't exist on the Hub"),
                ["no such data set", "private"],
            ),
            (
                ValueError("BuilderConfig 'mrpcc' not found. Available: ['mrpc']"),
                ["(mrpc)", "Available"],
            ),
            (requests.exceptions.ConnectionError("reset"), ["cannot be read: reset"]),
            (RuntimeError("Dataset scripts are no longer supported"), ["scripts are no longer"]),
        ],
    )
    def test_what_the_hub_answers(self, error, says, monkeypatch):
        def refuse(*args, **options):
            raise error

        monkeypatch.setattr("datasets.load_dataset", refuse)
        task = Task.load("glue/mrpc").model_copy(update={"dataset": "me/x"})
        check(task, ["me/x (mrpc): ", *says])

    def test_a_local_copy_that_is_none(self, tmp_path):
        task = Task.load("glue/mrpc")
        check(task, [str(tmp_path / "none"), "no such folder"], data_dir=tmp_path / "none")
        check(task, [str(tmp_path), "(mrpc)"], data_dir=tmp_path)

    def test_a_configuration_that_the_copy_lacks(self, glue):
        check(Task.load("glue/qnli"), ["(qnli)", "Available", "mrpc"], data_dir=glue)

    def test_a_test_split_of_glue(self, glue):
        task = Task.load("glue/mrpc").model_copy(update={"validation": "test"})
        check(task, ["glue/mrpc: test", "hidden (-1) in rows 1, 2, 3 and 1722 more"], data_dir=glue)
