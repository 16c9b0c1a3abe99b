"""CSV and TSV as people save them: read as written, or refused by line."""

from __future__ import annotations

import gzip
from typing import ClassVar

import pandas as pd
import pytest
from data_support import ALL, lines, named, own, read

from bertcompress.errors import DataError, TaskError
from bertcompress.task import Task

ROWS = lines("ab" * 10)
OTHER = lines("ab" * 3, 900)


def refused(task: Task, *says: str) -> None:
    with pytest.raises(DataError) as error:
        read(task)
    assert all(part in str(error.value) for part in says), str(error.value)
    assert "\n" not in str(error.value)


class TestUnevenRows:
    def test_every_row_is_longer_than_the_header(self, tmp_path):
        """Pandas takes the first column for row names there and shifts the others."""
        rows = ["comment,topic", *(f"{i},text number {i},{'ab'[i % 2]}" for i in range(9))]
        refused(own(tmp_path, "\n".join(rows), OTHER), "line 2 has 3 cells", "header 2", "lacks")

    @pytest.mark.parametrize("row", ["one, two,a", "alone", "one,a,", 'x,"b",c'])
    def test_one_row(self, row, tmp_path):
        refused(own(tmp_path, ROWS + row + "\n", OTHER), "train.csv: line 22 has", "header 2")

    def test_several_are_counted(self, tmp_path):
        refused(own(tmp_path, ROWS + "x\n" * 6, OTHER), "line 22", "lines 23, 24, 25 and 2 more")

    def test_line_ends_within_quotes_count(self, tmp_path):
        broken = 'comment,topic\n"two\nlines",a\nthree,b,c\n'
        refused(own(tmp_path, broken, OTHER), "line 4 has 3 cells")


class TestQuotes:
    def test_a_stray_quote_in_a_tab_separated_file_is_a_character(self, tmp_path):
        texts = [f"row {i}" for i in range(30)]
        texts[5], texts[14] = '"a quote that never closes', 'and another" at the end'
        table = "".join(f"{text}\t{'ab'[i % 2]}\n" for i, text in enumerate(texts))
        task = own(tmp_path, "comment\ttopic\n" + table, lines("ab", 900, "\t"), "tsv")
        data, _ = read(task)
        found = named(data, "train", "selection")
        assert len(found) == 30
        assert found['"a quote that never closes'] == "b"

    def test_a_tab_separated_file_that_is_quoted_throughout(self, tmp_path):
        table = 'comment\ttopic\n"says ""no"""\ta\n' + lines("ab" * 5, 0, "\t").split("\n", 1)[1]
        data, _ = read(own(tmp_path, table, lines("ab", 900, "\t"), "tsv"))
        assert named(data, *ALL)['says "no"'] == "a"

    def test_a_tab_within_quotes(self, tmp_path):
        table = 'comment\ttopic\n"left\tright"\ta\n' + lines("ab" * 5, 0, "\t").split("\n", 1)[1]
        data, _ = read(own(tmp_path, table, lines("ab", 900, "\t"), "tsv"))
        assert named(data, *ALL)["left\tright"] == "a"

    @pytest.mark.parametrize(
        "rows",
        ['"never closed,a\nmore,b\n', '"a" and b,a\n', '"Nice,a\nnot so,b\nbad",b\n'],
    )
    def test_a_stray_quote_in_a_csv_is_refused(self, rows, tmp_path):
        refused(own(tmp_path, ROWS + rows, OTHER), "train.csv", "quote")

    def test_line_ends_in_quotes_are_text(self, tmp_path):
        data, _ = read(own(tmp_path, ROWS + '"dear sir,\nthank you, a lot",a\n', OTHER))
        assert named(data, *ALL)["dear sir,\nthank you, a lot"] == "a"


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_separators_are_found_out(separator, tmp_path):
    data, _ = read(own(tmp_path, lines("ab" * 9, 0, separator), OTHER))
    assert data.labels == ("a", "b") and len(data.validation) == 6


def test_an_unknown_separator_is_named(tmp_path):
    refused(own(tmp_path, lines("ab" * 9, 0, ":"), OTHER), "comment:topic", "parted by a comma")


FORMS = {
    "BOM": b"\xef\xbb\xbf" + ROWS.encode(),
    "UTF-16": ROWS.encode("utf-16"),
    "UTF-16, Excel": ROWS.replace(",", "\t").encode("utf-16"),
    "gz": gzip.compress(ROWS.encode()),
    "carriage returns": ROWS.replace("\n", "\r").encode(),
    "both": ROWS.replace("\n", "\r\n").encode(),
    "sep=": b"sep=;\r\n" + ROWS.replace(",", ";").replace("\n", "\r\n").encode(),
    "blank lines": (ROWS + "\n\n").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_people_save_is_read(form, tmp_path):
    name = "csv.gz" if form == "gz" else "csv"
    other = gzip.compress(OTHER.encode()) if form == "gz" else OTHER
    data, _ = read(own(tmp_path, FORMS[form], other, name))
    expected, _ = read(own(tmp_path, ROWS, OTHER))
    assert data.fingerprint == expected.fingerprint


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_unicode_line_ends_are_text(mark, tmp_path):
    for form, separator in (("csv", ","), ("tsv", "\t")):
        table = lines("ab" * 9, 0, separator) + f"one{mark}two{separator}b\n"
        data, _ = read(own(tmp_path, table, lines("ab", 900, separator), form))
        assert named(data, *ALL)[f"one{mark}two"] == "b"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (ROWS.encode("utf-16-le"), ["train.csv:1", "zero byte", "UTF-16 without its mark"]),
        (b"PK\x03\x04" + ROWS.encode(), ["Excel workbook", "save it as CSV"]),
        (gzip.compress(ROWS.encode())[:40], ["damaged gzip"]),
    ],
    ids=["utf-16", "excel", "gzip"],
)
def test_what_is_no_text_is_named(raw, says, tmp_path):
    refused(own(tmp_path, raw, OTHER), "train.csv", *says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rows.xlsx", "save the sheet as CSV"),
        ("rows.txt", "a table with a header"),
        ("rows.conllu", "one column of tags as .conll"),
        ("rows.zip", "unpack it"),
        ("rows.feather", "Task.from_dataset"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_other_formats_are_named(name, says, there, tmp_path):
    path = tmp_path / name
    if there:
        path.write_text("x")
    with pytest.raises(TaskError, match=f"'{path.suffix}' is not a format that is read; .*{says}"):
        Task.from_files(path, text="a")


def test_a_file_where_a_folder_belongs(tmp_path):
    for name, says in (("rows.csv", "say `dataset: csv` and `files:"), ("rows.xlsx", "not a form")):
        (tmp_path / name).write_text(ROWS)
        refused(Task(name="t", dataset=str(tmp_path / name), text=("comment",)), says)


def test_half_of_a_character_in_memory():
    texts = [f"text number {i}" for i in range(20)]
    texts[4] = "cut \ud83d"
    frame = pd.DataFrame({"comment": pd.Series(texts, dtype=object), "topic": ["a", "b"] * 10})
    task = Task.from_dataset(frame, text="comment", label="topic")
    refused(task, "'comment' holds half of a character", "row 5")


def test_a_column_that_the_header_names_twice(tmp_path):
    refused(own(tmp_path, "comment,topic,topic\nx,a,b\n", OTHER), "names column 'topic' twice")


class TestEmptyTexts:
    """Alike in every format."""

    ROWS: ClassVar = {
        "a": ["x y", "", "z", "v"] * 5,
        "b": ["", "lone", "w", "u"] * 5,
        "topic": ["p", "q"] * 10,
    }

    @pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet", "memory"])
    def test_of_a_pair_one_may_be_empty(self, form, tmp_path):
        frame = pd.DataFrame(self.ROWS)
        frame["a"] = [f"{t} {i}" if t else "" for i, t in enumerate(frame["a"])]
        frame["b"] = [f"{t} {i}" if t else "" for i, t in enumerate(frame["b"])]
        path = tmp_path / f"pairs.{form}"
        if form in ("csv", "tsv"):
            frame.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
        elif form == "parquet":
            frame.to_parquet(path)
        elif form != "memory":
            frame.to_json(path, orient="records", lines=form == "jsonl")
        given = {"text": ["a", "b"], "label": "topic"}
        task = (
            Task.from_dataset(frame, **given)
            if form == "memory"
            else Task.from_files(path, **given)
        )
        data, _ = read(task)
        pairs = {(r["text"], r["text_pair"]) for split in ALL for r in data.split(split)}
        assert {("x y 0", ""), ("lone 1", ""), ("z 2", "w 2")} <= pairs

    @pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet", "memory"])
    @pytest.mark.parametrize("empty", ["", "  "])
    def test_a_row_without_any_is_refused(self, form, empty, tmp_path):
        texts = [f"text number {i}" for i in range(20)]
        texts[6] = empty
        frame = pd.DataFrame({"comment": texts, "topic": ["a", "b"] * 10})
        path = tmp_path / f"texts.{form}"
        if form in ("csv", "tsv"):
            frame.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
        elif form == "parquet":
            frame.to_parquet(path)
        elif form == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        given = {"text": "comment", "label": "topic"}
        task = (
            Task.from_dataset(frame, **given)
            if form == "memory"
            else Task.from_files(path, **given)
        )
        refused(task, "'comment' has no text in row 7")
