"""The edit of zeros: what it records and refuses, and that lost zeros are noticed."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests_support import FAMILIES, answer, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.engines.quantization.fake_quantize import quantizable, store, with_rounding
from bertcompress.engines.sparsity.gradual import leave_masked, maskable
from bertcompress.errors import CheckpointError, ModelError
from bertcompress.models.io import precision_of, rung
from bertcompress.shapes import (
    Layers,
    LowBit,
    Masked,
    ShapeError,
    anatomy,
    apply_edit,
    imitates,
    read_record,
)
from bertcompress.shapes.edits import KINDS


@torch.no_grad()
def masked(model, share=0.5):
    """The model with this share of the smallest weights of each linear at zero, recorded."""
    for weight in maskable(model).values():
        order = weight.abs().flatten().argsort()
        weight.flatten()[order[: round(share * len(order))]] = 0.0
    leave_masked(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_are_of_the_layers_alone_and_survive_saving(family, tmp_path):
    model = masked(tiny_model(family))
    inside = {id(p) for layer in anatomy(model).layers for p in layer.module.parameters()}
    before = dict(tiny_model(family).named_parameters())
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and id(weight) in inside:
            assert int((weight == 0).sum()) == weight.numel() // 2, name
        else:
            assert torch.equal(weight, before[name]), name
    expected, batch = answer(model, tiny_inputs()), tiny_inputs()
    for convert in (False, True):
        bc.save(model, tmp_path / str(convert), tiny_tokenizer(), convert=convert)
        back = bc.load(tmp_path / str(convert)).model
        assert torch.equal(answer(back, batch), expected)
        for name, weight in maskable(back).items():
            assert torch.equal(weight == 0, maskable(model)[name] == 0)
    working = bc.load(tmp_path / "False").model
    assert set(read_record(working.config)["masked"].density.values()) == {0.5}
    remote = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "False", trust_remote_code=True
    )
    assert torch.equal(answer(remote.eval(), batch), expected)


def test_a_sparse_model_is_a_dense_one_with_zeros():
    model, dense = masked(tiny_model()), tiny_model()
    dense.load_state_dict(model.state_dict())
    assert torch.equal(answer(model, tiny_inputs()), answer(dense, tiny_inputs()))


def test_zeros_are_simulated_and_weights_stay_fp32():
    model = masked(tiny_model())
    assert imitates(model) and precision_of(model) == "fp32" and rung(model)[0] == 1
    assert not imitates(apply_edit(tiny_model(), Masked({})))
    assert not imitates(apply_edit(tiny_model(), Layers([0, 2])))


def test_every_kind_says_whether_it_is_simulated():
    assert not any(KINDS[kind].simulated for kind in KINDS if kind not in ("masked", "lowbit"))
    said = {bits: LowBit.uniform({"a": bits}).simulated for bits in (3, 4, 5, 8)}
    assert said == {3: True, 4: False, 5: True, 8: False}
    assert [Masked({"a": share}).simulated for share in (0.3, 1.0)] == [True, False]


@torch.no_grad()
def densified(model):
    name = next(iter(maskable(model)))
    model.get_submodule(name).weight.fill_(1.0)
    return name


def test_a_model_that_lost_its_zeros_is_neither_saved_nor_loaded(tmp_path):
    model = masked(tiny_model())
    bc.save(model, tmp_path / "m", tiny_tokenizer(), convert=False)
    name = densified(model)
    words = f"trained without its mask: '{name}' has fewer zeros than the 50.0%"
    with pytest.raises(ModelError, match=words):
        bc.save(model, tmp_path / "lost")
    assert not (tmp_path / "lost").exists()
    from safetensors.torch import load_file, save_file

    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{name}.weight"] = torch.ones_like(tensors[f"{name}.weight"])
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="is not what its record says"):
        bc.load(tmp_path / "m")


def test_one_more_weight_is_one_too_many(tmp_path):
    model = masked(tiny_model(), share=1 / 3)
    weight = next(iter(maskable(model).values()))
    bc.save(model, tmp_path / "whole")
    with torch.no_grad():
        weight[(weight == 0).nonzero()[0].split(1)] = 1e-30
    with pytest.raises(ModelError, match="fewer zeros"):
        bc.save(model, tmp_path / "lost")


REFUSED = [
    ({"classifier": 0.5}, "'classifier' is no dense linear of this model's layers"),
    ({"bert.encoder.layer.0.output.dense": 1.5}, "a density of 1.5"),
    ({"bert.encoder.layer.0.output.dense": "half"}, "a density of 'half'"),
]


@pytest.mark.parametrize(("density", "words"), REFUSED, ids=["head", "above", "text"])
def test_what_cannot_be_masked_is_refused(density, words):
    with pytest.raises(ShapeError, match=words):
        apply_edit(tiny_model(), Masked(density))


def test_the_shape_comes_before_the_zeros():
    model = masked(tiny_model())
    for edit in (Layers([0]), Layers([0, 1])):
        with pytest.raises(ShapeError, match="layers: weights are zero already"):
            apply_edit(model, edit)
    cut = masked(apply_edit(tiny_model(), Layers([0, 2])))
    assert len(read_record(cut.config)["masked"].density) == 2 * 6


def test_zeros_stay_zeros_in_few_bits(tmp_path):
    model = masked(tiny_model())
    zeros = {name: weight == 0 for name, weight in maskable(model).items()}
    rounding = with_rounding(tiny_model(), dict.fromkeys(quantizable(tiny_model()), 8), inputs=None)
    rounding.load_state_dict(model.state_dict(), strict=False)
    stored = store(model, rounding)
    assert list(read_record(stored.config)) == ["masked", "lowbit"]
    assert not imitates(stored) and precision_of(stored) == "int8"
    bc.save(stored, tmp_path / "m", tiny_tokenizer())
    back = bc.load(tmp_path / "m").model
    assert all((back.get_submodule(name).weight[z] == 0).all() for name, z in zeros.items())
    with pytest.raises(ShapeError, match="masked: the weights are stored in few bits already"):
        apply_edit(back, Masked({}))
