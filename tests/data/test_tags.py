"""Words and tags as people have them: CoNLL files, JSON lines, data sets with `ClassLabel`."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from tags_support import NAMES, rows_of, write_conll

import bertcompress as bc
from bertcompress.cli.task import own_task
from bertcompress.data import load_data
from bertcompress.data.conll_files import read_conll
from bertcompress.errors import DataError, InputError, TaskError

TRAIN, JUDGED = rows_of(160, 0), rows_of(60, 1)


def read(path, text, **fields):
    path.write_text(text, encoding="utf-8")
    return read_conll(path, bc.Task.from_files(path, **fields))


@pytest.mark.parametrize(
    ("text", "words", "tags"),
    [
        ("EU B-ORG\nrejects O\n\nPeter B-PER\n", [["EU", "rejects"], ["Peter"]],
         [["B-ORG", "O"], ["B-PER"]]),
        ("-DOCSTART- -X- -X- O\n\nEU NNP I-NP B-ORG\n\n\n\nno DT O O\n", [["EU"], ["no"]],
         [["B-ORG"], ["O"]]),
        ("-DOCSTART-\n\na\tO\n", [["a"]], [["O"]]),
        ("a b\tO\n\u200b\tO\n", [["a b", "\u200b"]], [["O", "O"]]),
        ("# id = 1\na O\n\n# O\n", [["a"], ["#"]], [["O"], ["O"]]),
        ("# id 7f\tdomain=en\n\na _ _ O\n\n# id 8 domain=en\nb _ _ B-X\n\n# _ _ O\n",
         [["a"], ["b"], ["#"]], [["O"], ["B-X"], ["O"]]),
        ("# sent_id = 5\nEU NNP O B-ORG\n", [["EU"]], [["B-ORG"]]),
        ("#tag O\nb O\n", [["#tag", "b"]], [["O", "O"]]),
        ("a\u2028b O\r\nc\u00a0d O\r\n\r\ne O", [["a\u2028b", "c\u00a0d"], ["e"]],
         [["O", "O"], ["O"]]),
        ("a   \t O \n", [["a"]], [["O"]]),
        (" \t\n\na O\n   \nb O\n", [["a"], ["b"]], [["O"], ["O"]]),
    ],
    ids=["two", "four", "document", "tabs", "comment", "multiconer", "conllu", "hash", "odd-ends",
         "mixed", "blank"],
)  # fmt: skip
def test_conll_files_are_read(tmp_path, text, words, tags):
    table = read(tmp_path / "a.conll", text)
    assert (table.columns["tokens"], table.columns["ner_tags"]) == (words, tags)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a O\nb\n", r"a.conll:2: 1 column, the lines before have 2"),
        ("a O\n\nb X O\n", r"a.conll:3: 3 columns, the lines before have 2"),
        ("a\tO\nb\t\n", r"a.conll:2: the word 'b' has no tag"),
        ("a\nb\n", r"a.conll:1: one column; a word and its tag are expected"),
    ],
)
def test_an_uneven_line_is_named(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        read(tmp_path / "a.conll", text)


@pytest.mark.parametrize("ending", ["conll", "iob", "iob2", "bio", "conll.gz"])
def test_every_ending_of_such_files_is_known(tmp_path, ending):
    files = [tmp_path / f"{name}.{ending}" for name in ("train", "validation")]
    for path, rows in zip(files, (TRAIN, JUDGED), strict=True):
        write_conll(path, rows)
        if ending.endswith("gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    data = load_data(bc.Task.from_files(*files))
    assert (data.task.problem, data.labels, len(data.validation)) == ("tokens", NAMES, 60)
    assert data.validation["words"][:] == [words for words, _ in JUDGED]


def test_one_file_is_enough(tmp_path):
    data = load_data(bc.Task.from_files(write_conll(tmp_path / "rows.conll", TRAIN)))
    assert len(data.validation) + len(data.train) + len(data.selection) == 160


def rows_as(kind):
    """Splits of the same rows in another form."""
    numbers = {name: i for i, name in enumerate(reversed(NAMES))}
    for rows in (TRAIN, JUDGED):
        words = [w for w, _ in rows]
        tags = [t for _, t in rows]
        if kind == "names":
            yield Dataset.from_dict({"tokens": words, "ner_tags": tags})
        elif kind == "frame":
            yield pd.DataFrame({"words": words, "tags": tags})
        else:
            whole = [[numbers[t] for t in row] for row in tags]
            feature = ClassLabel(names=[*reversed(NAMES)]) if kind == "classes" else Value("int64")
            features = Features({"tokens": List(Value("string")), "labels": List(feature)})
            yield Dataset.from_dict({"tokens": words, "labels": whole}, features=features)


@pytest.mark.parametrize("kind", ["names", "frame", "classes", "numbers"])
def test_data_sets_of_words_are_read(kind):
    fields = {"labels": [*reversed(NAMES)]} if kind == "numbers" else {}
    splits = dict(zip(("train", "validation"), rows_as(kind), strict=True))
    data = load_data(bc.Task.from_dataset(splits, **fields))
    assert data.task.problem == "tokens" and set(data.labels) == set(NAMES)
    given = [[data.labels[i] for i in row] for row in data.validation["label"][:]]
    assert given == [tags for _, tags in JUDGED]


def test_json_lines_of_lists_are_read(tmp_path):
    files = [tmp_path / f"{name}.jsonl" for name in ("train", "validation")]
    for path, rows in zip(files, (TRAIN, JUDGED), strict=True):
        path.write_text("\n".join(json.dumps({"words": w, "tags": t}) for w, t in rows))
    data = load_data(own_task(None, *map(str, files), None, None, None))
    assert (data.task.text, data.task.label, data.labels) == (("words",), "tags", NAMES)


def test_columns_that_nothing_tells_are_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"sentence": ["a"], "tags": ["O"]}\n')
    with pytest.raises(InputError, match="--text: which column"):
        own_task(None, str(path), None, None, None, None)
    with pytest.raises(TaskError, match="text: which column"):
        bc.Task.from_files(path)
    with pytest.raises(TaskError, match="text: which column"):
        bc.Task.from_dataset(Dataset.from_dict({"text": ["a"]}))


def test_words_without_a_tag_do_not_count():
    rows = [(w, [-100 if t == "O" else NAMES.index(t) for t in tags]) for w, tags in TRAIN]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=NAMES))})
    table = {"tokens": [w for w, _ in rows], "tags": [[max(t, 0) for t in ts] for _, ts in rows]}
    part = Dataset.from_dict(table, features=features)
    whole = Dataset.from_dict({"tokens": table["tokens"], "tags": [t for _, t in rows]})
    assert load_data(bc.Task.from_dataset(part)).labels == NAMES
    data = load_data(bc.Task.from_dataset(whole, labels=list(NAMES)))
    assert {tag for row in data.train["label"][:] for tag in row} == {-100, 0, 1, 2}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w, t: (w, t[:-1]), r"tags in row 3"),
        (lambda w, t: (None, t), r"'tokens' holds NoneType, not lists of words, in row 3"),
        (lambda w, t: ([], []), r"has no text in row 3"),
        (lambda w, t: (w, [None, *t[1:]]), r"missing or NaN label in row 3"),
    ],
    ids=["uneven", "none", "empty", "missing"],
)
def test_what_is_wrong_with_a_row_is_named(change, says):
    rows = [*TRAIN]
    rows[2] = change(*rows[2])
    table = Dataset.from_dict({"tokens": [w for w, _ in rows], "tags": [t for _, t in rows]})
    with pytest.raises(DataError, match=says):
        load_data(bc.Task.from_dataset(table))


def test_a_text_is_no_list_of_words():
    table = Dataset.from_dict({"text": ["a b"] * 40, "tags": [["O", "O"]] * 40})
    with pytest.raises(DataError, match="'text' holds str, not lists of words"):
        load_data(bc.Task.from_dataset(table, text="text", label="tags", problem="tokens"))


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ([[0, 1], [2, 0]], "are numbers without names, so that no entity is known"),
        ([["o", "B-X"], ["B-Y", "o"]], "have an 'o' and no 'O'"),
        ([["O", "B-X"], ["B-Y", "O"]], None),
        ([["NN", "VB"], ["NN", "DT"]], None),
    ],
    ids=["numbers", "small", "usual", "speech"],
)
def test_tags_that_name_no_entity_are_told(tags, says, recwarn):
    """They were scored word by word, and nobody was told."""
    rows = Dataset.from_dict({"words": [[f"a{i}", "b"] for i in range(40)], "tags": tags * 20})
    load_data(bc.Task.from_dataset(rows, text="words", label="tags"))
    found = [str(each.message) for each in recwarn if "no entity" in str(each.message)
             or "no 'O'" in str(each.message)]  # fmt: skip
    assert (not found) if says is None else any(says in line for line in found)
