"""JSON in the forms that people save it in."""

from __future__ import annotations

import json

import pytest
from data_support import ALL, named, own, read

from bertcompress.errors import DataError

ROWS = [{"comment": f"text number {i}", "topic": "ab"[i % 2]} for i in range(20)]
OTHER = [{"comment": f"text number {900 + i}", "topic": "ab"[i % 2]} for i in range(6)]


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def columns(rows: list[dict]) -> dict:
    return {name: [row[name] for row in rows] for name in rows[0]}


FORMS = {
    "list": ROWS,
    "below a key": {"version": 1, "data": ROWS},
    "columns": columns(ROWS),
    "columns by row name": {n: dict(enumerate(c)) for n, c in columns(ROWS).items()},
    "split": {"columns": ["comment", "topic"], "data": [list(row.values()) for row in ROWS]},
    "table": {"schema": {"fields": []}, "data": ROWS},
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form, indent, tmp_path):
    task = own(tmp_path, json.dumps(FORMS[form], indent=indent), json.dumps(OTHER), "json")
    plain = own(tmp_path, jsonl(ROWS), jsonl(OTHER), "jsonl")
    assert read(task)[0].fingerprint == read(plain)[0].fingerprint


@pytest.mark.parametrize("form", ["jsonl", "ndjson", "json"])
def test_lines_are_read_under_every_ending(form, tmp_path):
    assert len(read(own(tmp_path, jsonl(ROWS), jsonl(OTHER), form))[0].validation) == 6


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_lines_end_at_line_feeds_only(mark, tmp_path):
    rows = [*ROWS, {"comment": f"one{mark}two", "topic": "b"}]
    data, _ = read(own(tmp_path, jsonl(rows), jsonl(OTHER), "jsonl"))
    assert named(data, *ALL)[f"one{mark}two"] == "b"


def test_columns_within_objects(tmp_path):
    def nested(rows: list[dict]) -> str:
        return jsonl([{"review": {"text": r["comment"]}, "topic": r["topic"]} for r in rows])

    task = own(tmp_path, nested(ROWS), nested(OTHER), "jsonl", text="review.text")
    assert named(read(task)[0], "validation")["text number 901"] == "b"
    task = own(tmp_path, nested(ROWS), nested(OTHER), "jsonl", text="review.txt")
    with pytest.raises(DataError, match=r"'review.txt'; did you mean 'review.text'"):
        read(task)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"comment": "cut \\ud83d", "topic": "a"}', ":21: column 'comment' holds half of a char"),
        ('{"comment": "x", "topic": "a", "topic": "b"}', ":21: the key 'topic' stands twice"),
    ],
)
def test_what_cannot_be_read_is_named(line, says, tmp_path):
    task = own(tmp_path, jsonl(ROWS) + line + "\n", jsonl(OTHER), "jsonl")
    with pytest.raises(DataError, match=says):
        read(task)


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        ({"train": ROWS, "test": OTHER}, r"2 lists of rows \(train, test\)"),
        ({"comment": ["x", "y"], "topic": ["a"]}, "of several lengths: comment 2, topic 1"),
    ],
)
def test_one_object_that_is_no_table(whole, says, tmp_path):
    with pytest.raises(DataError, match=says):
        read(own(tmp_path, json.dumps(whole), json.dumps(OTHER), "json"))


def test_numbers_and_words_in_one_column_are_classes(tmp_path):
    rows = [{**row, "topic": [1, 2, "other"][i % 3]} for i, row in enumerate(ROWS)]
    other = [{**row, "topic": i % 2 + 1} for i, row in enumerate(OTHER)]
    data, _ = read(own(tmp_path, jsonl(rows), jsonl(other), "jsonl"))
    assert data.labels == ("1", "2", "other")
    assert named(data, "validation")["text number 900"] == "1"
