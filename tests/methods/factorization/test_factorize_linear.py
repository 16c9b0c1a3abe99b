"""`factorize_linear`: the budget, the factors, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from tests_support import linear_parameters, random_batches, tiny_model

import bertcompress as bc
from bertcompress.methods.factorization.factorize_linear import factorize_linear
from bertcompress.shapes import LowRank, LowRanks, ShapeError, apply_edit


def change(model, original):
    total = 0.0
    with torch.no_grad():
        for batch in random_batches(4, seed=9):
            total += float((model.eval()(**batch).logits - original(**batch).logits).pow(2).sum())
    return total


@pytest.mark.parametrize("metric", ["activation", "fisher", "svd"])
@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_the_budget_is_kept_and_nearly_used(metric, keep):
    model = tiny_model(hidden_size=32, intermediate_size=64)
    before = linear_parameters(model)
    assert factorize_linear(model, random_batches(6), keep, metric=metric) is model
    assert 0.9 * keep * before < linear_parameters(model) <= keep * before
    assert any(isinstance(module, LowRank) for module in model.modules())


def test_activation_aware_changes_the_answers_less_than_plain_svd():
    original = tiny_model(hidden_size=32, intermediate_size=64).eval()
    aware, plain = (
        factorize_linear(copy.deepcopy(original), random_batches(6), 0.5, metric=metric)
        for metric in ("activation", "svd")
    )
    assert change(aware, original) < change(plain, original)


def test_keep_one_changes_nothing():
    model = tiny_model().eval()
    original = copy.deepcopy(model)
    factorize_linear(model, random_batches(6), 1.0)
    assert change(model, original) < 1e-8


def test_refusals():
    with pytest.raises(ShapeError, match="rank 1 everywhere"):
        factorize_linear(tiny_model(), random_batches(1), 0.01)
    with pytest.raises(ValueError, match="needs batches"):
        factorize_linear(tiny_model())
    thin = factorize_linear(tiny_model(), keep=0.2, metric="svd")
    for metric in ("svd", "activation"):
        with pytest.raises(ShapeError, match="factorised already"):
            factorize_linear(thin, random_batches(1), 0.5, metric=metric)


def test_what_is_thin_already_counts():
    """A share of the layers' linears as they are dense, whatever was done to some before."""
    model = tiny_model(hidden_size=32, intermediate_size=64)
    full = linear_parameters(model)
    for keep in (0.7, 0.5):
        factorize_linear(model, random_batches(6), keep)
        assert 0.9 * keep * full < linear_parameters(model) <= keep * full
    thick = apply_edit(tiny_model(), LowRanks({"ffn_in": [9, 9, 9]}))
    with pytest.raises(ShapeError, match="with what is factorised already"):
        factorize_linear(thick, random_batches(6), 0.2)


@pytest.mark.parametrize("keep", [0.0, -1, 70])
def test_no_share(keep):
    with pytest.raises(ShapeError, match="above 0 and up to 1"):
        factorize_linear(tiny_model(), random_batches(1), keep)


def test_the_method_refuses_before_anything_is_computed():
    with torch.device("meta"):
        shape = tiny_model()
    for method in (bc.FactorizeLinear(keep=0.01), bc.Flop(keep=0.01)):
        with pytest.raises(ShapeError, match="rank 1 everywhere"):
            method.check(shape)


@pytest.mark.parametrize("head", ["ForQuestionAnswering", "ForTokenClassification", "Model"])
def test_svd_asks_nothing_of_the_head(head):
    model = tiny_model(head=head)
    before = linear_parameters(model)
    factorize_linear(model, random_batches(1), 0.5, metric="svd")
    assert linear_parameters(model) <= 0.5 * before


@pytest.mark.parametrize("metric", ["activation", "fisher", "svd"])
def test_a_model_in_half_precision_stays_so(metric):
    model = tiny_model(hidden_size=32, intermediate_size=64).to(torch.bfloat16)
    before = linear_parameters(model)
    factorize_linear(model, random_batches(6), 0.5, metric=metric)
    assert linear_parameters(model) <= 0.5 * before
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_the_whole_path_with_other_methods(tmp_path):
    """Cut, factorised, cut again, saved, exported."""
    pytest.importorskip("onnxruntime")
    from tests_support import tiny_tokenizer

    from bertcompress.deployment import Product
    from bertcompress.runtimes import onnxruntime, open_predictor

    model = tiny_model(hidden_size=32, intermediate_size=64)
    bc.prune_structured(model, random_batches(2), 0.6)
    factorize_linear(model, random_batches(2), 0.7)
    bc.prune_structured(model, random_batches(2), 0.6)
    bc.kprune(model, random_batches(2), 0.8)
    tokenizer = tiny_tokenizer()
    bc.save(model, tmp_path / "m", tokenizer)
    again = bc.load(tmp_path / "m").model
    batch = random_batches(1)[0]
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        assert torch.equal(again(**batch).logits, expected)
    made = onnxruntime.export(Product(again, tokenizer), tmp_path / "onnx")
    inputs = {name: values.numpy() for name, values in batch.items()}
    inputs["token_type_ids"] = inputs["input_ids"] * 0
    answer = open_predictor(made.path, "onnxruntime")(inputs)
    torch.testing.assert_close(torch.from_numpy(answer), expected, atol=1e-4, rtol=1e-4)
