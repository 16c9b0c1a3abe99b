"""`max_length`: what the rows need, bounded by the model, and the share of what is cut."""

from __future__ import annotations

import sys

import pytest
import torch
from data_support import known_words, lines, own, read
from tests_support import WORDS, tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.cli.main import main
from bertcompress.support import catalogue
from bertcompress.task import Task


def words(counts: list[int], start: int = 0) -> str:
    """Texts of so many words, all different; each word is one token, and two are added."""
    rows = []
    for i, count in enumerate(counts):
        number = start + i
        tail = [WORDS[number // 20**k % 20] for k in range(3)]
        rows.append(" ".join(["the"] * (count - 3) + tail) + f",{'ab'[i % 2]}")
    return "\n".join(["comment,topic", *rows]) + "\n"


@pytest.mark.parametrize(
    ("longest", "expected"), [(9, 16), (14, 16), (15, 24), (30, 32), (60, 64), (200, 208)]
)
def test_it_is_what_the_longest_row_of_any_split_needs(longest, expected, tokenizer, tmp_path):
    task = own(tmp_path, words([6] * 40), words([5, longest], 900))
    data, _ = read(task)
    assert data.task.max_length is None
    fitted = data.fitted(tokenizer)
    assert fitted.task.max_length == expected and not fitted.notes
    assert fitted.asked_length is None
    assert f"max_length {expected}: the longest row has {longest + 2} tokens" in fitted.said
    assert max(fitted.encode(tokenizer, "validation")["length"]) == longest + 2


def test_it_is_bounded_by_the_model_and_the_share_is_told(tokenizer, tmp_path):
    task = own(tmp_path, words([60] * 10 + [6] * 30), words([5, 60], 900))
    fitted = read(task)[0].fitted(tokenizer, 40)
    assert fitted.task.max_length == 40
    assert fitted.notes == (
        "max_length 40, the most that the model takes, cuts 26.2% of the rows (11 of 42: train "
        f"{_share(fitted, 'train')}, selection {_share(fitted, 'selection')}, validation 50.0%); "
        "the longest has 62 tokens",
    )
    assert max(fitted.encode(tokenizer, "train")["length"]) == 40


def _share(data, split: str) -> str:
    texts = data.split(split)["text"]
    return f"{sum(len(text) > 150 for text in texts) / len(texts):.1%}"


def test_the_tokenizers_own_limit_bounds_it_too(tmp_path):
    short = tiny_tokenizer()
    short.model_max_length = 20
    fitted = read(own(tmp_path, words([60, 6] * 10), words([5, 9], 900)))[0].fitted(short, 40)
    assert fitted.task.max_length == 20 and "the most that the model takes" in fitted.notes[0]


def test_a_length_that_is_given_stays_and_its_cuts_are_told(tokenizer, tmp_path):
    table = words([60, 6] * 10)
    fitted = read(own(tmp_path, table, words([5, 9], 900), max_length=16))[0].fitted(tokenizer, 40)
    assert fitted.task.max_length == fitted.asked_length == 16
    assert fitted.notes[0].startswith("max_length 16 cuts 45.5% of the rows (10 of 22")
    fitted = read(own(tmp_path, words([9] * 20), words([5, 9], 900), max_length=16))[0].fitted(
        tokenizer, 40
    )
    assert fitted.task.max_length == 16 and fitted.notes == ()


def test_the_fingerprint_sees_the_settled_length(tokenizer, tmp_path):
    data, _ = read(own(tmp_path, words([60] * 20), words([5, 9], 900)))
    prints = {data.fitted(tokenizer, longest).fingerprint for longest in (30, 40, 62, 64, 100)}
    assert len(prints) == 4  # 64 and 100 both give 64
    given = read(own(tmp_path, words([60] * 20), words([5, 9], 900), max_length=40))[0]
    assert given.fitted(tokenizer, 40).fingerprint == data.fitted(tokenizer, 40).fingerprint


@pytest.mark.parametrize("name", [n for n in catalogue.list_names("tasks") if "glue" in n])
def test_glue_keeps_its_128(name):
    assert Task.load(name).max_length == 128


def test_a_large_split_is_measured_on_a_sample_and_its_longest(tokenizer, tmp_path, monkeypatch):
    for name, value in (("MEASURED", 100), ("_SAMPLE", 40), ("_LONGEST", 5)):
        monkeypatch.setattr(f"bertcompress.data.lengths.{name}", value)
    monkeypatch.setattr("bertcompress.data.task_data.MEASURED", 100)
    counts = [6] * 399 + [50]
    data, _ = read(own(tmp_path, words(counts), words([5, 9], 900)))
    assert data.fitted(tokenizer).task.max_length == 56
    note = data.fitted(tokenizer, 40).notes[0]
    assert note.startswith("max_length 40, the most that the model takes, cuts about ")


def test_an_empty_second_text_is_a_single_text(tokenizer, tmp_path):
    rows = "a,b,topic\n" + "".join(
        f"the {WORDS[i]} cat,{'' if i % 2 else 'a dog'},{'xy'[i % 2]}\n" for i in range(20)
    )
    task = own(tmp_path, rows, rows.replace("cat", "bird"), text=["a", "b"])
    data = read(task)[0].fitted(tokenizer)
    for split in ("train", "validation"):
        for row, raw in zip(data.encode(tokenizer, split), data.split(split), strict=True):
            pair = [raw["text"], *([raw["text_pair"]] if raw["text_pair"] else [])]
            expected = tokenizer(*pair)
            assert {name: row[name] for name in expected} == dict(expected)


class TestCommandLine:
    @pytest.fixture
    def place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.manual_seed(0)
        names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
        bc.save(tiny_model(num_labels=2, vocab_size=64, **names), "tuned", known_words())
        (tmp_path / "train.csv").write_text(words([60] * 5 + [6] * 35))
        (tmp_path / "validation.csv").write_text(words([5, 60, 7, 8], 900))
        (tmp_path / "recipe.yaml").write_text(
            "model: tuned\nmethods:\n- prune_structured: {keep: 0.5, rows: 8}\n"
            "measure: {latency: false}\n"
        )
        return tmp_path

    def command(self, monkeypatch, capsys, *arguments):
        monkeypatch.setattr(sys, "argv", ["bertcompress", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    OWN = ("--train", "train.csv", "--validation", "validation.csv", "--text", "comment",
           "--label", "topic")  # fmt: skip

    def test_a_run_says_at_once_and_reports_what_is_cut(self, place, monkeypatch, capsys):
        code, told = self.command(
            monkeypatch, capsys, "run", "recipe.yaml", "--out", "out", *self.OWN
        )
        assert code == 0, told.err
        line = "max_length 40, the most that the model takes, cuts 13.6% of the rows (6 of 44"
        assert line in told.err and "topic: 2 classes (a, b)" in told.err
        assert told.err.index(line) < told.err.index("stage 1 of 1: prune_structured")
        assert line in " ".join(told.out.split())
        assert line in " ".join(bc.Report.load("out").notes)

    def test_evaluate_says_what_is_cut(self, place, monkeypatch, capsys):
        code, told = self.command(monkeypatch, capsys, "evaluate", "tuned", *self.OWN)
        assert code == 0 and "cuts 13.6% of the rows" in told.err

    def test_several_labels_in_one_cell(self, place, monkeypatch, capsys):
        cells = ["a|b", "a", "b", ""]
        (place / "train.csv").write_text(lines(cells * 9))
        (place / "validation.csv").write_text(lines(cells, 900))
        code, told = self.command(
            monkeypatch, capsys, "evaluate", "tuned", *self.OWN, "--label-separator", "|"
        )
        assert code == 0, told.err
        assert "f1_micro" in told.out

    def test_one_file_is_enough(self, place, monkeypatch, capsys):
        write_rows(place / "rows.csv", 60, 0, yes="b", no="a")
        code, told = self.command(
            monkeypatch, capsys, "evaluate", "tuned", "--train", "rows.csv", "--text", "text",
            "--label", "label",
        )  # fmt: skip
        assert code == 0 and "12 of 60 rows of 'train' are split off" in told.err
