"""A head from outside the package: one class and one line, and the whole main job serves it."""

from __future__ import annotations

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests_support import WORDS, tiny_model, tiny_tokenizer
from torch.nn import functional

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.deployment import Product
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.errors import DataError, ModelError, TaskError
from bertcompress.heads import HEADS
from bertcompress.heads.classes import Classes
from bertcompress.heads.features import Encoded, end_to_end
from bertcompress.heads.head import Head, finite
from bertcompress.heads.numbers import Numbers
from bertcompress.measure.scores import predict
from bertcompress.method import Context, Models
from bertcompress.methods.distillation.distill import Distill
from bertcompress.metrics import Metric
from bertcompress.metrics.statistics import mean
from bertcompress.runtimes.torch import TorchPredictor

pytestmark = pytest.mark.usefixtures("without_figures")


def rounded(decided, references):
    """Return 1 where the nearest whole number is right, and 1. Shape: (N,) twice -> (N, 2)."""
    return np.stack([np.round(decided) == references, np.ones(len(decided))], axis=1)


class Counts(Numbers):
    """How often something happens: the output is the logarithm of a Poisson rate."""

    key: ClassVar[str] = "counts"
    metrics: ClassVar = {"hits": Metric("hits", "share of counts met", rounded, mean, "numbers")}
    usual: ClassVar = ("hits",)
    has_units: ClassVar = False

    def decided(self, metric, logits):
        """Return the expected count. Shape: (N, 1) -> (N,)."""
        return np.exp(finite(logits)[:, 0])

    loss = Head.loss

    def losses(self, outputs, batch):
        """Return the Poisson loss of each row. Shape: (B, 1), (B,) -> (B,)."""
        labels = batch["labels"].to(outputs.device)
        return functional.poisson_nll_loss(outputs.squeeze(-1), labels, reduction="none")


@pytest.fixture
def task(tmp_path):
    """How often `good` stands in a text of some words."""
    rng = np.random.default_rng(0)
    for name, rows in (("train", 200), ("validation", 60)):
        lines = []
        for _ in range(rows):
            count = int(rng.integers(0, 4))
            others = rng.choice([word for word in WORDS if word != "good"], 5).tolist()
            words = rng.permutation(["good"] * count + others).tolist()
            lines.append(json.dumps({"text": " ".join(words), "label": count}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = (tmp_path / "train.jsonl", tmp_path / "validation.jsonl")
    return lambda **fields: bc.Task.from_files(*files, text="text", label="label", **fields)


def test_a_head_is_one_class_and_one_line(task, tmp_path, monkeypatch):
    monkeypatch.setitem(HEADS, "counts", Counts())
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    train = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32", "epochs": 4}
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": task(problem="counts", max_length=16),
            "methods": [
                {"finetune": train},
                {"prune_structured": {"keep": 0.5, "rows": 32}},
                {"distill": {**train, "epochs": 1}},
                {"quantize_int8": {"runtimes": ["onnxruntime"]}},
            ],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "run")
    assert run.report.task["problem"] == "counts"
    fitted = run.report.stages[0].deployments[0].headline
    assert (fitted.metric, fitted.ci_low > 0.5) == ("hits", True)  # a constant gets a quarter
    assert run.report.last.deployments[-1].headline.metric == "hits"
    product = bc.load(run.folder / "stages" / "01-finetune" / "model")
    batch = product.tokenizer(["good good good bad", "bad bad"], return_tensors="pt", padding=True)
    with torch.no_grad():
        rates = product.model(**batch).logits.squeeze(-1).exp().tolist()
    assert rates[0] > rates[1] + 1  # the logarithm was trained, not the count
    scores = bc.evaluate(run.folder)
    assert [score.metric for score in scores] == ["hits"]


def test_an_unknown_problem_is_told_the_known_ones(task):
    with pytest.raises(TaskError, match=r"problem: unknown problem 'count'.*single_label"):
        task(problem="count")


def test_a_head_that_lacks_a_part_is_no_head():
    class Half(Head):
        key: ClassVar[str] = "half"

    with pytest.raises(TypeError, match=r"abstract.*decided.*losses"):
        Half()


class Spied(Counts):
    """Counts that remember what they were asked for."""

    asked: ClassVar[set[str]] = set()

    def drawn_losses(self, outputs, reference, batch, generator):
        """Return the loss against counts drawn with the reference's rates."""
        self.asked.add("drawn_losses")
        drawn = torch.poisson(reference.float().cpu().exp(), generator=generator).squeeze(-1)
        return self.losses(outputs, {**batch, "labels": drawn})

    def losses(self, outputs, batch):
        """Return the Poisson loss of each row."""
        self.asked.add("losses")
        return super().losses(outputs, batch)

    def movement(self, logits, original):
        """Return how far the logarithms of the rates moved."""
        self.asked.add("movement")
        return super().movement(logits, original)


LABELS = {"batch_size": 8, "precision": "fp32", "epochs": 1, "logit_weight": 0, "hidden_weight": 0}


@pytest.mark.parametrize(
    ("method", "asks"),
    [
        ({"kprune": {"keep": 0.5, "rows": 16}}, "drawn_losses"),
        ({"prune_structured": {"keep": 0.5, "rows": 16}}, "losses"),
        ({"factorize_linear": {"keep": 0.7, "rows": 16, "metric": "fisher"}}, "drawn_losses"),
        ({"flop": {**LABELS, "keep": 0.7, "rows": 16}}, "drawn_losses"),
        ({"q_bert": {"high_share": 0.4, "shards": 1, "group": 16, "epochs": 0}}, "losses"),
        ({"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": 0.0}}, "movement"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_methods_score_by_the_head_of_the_task(task, tmp_path, monkeypatch, method, asks):
    monkeypatch.setitem(HEADS, "counts", Spied())
    monkeypatch.setattr(Spied, "asked", set())
    data = load_data(task(problem="counts", max_length=16))
    product = Product(tiny_model("bert", num_labels=1), tiny_tokenizer())
    ctx = Context(data.task, data, Models(), torch.device("cpu"), 0, tmp_path)
    (step,) = bc.Recipe.parse({"model": "x", "task": data.task, "methods": [method]}).methods
    step.apply(product, ctx)
    assert asks in Spied.asked


class Windows(Classes):
    """Texts of any length in windows of `max_length` tokens; a row is the mean of its windows."""

    key: ClassVar[str] = "windows"

    def encode(self, rows, tokenizer, task):
        """Return the windows of each row, one after the other."""
        made = tokenizer(
            rows["text"][:],
            truncation=True,
            max_length=task.max_length,
            return_overflowing_tokens=True,
        )
        tokens = {name: made[name] for name in ("input_ids", "attention_mask")}
        return Encoded.of(*end_to_end(tokens), rows, made["overflow_to_sample_mapping"])

    def answers(self, outputs, encoded):
        """Return the mean output of each row's windows. Shape: F of (K,) -> (N, K)."""
        sums = np.zeros((encoded.rows, len(outputs[0])), np.float32)
        np.add.at(sums, encoded.row_of_feature, np.stack(outputs))
        return sums / np.bincount(encoded.row_of_feature)[:, None]


@pytest.fixture
def long_texts(tmp_path):
    """Texts of 3 to 30 words, of which every third tells the class."""
    rng = np.random.default_rng(0)
    others = [word for word in WORDS if word not in ("good", "bad")]
    for name, rows in (("train", 120), ("validation", 40)):
        lines = []
        for i in range(rows):
            words = rng.choice(others, int(rng.integers(3, 31)))
            words[::3] = ("bad", "good")[i % 2]
            lines.append(json.dumps({"text": " ".join(words), "label": ("no", "yes")[i % 2]}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = (tmp_path / "train.jsonl", tmp_path / "validation.jsonl")
    given = {"text": "text", "label": "label", "problem": "windows", "max_length": 10}
    return lambda **fields: bc.Task.from_files(*files, **given | fields)


@pytest.fixture
def windows(monkeypatch):
    """The table of heads with one more line."""
    monkeypatch.setitem(HEADS, "windows", Windows())


@pytest.mark.slow
def test_a_head_of_several_features_a_row_is_one_class_and_one_line(windows, long_texts, tmp_path):
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    train = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": long_texts(),
            "methods": [
                {"finetune": {**train, "epochs": 2}},
                {"kprune": {"keep": 0.5, "rows": 16}},
                {"distill": {**train, "epochs": 1}},
                {"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": 0.0}},
            ],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "run")
    for stage in run.report.stages:
        for each in stage.deployments:
            assert each.headline.n == 40  # rows, whatever windows they make
    assert run.report.stages[0].deployments[0].headline.ci_low > 0.5
    assert run.report.data.cut["validation"] == 0  # nothing is cut where there are windows
    with np.load(run.folder / "stages" / "01-finetune" / "logits.npz") as stored:
        assert {stored[name].shape for name in stored.files} == {(12, 2), (40, 2)}  # selection
    (score,) = [each for each in bc.evaluate(run.folder) if each.headline]
    assert (score.n, score.split) == (40, "validation")


def test_features_know_their_rows(windows, long_texts):
    data, tokenizer = load_data(long_texts()), tiny_tokenizer()
    encoded = data.encoded(tokenizer, "validation")
    windows_of = np.bincount(encoded.row_of_feature)
    assert (encoded.rows, len(encoded.dataset)) == (40, windows_of.sum())
    assert windows_of.min() == 1 and windows_of.max() > 3
    assert max(encoded.dataset["length"][:]) == data.task.max_length
    row = int(windows_of.argmax())
    ids = [data.validation["row_id"][row]] * 2
    first, third = data.rows(ids, tokenizer, [0, 2])
    text = tokenizer.tokenize(data.validation["text"][row])
    shown = tokenizer.convert_ids_to_tokens(third["input_ids"])
    assert shown[1:-1] == text[16:24]  # [CLS] and [SEP] leave eight of ten
    assert (first["part"], third["part"], first["labels"]) == (0, 2, third["labels"])
    with pytest.raises(DataError, match=r"row id \d+: row \d+ has \d features, and no part 9"):
        data.rows(ids[:1], tokenizer, [9])
    assert set(encoded.first(3)["row_id"]) == set(data.validation["row_id"][:3])


def test_a_row_is_answered_by_all_its_windows(windows, long_texts):
    data, tokenizer = load_data(long_texts()), tiny_tokenizer()
    model = tiny_model("bert", num_labels=2)
    answers = predict(TorchPredictor(model), data, "validation", tokenizer)
    encoded = data.encoded(tokenizer, "validation")
    for row in (0, 7, 39):
        mine = [i for i, owner in enumerate(encoded.row_of_feature) if owner == row]
        each = [TorchPredictor(model)(data.collator(tokenizer)([encoded.feature(i)])) for i in mine]
        np.testing.assert_allclose(answers[row], np.mean(each, axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_answers_for_the_window_that_was_asked(windows, long_texts, tmp_path, cached):
    data, tokenizer = load_data(long_texts()), tiny_tokenizer()
    live = LiveTeacher(tiny_model("bert", num_labels=2), tokenizer, data)
    teacher = CachedTeacher(live, tmp_path) if cached else live
    batch = data.collator(tokenizer)([data.encode(tokenizer, "train")[i] for i in range(12)])
    assert len(set(batch["row_id"].tolist())) < 12
    found = teacher(batch["row_id"], parts=batch["part"]).logits
    torch.testing.assert_close(found, live.answer(batch).logits, atol=1e-5, rtol=0)


def test_a_teacher_of_other_windows_is_refused(windows, long_texts, tmp_path):
    data = load_data(long_texts())
    other = tiny_tokenizer()
    other.add_tokens(["very old", "good the"])  # some texts have fewer tokens
    teacher = LiveTeacher(tiny_model("bert", num_labels=2), other, data)
    ctx = Context(data.task, data, Models(teacher), torch.device("cpu"), 0, tmp_path)
    with pytest.raises(ModelError, match=r"features of the \d+ rows of 'train'.*same tokenizer"):
        Distill().stage_objective(Product(tiny_model("bert", num_labels=2), tiny_tokenizer()), ctx)


def test_windows_that_nothing_joins_are_refused(long_texts, monkeypatch):
    class Half(Windows):
        answers = Classes.answers

    monkeypatch.setitem(HEADS, "windows", Half())
    data = load_data(long_texts())
    with pytest.raises(TaskError, match="several features of a row, and does not join"):
        predict(TorchPredictor(tiny_model("bert", num_labels=2)), data, "validation",
                tiny_tokenizer())  # fmt: skip


@pytest.mark.parametrize("owners", [[0, 2], [1, 0, 2], [0, 0, 1]])
def test_every_row_has_a_feature_and_they_come_in_order(owners):
    rows = Dataset.from_dict({"row_id": [5, 6, 7], "text": ["a", "b", "c"]})
    flat, lengths = end_to_end({"input_ids": [[1]] * len(owners)})
    with pytest.raises(ValueError, match="every row has one"):
        Encoded.of(flat, lengths, rows, owners)


class Pieces(Windows):
    """One output for each token; a row is the mean of them."""

    output_axes: ClassVar[int] = 3

    def answers(self, outputs, encoded):
        """Return the mean over all tokens of a row. Shape: F of (T, K) -> (N, K)."""
        owners = np.repeat(encoded.row_of_feature, [len(each) for each in outputs])
        tokens = np.concatenate(outputs)
        return np.stack([tokens[owners == row].mean(axis=0) for row in range(encoded.rows)])


@pytest.mark.parametrize("side", ["left", "right"])
def test_outputs_for_each_token_come_without_those_for_padding(long_texts, monkeypatch, side):
    monkeypatch.setitem(HEADS, "windows", Pieces())
    data, tokenizer = load_data(long_texts()), tiny_tokenizer()
    tokenizer.padding_side = side
    predictor = TorchPredictor(tiny_model("bert", "ForTokenClassification", num_labels=2))
    encoded = data.encoded(tokenizer, "validation")
    asked = []
    join = HEADS["windows"].answers
    monkeypatch.setattr(Pieces, "answers", lambda _, *given: asked.append(given) or join(*given))
    together = predict(predictor, data, "validation", tokenizer, 8)
    alone = predict(predictor, data, "validation", tokenizer, 1)
    if side == "right":  # positions are counted from the left
        np.testing.assert_allclose(together, alone, atol=1e-5)
    for outputs, _ in asked:
        assert [len(each) for each in outputs] == encoded.dataset["length"][:]
    texts = TorchPredictor(tiny_model("bert", num_labels=2))
    with pytest.raises(ModelError, match="a windows task needs logits for each of their tokens"):
        predict(texts, data, "validation", tokenizer)


def test_a_split_that_was_cut_is_encoded_anew(windows, long_texts):
    data, tokenizer = load_data(long_texts()), tiny_tokenizer()
    whole = data.encoded(tokenizer, "calibration")
    less = dataclasses.replace(data, calibration=data.calibration.select(range(5)))
    assert less.encoded(tokenizer, "calibration").rows == 5 < whole.rows
