"""`load_data`: splits, label numbers, encoding, batches."""

from __future__ import annotations

import copy
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tests_support import WORDS, tiny_tokenizer
from transformers import DataCollatorWithPadding

from bertcompress.data import align_labels, collator, load_data, numpy_batches
from bertcompress.errors import DataError
from bertcompress.task import Task

NLI = ("entailment", "neutral", "contradiction")
ORDER = ("neutral", "entailment", "contradiction")


def text(number: int) -> str:
    """A sentence of its own for each number, 2 to 13 words long."""
    rng = np.random.default_rng(number)
    return " ".join([*rng.choice(WORDS, size=2 + number % 11), str(number)])


def split(count: int, offset: int, label=None, pair: bool = False, feature=None) -> Dataset:
    columns = {"a": [text(offset + i) for i in range(count)]}
    if pair:
        columns["b"] = [text(10_000 + offset + i) for i in range(count)]
    if label is not None:
        columns["y"] = [label(i) for i in range(count)]
    made = Dataset.from_dict(columns)
    return made.cast_column("y", feature) if feature else made


def made(label=None, *, rows: int = 60, pair: bool = False, feature=None, **fields) -> Task:
    data = DatasetDict(
        train=split(rows, 0, label, pair, feature),
        validation=split(20, 90_000, label, pair, feature),
    )
    return Task.from_dataset(
        data, text=["a", "b"] if pair else "a", label=None if label is None else "y", **fields
    )


def parity(i: int) -> int:
    return i % 2


class TestSplits:
    def test_train_and_selection_part_the_training_set(self):
        data = load_data(made(parity, rows=200))
        train, selection = set(data.train["row_id"]), set(data.selection["row_id"])
        assert not train & selection
        assert train | selection == set(range(200))
        assert len(selection) == 20
        assert set(data.calibration["row_id"]) <= train

    def test_ids_are_unique_over_all_splits(self):
        task = made(parity)
        task.in_memory["other"] = split(7, 900, parity)
        data = load_data(task.model_copy(update={"also": {"hard": "other"}}))
        ids = [
            i
            for name in ("train", "selection", "validation", "hard")
            for i in data.split(name)["row_id"]
        ]
        assert sorted(ids) == list(range(60 + 20 + 7))

    def test_selection_is_stratified_and_bounded(self):
        data = load_data(made(lambda i: int(i % 10 == 0), rows=12_000))
        assert len(data.selection) == 1_000
        assert Counter(data.selection["label"]) == {0: 900, 1: 100}
        assert len(data.calibration) == 2_048

    def test_selection_of_numbers_covers_their_range(self):
        data = load_data(made(lambda i: i / 100, rows=1_000))
        assert data.task.problem == "regression"
        chosen = np.sort(data.selection["label"])
        assert np.abs(chosen - np.linspace(0, 10, 100)).max() < 0.15

    def test_the_seed_fixes_it(self):
        task = made(parity, rows=200)
        one, again, other = (load_data(task, seed=s) for s in (1, 1, 2))
        assert one.selection["row_id"][:] == again.selection["row_id"][:]
        assert one.calibration["row_id"][:] == again.calibration["row_id"][:]
        assert one.fingerprint == again.fingerprint
        assert one.selection["row_id"][:] != other.selection["row_id"][:]
        assert one.fingerprint != other.fingerprint

    def test_limit_takes_the_same_rows_for_every_seed(self):
        task = made(parity, rows=200)
        texts = [
            set(data.train["text"]) | set(data.selection["text"])
            for data in (load_data(task, limit=15, seed=s) for s in (0, 5))
        ]
        assert texts[0] == texts[1] and len(texts[0]) == 15
        assert len(load_data(task, limit=15).validation) == 15

    def test_texts_stay_with_their_labels(self):
        task = made(lambda i: f"class {i % 3}", rows=90, pair=True)
        raw = task.in_memory["train"]
        expected = {(r["a"], r["b"]): r["y"] for r in raw}
        data = load_data(task)
        for part in (data.train, data.selection, data.calibration):
            for row in part:
                name = data.labels[row["label"]]
                assert expected[row["text"], row["text_pair"]] == name

    def test_the_fingerprint_sees_rows_labels_and_length_but_not_names(self):
        base = load_data(made(parity)).fingerprint
        assert load_data(made(parity, name="other")).fingerprint == base
        assert load_data(made(parity, max_length=16)).fingerprint != base
        assert load_data(made(lambda i: int(i % 3 == 0))).fingerprint != base

    def test_an_unknown_split(self):
        with pytest.raises(DataError, match="did you mean 'selection'"):
            load_data(made(parity)).split("selecton")


class TestLabels:
    @pytest.mark.parametrize(
        ("label", "names", "first"),
        [
            (lambda i: ["b", "a", "c"][i % 3], ("a", "b", "c"), 1),
            (lambda i: [3, 1, 2][i % 3], ("1", "2", "3"), 2),
            (lambda i: i % 2 == 0, ("false", "true"), 1),
            (lambda i: [2, 10][i % 2], ("2", "10"), 0),
            (lambda i: [1, -1][i % 2], ("-1", "1"), 1),
        ],
    )
    def test_names_from_the_data(self, label, names, first):
        data = load_data(made(label))
        assert data.labels == names == data.task.labels
        assert data.num_labels == len(names)
        row = next(r for r in [*data.train, *data.selection] if r["row_id"] == 0)
        assert row["label"] == first

    def test_names_of_the_task_number_names_in_the_data(self):
        data = load_data(made(lambda i: ["no", "yes"][i % 2], labels=["yes", "no"]))
        assert data.labels == ("yes", "no")
        assert {r["row_id"] % 2: r["label"] for r in data.train} == {0: 1, 1: 0}

    def test_names_of_the_task_reorder_a_class_label(self):
        feature = ClassLabel(names=["No", "Yes"])
        data = load_data(made(parity, feature=feature, labels=["yes", "no"]))
        assert {r["row_id"] % 2: r["label"] for r in data.train} == {0: 1, 1: 0}

    @pytest.mark.parametrize(
        ("label", "names", "bits"),
        [
            (lambda i: [["x"], ["y", "x"], []][i % 3], ("x", "y"), [[1, 0], [1, 1], [0, 0]]),
            (
                lambda i: [[0], [1, 2], [2]][i % 3],
                ("0", "1", "2"),
                [[1, 0, 0], [0, 1, 1], [0, 0, 1]],
            ),
            (lambda i: [[1, 0], [1, 1], [0, 0]][i % 3], ("0", "1"), [[1, 0], [1, 1], [0, 0]]),
            (lambda i: [[1.0, 0.0], [0.0, 0.0]][i % 2], ("0", "1"), [[1, 0], [0, 0]]),
        ],
    )
    def test_multi_label(self, label, names, bits):
        data = load_data(made(label))
        assert data.task.problem == "multi_label" and data.labels == names
        for row in data.train:
            assert row["label"] == bits[row["row_id"] % len(bits)]

    def test_bits_are_told_from_classes_by_the_training_set(self):
        """`[0, 1]` in a small validation set means two classes where the training set says so."""
        task = made(lambda i: [[0, 1], [2], [1]][i % 3])
        task.in_memory["validation"] = split(2, 90_000, lambda i: [i, i + 1])
        assert load_data(task).validation["label"][:] == [[1, 1, 0], [0, 1, 1]]

    def test_regression(self):
        data = load_data(made(lambda i: i / 7))
        assert (data.num_labels, data.labels) == (1, ())
        assert data.train.features["label"].dtype == "float32"
        assert data.task.headline == "spearman" and data.task.chance == 0.0

    def test_unlabelled(self):
        data = load_data(made(), model_labels={0: "a", 1: "b"})
        assert data.task.problem == "unlabelled" and data.num_labels == 0
        assert "label" not in data.train.column_names
        assert data.task.metrics == ("agreement", "kl")

    def test_the_chance_level_is_the_best_constant_answer(self):
        data = load_data(made(lambda i: int(i % 4 == 0)))
        assert data.task.chance == 0.75
        always = made(lambda i: int(i % 4 == 0), metrics=["f1", "accuracy"])
        assert load_data(always).task.chance == pytest.approx(0.4)  # always 1: 2 * 0.25 / 1.25


class TestAlignment:
    @pytest.mark.parametrize(
        ("names", "id2label", "order"),
        [
            (NLI, {0: "contradiction", 1: "entailment", 2: "neutral"}, (1, 2, 0)),
            (NLI, {0: "ENTAILMENT", 1: "Neutral", 2: "contradiction"}, (0, 1, 2)),
            (("not_equivalent", "equivalent"), {0: "Equivalent", 1: "not equivalent"}, (1, 0)),
            (NLI, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, None),
            (NLI, {0: "entailment", 1: "contradiction"}, None),
            (("a", "b"), {0: "x", 1: "y"}, None),
            ((), {}, None),
        ],
    )
    def test_names(self, names, id2label, order):
        assert align_labels(names, id2label) == order

    def test_a_permuted_checkpoint_is_evaluated_right(self):
        """A model that is always right in its own numbering is right in ours."""
        id2label = {0: "Contradiction", 1: "Entailment", 2: "Neutral"}
        feature = ClassLabel(names=list(NLI))
        task = made(lambda i: i % 3, feature=feature, pair=True)
        plain, data = load_data(task), load_data(task, model_labels=id2label)
        assert data.labels == ("contradiction", "entailment", "neutral") == data.task.labels
        for ours, theirs in zip(plain.validation, data.validation, strict=True):
            assert plain.labels[ours["label"]] == data.labels[theirs["label"]]
            assert id2label[theirs["label"]].lower() == NLI[ours["label"]]

    def test_multi_label_bits_move(self):
        task = made(lambda i: [["x"], ["y"]][i % 2], labels=["x", "y"])
        data = load_data(task, model_labels={0: "Y", 1: "X"})
        assert data.labels == ("y", "x")
        assert {r["row_id"] % 2: r["label"] for r in data.train} == {0: [0, 1], 1: [1, 0]}

    def test_names_that_do_not_tell_warn(self):
        task, names = made(lambda i: ["no", "yes"][i % 2]), {0: "LABEL_0", 1: "LABEL_1"}
        with pytest.warns(UserWarning, match="in this order, no, yes"):
            data = load_data(task, model_labels=names)
        assert data.labels == ("no", "yes")

    def test_names_that_differ_are_not_taken_in_order(self):
        task = made(lambda i: ["no", "yes"][i % 2])
        assert load_data(task, model_labels={0: "up", 1: "down"}).order is None

    def test_a_head_of_another_width_is_left_alone(self):
        assert load_data(made(parity), model_labels={0: "a", 1: "b", 2: "c"}).labels == ("0", "1")


@pytest.fixture(scope="module")
def data():
    return load_data(made(parity, rows=120, pair=True, max_length=12))


class TestEncoding:
    def test_it_is_what_the_tokenizer_says(self, data, tokenizer):
        encoded = data.encode(tokenizer, "validation")
        for row, raw in zip(encoded, data.validation, strict=True):
            whole = tokenizer(raw["text"], raw["text_pair"], truncation=True, max_length=12)
            for name, values in whole.items():
                assert row[name] == values
            assert row["length"] == len(whole["input_ids"]) <= 12
            assert (row["labels"], row["row_id"]) == (raw["label"], raw["row_id"])

    def test_the_tokenizers_own_limit_holds(self, data):
        short = tiny_tokenizer()
        short.model_max_length = 8
        assert max(data.encode(short, "train")["length"]) == 8

    def test_it_is_kept_per_tokenizer(self, data, tokenizer):
        other = copy.deepcopy(tokenizer)
        assert data.encode(tokenizer, "train") is data.encode(tokenizer, "train")
        assert data.encode(other, "train") is not data.encode(tokenizer, "train")
        before = data.encode(other, "train")
        other.add_tokens(["wholly", "new"])
        assert data.encode(other, "train") is not before

    def test_a_teacher_with_another_tokenizer_is_asked_by_row(self, data, tokenizer):
        other = tiny_tokenizer()
        other.padding_side = "left"
        ids = [int(data.validation["row_id"][3]), int(data.selection["row_id"][0]), 5, 5]
        texts = {
            r["row_id"]: r
            for name in ("train", "selection", "validation")
            for r in data.split(name)
        }
        for row_id, row in zip(ids, data.rows(ids, other), strict=True):
            raw = texts[row_id]
            whole = other(raw["text"], raw["text_pair"], truncation=True, max_length=12)
            assert row["input_ids"].tolist() == whole["input_ids"]
            assert (row["row_id"], row["labels"]) == (row_id, raw["label"])

    @pytest.mark.parametrize("row_id", [-1, 140])
    def test_a_row_that_nobody_has(self, data, tokenizer, row_id):
        with pytest.raises(DataError, match=f"no row has the id {row_id}"):
            data.rows([row_id], tokenizer)

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("multiple", [None, 8])
    def test_collator_pads_as_transformers_does(self, data, side, multiple):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = side
        tokenizer.model_max_length = 40
        encoded = data.encode(tokenizer, "validation")
        rows = [encoded[i] for i in range(5)]
        plain = [{k: v for k, v in row.items() if k not in ("row_id", "length")} for row in rows]
        expected = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple)(plain)
        batch = collator(tokenizer, pad_to_multiple_of=multiple)(rows)
        assert set(batch) == set(expected) | {"row_id"}
        for name, values in expected.items():
            assert torch.equal(batch[name], values)
        again = collator(tokenizer, multiple)(data.rows(batch["row_id"].numpy(), tokenizer))
        assert all(torch.equal(again[name], batch[name]) for name in batch)

    def test_padding_to_a_multiple_stops_at_the_tokenizers_limit(self, data):
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = 12
        rows = data.rows(data.validation["row_id"][:], tokenizer)
        assert collator(tokenizer, 8)(rows)["input_ids"].shape[1] == 12

    @pytest.mark.parametrize("order", [True, False])
    def test_numpy_batches_hold_each_row_once(self, data, tokenizer, order):
        encoded = data.encode(tokenizer, "validation")
        seen, widths = [], []
        for positions, batch in numpy_batches(encoded, tokenizer, 6, sort_by_length=order):
            assert {v.dtype for v in batch.values()} == {np.dtype(np.int64)}
            widths.append(batch["input_ids"].shape[1])
            for place, position in enumerate(positions):
                length = encoded[int(position)]["length"]
                kept = batch["attention_mask"][place].astype(bool)
                assert kept.sum() == length
                assert (
                    batch["input_ids"][place][kept].tolist() == encoded[int(position)]["input_ids"]
                )
            seen += positions.tolist()
        assert sorted(seen) == list(range(20))
        assert (seen == list(range(20))) is not order
        assert not order or widths == sorted(widths, reverse=True)

    @pytest.mark.parametrize(
        ("label", "dtype", "shape"),
        [
            (parity, torch.int64, (4,)),
            (lambda i: i / 3, torch.float32, (4,)),
            (lambda i: [["x"], ["y"]][i % 2], torch.float32, (4, 2)),
        ],
    )
    def test_labels_are_of_the_kind_that_losses_want(self, tokenizer, label, dtype, shape):
        data = load_data(made(label))
        for rows in (
            [data.encode(tokenizer, "train")[i] for i in range(4)],
            data.rows(data.train["row_id"][:4], tokenizer),
        ):
            labels = collator(tokenizer)(rows)["labels"]
            assert (labels.dtype, tuple(labels.shape)) == (dtype, shape)

    def test_unlabelled_batches_have_no_labels(self, tokenizer):
        data = load_data(made())
        rows = data.rows([0, 1], tokenizer)
        assert set(collator(tokenizer)(rows)) >= {"input_ids", "attention_mask", "row_id"}
        assert "labels" not in collator(tokenizer)(rows)
        assert "labels" not in data.encode(tokenizer, "train").column_names


FRAME = {
    "comment": [
        "fine",
        "NA",
        "null",
        'a "quoted", text',
        "caf\u00e9",
        "7",
        *map(text, range(20)),
    ],
    "topic": ["a", "b"] * 13,
}


class TestSources:
    @pytest.fixture
    def frames(self):
        train = Dataset.from_dict(FRAME)
        rows = {"comment": [text(90), text(91), "new"], "topic": ["b", "a", "a"]}
        return DatasetDict(train=train, validation=Dataset.from_dict(rows))

    @pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet", "disk", "folder"])
    def test_every_form_gives_the_same_rows(self, frames, form, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        expected = load_data(Task.from_dataset(frames, text="comment", label="topic"))
        if form == "disk":
            frames.save_to_disk(tmp_path / "d")
            task = Task.from_files(tmp_path / "d", text="comment", label="topic")
        else:
            folder = tmp_path / "d"
            folder.mkdir()
            suffix = "parquet" if form == "folder" else form
            for name, part in frames.items():
                frame, path = part.to_pandas(), folder / f"{name}.{suffix}"
                if suffix in ("csv", "tsv"):
                    frame.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
                elif suffix == "parquet":
                    part.to_parquet(path)
                else:
                    frame.to_json(path, orient="records", lines=form == "jsonl")
            given = [folder] if form == "folder" else [folder / f"{n}.{suffix}" for n in frames]
            task = Task.from_files(*given, text="comment", label="topic")
        data = load_data(task)
        assert data.fingerprint == expected.fingerprint
        assert data.labels == ("a", "b")

    def test_a_local_copy_stands_in_for_the_hub(self, glue, monkeypatch):
        task = Task.load("glue/mrpc")
        by_argument = load_data(task, data_dir=glue)
        for name in ("BERTCOMPRESS_GLUE", "BERTCOMPRESS_DATA_DIR"):
            monkeypatch.delenv("BERTCOMPRESS_GLUE", raising=False)
            monkeypatch.setenv(name, str(glue))
            assert load_data(task).fingerprint == by_argument.fingerprint
        assert (len(by_argument.train), len(by_argument.selection)) == (3301, 367)

    def test_another_configuration_may_train(self, tmp_path, monkeypatch):
        """`ax` has texts to judge on only; what it calibrates on is MNLI's."""
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        pairs = {
            "premise": list(map(text, range(40))),
            "hypothesis": list(map(text, range(40, 80))),
        }
        names = Features(
            premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(names=list(NLI))
        )
        for config, label in (("mnli", 1), ("ax", -1)):
            (tmp_path / config).mkdir()
            rows = {name: [f"{config} {t}" for t in texts] for name, texts in pairs.items()}
            part = Dataset.from_dict(rows | {"label": [label] * 40}, features=names)
            part.to_parquet(tmp_path / config / "0.parquet")
        files = [("mnli", "train"), ("ax", "test")]
        configs = [
            {"config_name": c, "data_files": [{"split": s, "path": f"{c}/*"}]} for c, s in files
        ]
        (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
        data = load_data(
            Task.load("glue/ax"), data_dir=tmp_path, model_labels=dict(enumerate(ORDER))
        )
        assert data.train["text"][0].startswith("mnli")
        assert data.validation["text"][0].startswith("ax")
        assert data.labels == ORDER and data.num_labels == 3

    def test_the_embedded_task(self):
        data = load_data(Task.load("embedded"))
        assert (len(data.train), len(data.selection), len(data.validation)) == (3_600, 400, 1_000)
        assert data.labels == ("unacceptable", "acceptable")
