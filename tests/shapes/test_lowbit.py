"""Weights in few bits: the grid, packing, real bytes, integer arithmetic, reloading, the record."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from tests_support import FAMILIES, thin, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.measure.footprint import count_parameters, layer_table, macs
from bertcompress.models.io import rung
from bertcompress.shapes import (
    Heads,
    LowBit,
    LowRanks,
    QuantizedLinear,
    ShapeError,
    Sharing,
    anatomy,
    apply_edit,
    read_record,
)
from bertcompress.shapes.lowbit import (
    dequantize,
    largest,
    pack,
    quantize,
    stored_modules,
    unpack,
)

from bertcompress.engines.quantization.fake_quantize import quantizable, store, with_rounding  # isort: skip


def answer(model):
    with torch.no_grad():
        return model.eval()(**tiny_inputs())[0]


def stored(model, bits=8, group=0, activations=True):
    """A model whose linears and tables are all stored, ranges taken from one batch."""
    trained = with_rounding(
        copy.deepcopy(model),
        dict.fromkeys(quantizable(model), bits),
        group=group,
        activations=activations,
    )
    with torch.no_grad():
        trained.train()(**tiny_inputs())
    return store(model, trained), trained.eval()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [0, -1, 5])
def test_the_grid_is_symmetric_and_the_nearest_point_is_taken(bits, group):
    weight = torch.randn(6, 13, generator=torch.Generator().manual_seed(bits))
    whole, scale = quantize(weight, bits, group)
    assert int(whole.min()) >= -largest(bits)
    assert int(whole.max()) <= largest(bits)
    assert int(whole.abs().max()) == largest(bits)
    wide = scale.repeat_interleave(group, 1)[:, :13] if group > 0 else scale
    error = (dequantize(whole, scale, group) - weight).abs()
    assert bool((error <= wide / 2 + 1e-6).all())


def test_8_bits_have_255_levels_and_no_minus_128():
    whole, _ = quantize(torch.linspace(-3, 3, 2_000).reshape(1, -1), 8)
    assert len(whole.unique()) == 255
    assert int(whole.min()) == -127


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [1, 4, 7])
def test_packing_is_undone_and_takes_the_bytes_that_it_should(bits, columns):
    generator = torch.Generator().manual_seed(columns)
    most = largest(bits)
    whole = torch.randint(-most, most + 1, (5, columns), generator=generator).to(torch.int8)
    packed = pack(whole, bits)
    assert torch.equal(unpack(packed, bits, columns), whole)
    per = {2: 4, 3: 2, 4: 2}.get(bits, 1)
    assert packed.numel() * packed.element_size() == 5 * -(-columns // per)


def test_what_it_computes_is_what_integers_accumulate():
    model = stored(tiny_model())[0]
    generator = torch.Generator().manual_seed(4)
    for _, module in stored_modules(model):
        if not isinstance(module, QuantizedLinear):
            continue
        x = 3 * torch.randn(9, module.in_features, generator=generator) * module.input_scale * 60
        whole = torch.round(x / module.input_scale).clamp(-127, 127).to(torch.int32)
        summed = whole @ module.qweight.to(torch.int32).T
        expected = summed.float() * module.input_scale * module.weight_scale + module.bias
        torch.testing.assert_close(module(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("bits", "group", "activations"), [(8, 0, True), (4, 8, False)])
def test_it_reloads_bit_by_bit_and_answers_as_trained(family, bits, group, activations, tmp_path):
    model, trained = stored(tiny_model(family), bits, group, activations)
    torch.testing.assert_close(answer(model), answer(trained), atol=1e-5, rtol=1e-4)
    bc.save(model, tmp_path / "m", tiny_tokenizer())
    again = bc.load(tmp_path / "m").model
    assert torch.equal(answer(again), answer(model))
    assert rung(again)[0] == 2
    names = [name for name, _ in stored_modules(again)]
    assert sorted(names) == sorted(read_record(again.config)["lowbit"].weights)
    with pytest.raises(ValueError, match="custom code"):
        transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "m", trust_remote_code=False
        )


def test_the_file_is_four_times_smaller_and_half_of_that_in_4_bits(tmp_path):
    sizes = {}
    for bits in (32, 8, 4):
        model = tiny_model(vocab_size=2_000, hidden_size=64, intermediate_size=256)
        if bits < 32:
            model = stored(model, bits, group=0 if bits == 8 else 64)[0]
        bc.save(model, tmp_path / str(bits), tiny_tokenizer())
        sizes[bits] = (tmp_path / str(bits) / "model.safetensors").stat().st_size
    assert sizes[32] / sizes[8] > 3.6  # with the header of so small a file
    assert sizes[32] / sizes[4] > 5.5


@pytest.mark.parametrize("bits", [8, 4])
def test_parameters_and_arithmetic_are_counted_as_before(bits):
    dense = tiny_model()
    model = stored(dense, bits, activations=False)[0]
    fresh = tiny_model()
    assert count_parameters(model) == count_parameters(fresh)
    assert macs(model) == macs(fresh)
    rows = zip(layer_table(model), layer_table(fresh), strict=True)
    for mine, plain in rows:
        assert mine.params == plain.params
        assert mine.bytes < plain.bytes * (0.5 if bits == 8 else 0.4)


def test_after_a_cut_and_shared_and_thin(tmp_path):
    model = tiny_model()
    apply_edit(model, Heads([[0], [1], [0]]))
    thin(model, LowRanks({"ffn_in": [4, 4, 4]}))
    apply_edit(model, Sharing([0, 0, 0], [0, 1, 1]))
    model = stored(model)[0]
    bc.save(model, tmp_path / "m", tiny_tokenizer())
    again = bc.load(tmp_path / "m").model
    assert torch.equal(answer(again), answer(model))
    layers = anatomy(again).layers
    assert layers[0].linears["query"].module is layers[2].linears["query"].module
    assert layers[1].linears["ffn_out"].module is layers[2].linears["ffn_out"].module


def test_nothing_changes_shape_afterwards():
    model = stored(tiny_model())[0]
    with pytest.raises(ShapeError, match="in few bits already"):
        apply_edit(model, Heads([[0], [0], [0]]))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (LowBit({"bert.quarry": 8}), "'bert.quarry' is no dense linear"),
        (LowBit({"classifier": 9}), "9 bits"),
        (LowBit({"classifier": 1}), "1 bits"),
        (LowBit({}, 0, ["classifier"]), "'classifier' rounds its input"),
    ],
)
def test_what_cannot_be(edit, says):
    with pytest.raises(ShapeError, match=says):
        apply_edit(tiny_model(), edit)


def test_a_tied_table_is_refused():
    model = tiny_model(head="ForMaskedLM")
    with pytest.raises(ShapeError, match="tied"):
        apply_edit(model, LowBit({"bert.embeddings.word_embeddings": 8}))
    with pytest.raises(ShapeError, match="tied to the word table"):
        quantizable(model)
