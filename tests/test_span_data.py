"""Questions as SQuAD's form has them: columns, its nested file, JSON lines, rows in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset
from spans_support import question_rows, span_task, write_questions
from tests_support import tiny_tokenizer

import bertcompress as bc
from bertcompress.cli.task import own_task
from bertcompress.data import load_data
from bertcompress.errors import DataError, InputError
from bertcompress.heads.gold_answers import are_answers, read_answers
from bertcompress.support.word_columns import columns_of

COLUMNS = {"text": ("question", "context"), "label": "answers"}


def nested(rows, version):
    """The same rows as SQuAD's own file has them."""
    paragraphs = []
    for row in rows:
        texts, starts = (row["answers"][name] for name in ("text", "answer_start"))
        pairs = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
        asked = {"id": row["id"], "question": row["question"], "answers": pairs}
        if version == "v2.0":
            asked |= {"is_impossible": not pairs}
            asked |= {} if pairs else {"plausible_answers": [{"text": "x", "answer_start": 0}]}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    half = len(paragraphs) // 2
    articles = [{"title": "a", "paragraphs": paragraphs[:half]},
                {"title": "b", "paragraphs": paragraphs[half:]}]  # fmt: skip
    return {"version": version, "data": articles}


def forms(rows, folder):
    """Each form that rows come in, as a task."""
    version = "v1.1" if all(row["answers"]["text"] for row in rows) else "v2.0"
    (folder / "squad.json").write_text(json.dumps(nested(rows, version)))
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "rows.json").write_text(json.dumps({"data": rows}))
    listed = [
        {**row, "answers": [{"text": t, "answer_start": s} for t, s in
                            zip(row["answers"]["text"], row["answers"]["answer_start"],
                                strict=True)]}
        for row in rows
    ]  # fmt: skip
    (folder / "listed.jsonl").write_text("\n".join(map(json.dumps, listed)))
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    Dataset.from_list(rows).to_pandas().assign(
        answers=[json.dumps(row["answers"]) for row in rows]
    ).to_csv(folder / "rows.csv", index=False)
    names = ("squad.json", "rows.jsonl", "rows.json", "listed.jsonl", "rows.parquet", "rows.csv")
    for name in names:
        yield name, bc.Task.from_files(folder / name, **COLUMNS)
    yield "Dataset", bc.Task.from_dataset(Dataset.from_list(rows), **COLUMNS)
    yield "DataFrame", bc.Task.from_dataset(Dataset.from_list(rows).to_pandas(), **COLUMNS)


@pytest.mark.parametrize("silent", [0.0, 0.4])
def test_every_form_gives_the_same_rows(tmp_path, silent):
    rows = question_rows(40, silent=silent)
    expected = None
    for name, task in forms(rows, tmp_path):
        data = load_data(task)
        assert data.task.problem == "spans", name
        found = [data.split(split)[column][:] for split in ("train", "selection", "validation")
                 for column in ("text", "text_pair", "label")]  # fmt: skip
        expected = expected or found
        assert found == expected, name
    assert {bool(label["text"]) for label in found[2]} == ({True, False} if silent else {True})


def test_questions_on_one_context_stay_together(tmp_path):
    rows = [{**row, "question": f"{word} {row['question']}"}
            for row in question_rows(30) for word in ("cat", "dog", "bird", "tree")]  # fmt: skip
    data = load_data(bc.Task.from_dataset(Dataset.from_list(rows), **COLUMNS))
    parts = [set(data.split(name)["text_pair"][:]) for name in ("train", "selection", "validation")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 30
    assert all(parts) and len(data.train) + len(data.selection) + len(data.validation) == 120


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (
            {"text": ["red tree"], "answer_start": [9]},
            r"row 2: 'red tree' at 9, where the context has .* \(it stands at 8\)",
        ),
        ({"text": ["blue"], "answer_start": [8]}, r"row 2: 'blue' at 8, .*it stands nowhere in it"),
        ({"text": ["red"], "answer_start": [-1]}, r"row 2: 'red' at -1.*it stands at 8"),
        ({"text": [""], "answer_start": [0]}, r"row 2: '' at 0"),
        ({"text": ["red", "tree"], "answer_start": [8]}, r"row 2: 2 answers with 1 places"),
        ({"text": [5], "answer_start": [8]}, r"row 2: the answer 5 at 8 is no text"),
        ({"text": ["red"], "answer_start": ["8"]}, r"row 2: the answer 'red' at '8'"),
        ("red tree", r"row 2: answers that are a text"),
        (["red tree"], r"row 2: answers of type list"),
    ],
)
def test_answers_that_are_not_where_they_should_be_are_named(tmp_path, answers, says):
    rows = [*question_rows(1), {"id": "x", "question": "cat?", "context": "the dog red tree sees"},
            *question_rows(6, seed=3)]  # fmt: skip
    rows[1]["answers"] = answers
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=rf"{tmp_path.name}.*train.*{says}"):
        load_data(bc.Task.from_files(tmp_path / "train.jsonl", **COLUMNS))


@pytest.mark.parametrize("lacking", ["question", "context"])
def test_a_row_without_a_question_or_a_context_is_named(tmp_path, lacking):
    rows = question_rows(8)
    rows[4] |= {lacking: " ", "answers": {"text": [], "answer_start": []}}
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=f"row 5 has no {lacking}"):
        load_data(bc.Task.from_files(tmp_path / "train.jsonl", **COLUMNS))


def test_a_damaged_nested_file_is_named(tmp_path):
    whole = nested(question_rows(8), "v1.1")
    del whole["data"][1]["paragraphs"][2]["qas"][0]["answers"]
    (tmp_path / "s.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match="article 2, paragraph 3, question 1: no `answers`"):
        load_data(bc.Task.from_files(tmp_path / "s.json", **COLUMNS))
    whole["data"][1]["paragraphs"][0]["qas"] = "none"
    (tmp_path / "s.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match="article 2, paragraph 1: `qas` is no list"):
        load_data(bc.Task.from_files(tmp_path / "s.json", **COLUMNS))


def test_columns_of_squad_need_no_names(tmp_path):
    rows = question_rows(8)
    for name, _ in forms(rows, tmp_path):
        if (tmp_path / name).is_file() and name not in ("rows.csv", "rows.json"):
            assert columns_of(tmp_path / name) == (("question", "context"), "answers")
    (tmp_path / "other.jsonl").write_text('{"text": "x", "label": 1}')
    assert columns_of(tmp_path / "other.jsonl") is None
    assert columns_of(tmp_path / "absent.json") is None


@pytest.mark.parametrize("cell", [None, [], {"text": [], "answer_start": []}, ""])
def test_a_row_without_an_answer(cell):
    assert read_answers("here", cell) == {"text": [], "answer_start": []}


def test_hidden_answers_are_refused(tmp_path):
    write_questions(tmp_path)
    hidden = [{**row, "answers": None} for row in question_rows(9)]
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, hidden)))
    with pytest.raises(DataError, match=r"validation.*no row has an answer; hidden"):
        load_data(span_task(tmp_path))


def test_what_is_of_the_form_of_squad():
    assert are_answers({"text": ["x"], "answer_start": [0]})
    assert not are_answers(["x"]) and not are_answers("x") and not are_answers(None)


def test_labels_point_at_the_answer_in_every_window(tmp_path):
    data = load_data(span_task(write_questions(tmp_path, silent=0.3)))
    tokenizer = tiny_tokenizer()
    encoded = data.encoded(tokenizer, "train")
    assert len(encoded.dataset) > encoded.rows
    hit = set()
    for i, row in enumerate(encoded.row_of_feature.tolist()):
        feature, golds = encoded.feature(i), data.train["label"][row]["text"]
        first, last = feature["labels"]
        if (first, last) == (0, 0):
            continue
        assert tokenizer.decode(feature["input_ids"][first : last + 1]) == golds[0]
        hit.add(row)
    assert hit == {i for i, label in enumerate(data.train["label"][:]) if label["text"]}


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded_with_their_labels(tmp_path, side):
    data, tokenizer = load_data(span_task(write_questions(tmp_path))), tiny_tokenizer()
    tokenizer.padding_side = side
    encoded = data.encoded(tokenizer, "train")
    chosen = np.argsort(encoded.dataset["length"][:], kind="stable")[[0, -1, 40]].tolist()
    batch = data.collator(tokenizer)([encoded.dataset[i] for i in chosen])
    names = ["input_ids", "attention_mask", "start_positions", "end_positions"]
    stock = data.collator(tokenizer)([encoded.dataset.select_columns(names)[i] for i in chosen])
    assert sorted(stock) == sorted(names)
    assert batch["labels"].T.tolist() == [stock[name].tolist() for name in names[2:]]
    for row, i in enumerate(chosen):
        one = encoded.feature(i)
        first, last = batch["labels"][row].tolist()
        mine = one["input_ids"][one["labels"][0] : one["labels"][1] + 1].tolist()
        assert batch["input_ids"][row, first : last + 1].tolist() == mine
        shown = batch["attention_mask"][row].bool()
        assert batch["answerable"][row][shown].tolist() == one["answerable"].tolist()
        assert not batch["answerable"][row][~shown].any()


def test_the_catalogue_has_squad():
    for name, version in (("squad", 1), ("squad_v2", 2)):
        task = bc.Task.load(name)
        assert (task.head.key, task.headline) == ("spans", "f1")
        assert ("f1_unanswerable" in task.metrics) == (version == 2)


def test_the_command_line_needs_no_columns(tmp_path):
    (tmp_path / "train-v2.0.json").write_text(
        json.dumps(nested(question_rows(30, silent=0.3), "v2.0"))
    )
    train = str(tmp_path / "train-v2.0.json")
    task = own_task(None, train, None, None, None, None)
    assert (task.text, task.label) == (("question", "context"), "answers")
    assert load_data(task).task.problem == "spans"
    (tmp_path / "other.jsonl").write_text('{"text": "x", "label": 1}')
    with pytest.raises(InputError, match="which column holds the text"):
        own_task(None, str(tmp_path / "other.jsonl"), None, None, None, None)
