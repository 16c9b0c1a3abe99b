"""The one rule for label columns: over all splits at once, from the cells as written."""

from __future__ import annotations

import pandas as pd
import pytest
from data_support import ALL, lines, named, own, read
from datasets import Dataset, DatasetDict

from bertcompress.errors import DataError
from bertcompress.task import Task

# train, validation: what they pose together, and the classes
CASES = {
    "0.0 and 0": (["0.0", "1.0"], ["0", "1"], "single_label", ("0", "1")),
    "0 and 0.0": (["0", "1"], ["0.0", "1.0"], "single_label", ("0", "1")),
    "a word in one": (["1", "2", "other"], ["1", "2"], "single_label", ("1", "2", "other")),
    "a word in the other": (["1", "2"], ["1", "2", "other"], "single_label", ("1", "2", "other")),
    "booleans": (["True", "False"], ["TRUE", "false"], "single_label", ("false", "true")),
    "booleans and words": (
        ["True", "False", "unsure"],
        ["True", "False"],
        "single_label",
        ("False", "True", "unsure"),
    ),
    "leading zeros": (["01", "02", "10"], ["01", "02", "10"], "single_label", ("01", "02", "10")),
    "a leading zero in one": (["1", "2"], ["1", "2", "01"], "single_label", ("01", "1", "2")),
    "long ids": (
        ["98765432109876543210", "98765432109876543211"],
        ["98765432109876543210"] * 2,
        "single_label",
        ("98765432109876543210", "98765432109876543211"),
    ),
    "long numbers": (
        ["100000000000000001", "100000000000000002"],
        ["100000000000000001"] * 2,
        "single_label",
        ("100000000000000001", "100000000000000002"),
    ),
    "nan as a class": (["nan", "roti"], ["roti", "nan"], "single_label", ("nan", "roti")),
    "NA and null": (["NA", "null", "x"], ["x", "NA", "null"], "single_label", ("NA", "null", "x")),
    "ten": ([str(i) for i in range(11)], ["10", "2"], "single_label", tuple(map(str, range(11)))),
    "signs": (["-1", "1"], ["-1", "1"], "single_label", ("-1", "1")),
    "plus and minus": (["+", "-"], ["-", "+"], "single_label", ("+", "-")),
    "a fraction in one": (["1", "2"], ["0.5", "2"], "regression", ()),
    "many numbers": ([str(i) for i in range(20000, 20240)], ["20001"], "regression", ()),
}


@pytest.mark.parametrize("case", CASES)
def test_one_rule_over_all_splits(case, tmp_path):
    train, validation, problem, classes = CASES[case]
    repeat = 1 if len(train) > 50 else 12
    task = own(tmp_path, lines(train * repeat), lines(validation * 3, 900))
    data, _ = read(task)
    assert (data.task.problem, data.labels) == (problem, classes)
    if problem == "single_label":
        found = named(data, *ALL)
        for start, cells in ((0, train * repeat), (900, validation * 3)):
            for i, cell in enumerate(cells):
                expected = cell.lower() if case == "booleans" else cell
                expected = expected.removesuffix(".0")
                assert found[f"text number {start + i}"] == expected
    else:
        assert {row["text"]: row["label"] for row in data.validation}[
            "text number 900"
        ] == pytest.approx(float(validation[0]))


def test_several_files_of_one_split_are_read_together(tmp_path):
    """One file alone looks like whole numbers, another like words."""
    for name, cells in (("a", ["1", "2"] * 6), ("b", ["2", "other"] * 6), ("v", ["1", "2"] * 3)):
        (tmp_path / f"{name}.csv").write_text(lines(cells, 100 * ord(name)))
    files = {
        "train": (str(tmp_path / "a.csv"), str(tmp_path / "b.csv")),
        "validation": str(tmp_path / "v.csv"),
    }
    task = Task(name="t", dataset="csv", files=files, text=("comment",), label="topic")
    data, warned = read(task)
    assert data.labels == ("1", "2", "other")
    assert any("only 'train' has 'other'" in line for line in warned)


@pytest.mark.parametrize(
    ("cells", "fields", "problem", "labels"),
    [
        (["0.5", "1", "1.5"], {"problem": "single_label"}, "single_label", ("0.5", "1", "1.5")),
        (["1", "2", "3"], {"problem": "regression"}, "regression", ()),
        (["0.5", "1"], {"labels": ["0.5", "1"]}, "single_label", ("0.5", "1")),
        (["1.50", "1.5", "2"], {"problem": "single_label"}, "single_label", ("1.5", "2")),
    ],
)
def test_the_task_overrides(cells, fields, problem, labels, tmp_path):
    task = own(tmp_path, lines(cells * 9), lines(cells * 2, 900), **fields)
    data, _ = read(task)
    assert (data.task.problem, data.labels) == (problem, labels)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["no", "yes", "no"], "topic: 2 classes (no, yes)"),
        (["1", "2", "3"], "topic: 3 classes (1, 2, 3); 'problem: regression' makes them numbers"),
        (["0.5", "2", "3"], "topic: numbers; 'problem: single_label' makes them classes"),
    ],
)
def test_the_choice_is_said(cells, says, tmp_path):
    data, _ = read(own(tmp_path, lines(cells * 9), lines(cells * 2, 900)))
    assert data.said == (says,)


def test_numbers_of_classes_that_are_numerals_are_names(tmp_path):
    """Classes 1, 2, 3 of a task are not the second, third and fourth class."""
    task = own(tmp_path, lines("123" * 9), lines("123" * 2, 900), labels=["1", "2", "3"])
    assert named(read(task)[0], "validation")["text number 900"] == "1"


@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        (["Yes", "yes", "no"] * 9, ["Yes", "yes", "no"], "'Yes', 'yes' differ by case or blanks"),
        (["a b", "ab", "no"] * 9, ["a b", "ab", "no"], "'a b', 'ab' differ by case or blanks"),
        (["a", "b", "c"] * 9, ["a", "b"], "only 'train' has 'c'"),
        (["a", "b"] * 9, ["a", "b", "c"], "only 'validation' has 'c'"),
        (["a", "b"] * 9 + ["c"], ["a", "b", "c"], "a single row of 'train' has 'c'"),
    ],
)
def test_odd_classes_are_named_in_one_warning(train, validation, says, tmp_path):
    _, warned = read(own(tmp_path, lines(train), lines(validation, 900)))
    assert len(warned) == 1 and says in warned[0]


def test_all_oddities_in_one_warning(tmp_path):
    train = ["a", "b"] * 9 + ["A", "c"]
    _, warned = read(own(tmp_path, lines(train), lines(["a", "b", "d"], 900)))
    assert len(warned) == 1
    for part in ("differ by case", "only 'train' has 'A', 'c'", "'validation' has 'd'", "single"):
        assert part in warned[0]


class TestSeveralLabelsInOneCell:
    @pytest.mark.parametrize(
        ("cells", "fields"),
        [
            (["a|b", "a", "b|c", ""], {"label_separator": "|"}),
            (['"a,b"', "a", '"b, c"', ""], {"label_separator": ","}),
            (['"[""a"", ""b""]"', '"[""a""]"', '"[""b"", ""c""]"', "[]"], {}),
            (["\"['a', 'b']\"", "['a']", "\"['b', 'c']\"", "[]"], {}),
        ],
    )
    def test_they_are_parted(self, cells, fields, tmp_path):
        task = own(tmp_path, lines(cells * 6), lines(cells, 900), **fields)
        data, _ = read(task)
        assert (data.task.problem, data.labels) == ("multi_label", ("a", "b", "c"))
        assert data.validation["label"][:] == [[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]

    @pytest.mark.parametrize("separator", ["|", ";"])
    def test_a_hint_where_every_combination_became_a_class(self, separator, tmp_path):
        cells = [c.replace("|", separator) for c in ("a|b", "a", "b|c", "c", "b")]
        _, warned = read(own(tmp_path, lines(cells * 6), lines(cells, 900)))
        assert len(warned) == 1
        assert f"label_separator: '{separator}'" in warned[0] and "2 of 5 classes" in warned[0]

    def test_a_comma_in_a_name_is_no_combination(self, tmp_path):
        cells = ['"food, drink"', "travel", '"home, garden"']
        assert read(own(tmp_path, lines(cells * 6), lines(cells, 900)))[1] == []


@pytest.mark.parametrize("rows", [[[0.1, 0.9], [0.7, 0.3]], [[0.5, 2.0], [1.0, 3.5]]])
def test_lists_of_fractions_are_no_class_names(rows):
    def part(start):
        texts = [f"text number {start + i}" for i in range(12)]
        return Dataset.from_dict({"comment": texts, "topic": rows * 6})

    data = DatasetDict(train=part(0), validation=part(900))
    task = Task.from_dataset(data, text="comment", label="topic")
    with pytest.raises(DataError, match=r"lists of fractions \(such as \[.*probabilities, or sev"):
        read(task)


def test_a_frame_with_mixed_labels():
    frame = pd.DataFrame(
        {"comment": [f"text number {i}" for i in range(30)], "topic": [1, 2.0, "other"] * 10}
    )
    data, _ = read(Task.from_dataset(frame, text="comment", label="topic"))
    assert data.labels == ("1", "2", "other")
