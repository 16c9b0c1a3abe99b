"""A head from outside the package: one class and one line, and the whole main job serves it."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from tests_support import WORDS, tiny_model, tiny_tokenizer
from torch.nn import functional

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.deployment import Product
from bertcompress.errors import TaskError
from bertcompress.heads import HEADS
from bertcompress.heads.head import Head, finite
from bertcompress.heads.numbers import Numbers
from bertcompress.method import Context
from bertcompress.metrics import Metric

pytestmark = pytest.mark.usefixtures("without_figures")


def whole(decided, references):
    return float((np.round(decided) == references).mean())


def whole_of(decided, references, weights):
    return weights @ (np.round(decided) == references) / weights.sum(axis=1)


class Counts(Numbers):
    """How often something happens: the output is the logarithm of a Poisson rate."""

    key: ClassVar[str] = "counts"
    metrics: ClassVar = {"hits": Metric("hits", "share of counts met", whole, whole_of, "numbers")}
    usual: ClassVar = ("hits",)
    has_units: ClassVar = False

    def decided(self, metric, logits):
        """Return the expected count. Shape: (N, 1) -> (N,)."""
        return np.exp(finite(logits)[:, 0])

    def loss(self, logits, labels):
        """Return the mean Poisson loss. Shape: (B, 1), (B,) -> ()."""
        return functional.poisson_nll_loss(logits.squeeze(-1), labels)

    def losses(self, logits, labels):
        """Return it for each row. Shape: (B, 1), (B,) -> (B,)."""
        return functional.poisson_nll_loss(logits.squeeze(-1), labels, reduction="none")


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

    def drawn_losses(self, logits, reference, generator):
        """Return the loss against counts drawn with the reference's rates."""
        self.asked.add("drawn_losses")
        drawn = torch.poisson(reference.float().cpu().exp(), generator=generator).squeeze(-1)
        return self.losses(logits, drawn.to(logits.device))

    def losses(self, logits, labels):
        """Return the Poisson loss of each row."""
        self.asked.add("losses")
        return super().losses(logits, labels)

    def movement(self, logits, original):
        """Return how far the logarithms of the rates moved."""
        self.asked.add("movement")
        return super().movement(logits, original)


LABELS = {"batch_size": 8, "precision": "fp32", "epochs": 1, "logit_weight": 0, "hidden_weight": 0}


@pytest.mark.parametrize(
    ("method", "asks"),
    [
        ({"prune_structured": {"keep": 0.5, "rows": 16, "scores": "kprune"}}, "drawn_losses"),
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
    ctx = Context(data.task, data, None, torch.device("cpu"), 0, tmp_path)
    (step,) = bc.Recipe.parse({"model": "x", "task": data.task, "methods": [method]}).methods
    step.apply(product, ctx)
    assert asks in Spied.asked
