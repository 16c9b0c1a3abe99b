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
from bertcompress.shapes.lowbit import QuantizedEmbedding, fill, stored_modules
from bertcompress.shapes.weight_format import (
    WeightFormat,
    dequantize,
    largest,
    pack,
    quantize,
    unpack,
)

from bertcompress.engines.quantization.fake_quantize import quantizable, store, with_rounding  # isort: skip
from bertcompress.engines.quantization.input_range import InputRange


def answer(model):
    with torch.no_grad():
        return model.eval()(**tiny_inputs())[0]


def stored(model, bits=8, group=0, activations=True):
    """A model whose linears and tables are all stored, ranges taken from one batch."""
    trained = with_rounding(
        copy.deepcopy(model),
        dict.fromkeys(quantizable(model), bits),
        group=group,
        inputs=InputRange() if activations else None,
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


EIGHT, TABLE = WeightFormat(8), "bert.embeddings.position_embeddings"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (LowBit.uniform({"bert.quarry": 8}), "'bert.quarry' is no dense linear"),
        (LowBit.uniform({"classifier": 9}), "9 bits"),
        (LowBit.uniform({"classifier": 1}), "1 bits"),
        (LowBit.uniform({}, 0, ["classifier"]), "'classifier' rounds its input"),
        (LowBit({"classifier": EIGHT}, {"classifier": 9}), "in 9 bits"),
        (LowBit({TABLE: EIGHT}, {TABLE: 8}), "is no linear"),
        (LowBit({"classifier": WeightFormat(2, levels=(0.0, 0.0))}), "do not ascend"),
        (LowBit({"classifier": WeightFormat(1, levels=(-1.0, 0.0, 1.0))}), "3 levels in 1 bits"),
        (LowBit({"classifier": WeightFormat(3, bases=2)}), "2 bases in 3 bits"),
        (LowBit({"classifier": WeightFormat(2, levels=(0.0, 1.0), bases=2)}), "exclude"),
    ],
)
def test_what_cannot_be(edit, says):
    with pytest.raises(ShapeError, match=says):
        apply_edit(tiny_model(), edit)


def test_a_tied_table_is_refused():
    model = tiny_model(head="ForMaskedLM")
    with pytest.raises(ShapeError, match="tied"):
        apply_edit(model, LowBit.uniform({"bert.embeddings.word_embeddings": 8}))
    with pytest.raises(ShapeError, match="tied to the word table"):
        quantizable(model)


TERNARY = (-1.0, 0.0, 1.0)
MIXED = {
    "query": WeightFormat(4, 8),
    "key": WeightFormat(8, -1),
    "value": WeightFormat(2, -1, levels=TERNARY),
    "attention_out": WeightFormat(2, 8, bases=2),
    "ffn_in": WeightFormat(1, 0, bases=1),
    "ffn_out": WeightFormat(4, 5, levels=(-1.0, -0.5, -0.2, 0.0, 0.1, 0.3, 0.6)),
}


def mixed(model):
    """The model with a format of its own for each linear of a layer, and the matrices before."""
    names = {id(module): name for name, module in model.named_modules()}
    formats, before = {"bert.embeddings.word_embeddings": WeightFormat(3, 8, bases=3)}, {}
    for layer in anatomy(model).layers:
        formats |= {names[id(layer.linears[part].module)]: each for part, each in MIXED.items()}
    for name in formats:
        before[name] = model.get_submodule(name).weight.detach().clone()
    query = [name for name in formats if name.endswith("query")]
    apply_edit(model, LowBit(formats, dict.fromkeys(query, 4)))
    for name, weight in before.items():
        fill(model.get_submodule(name), weight, torch.tensor(0.5) if name in query else None)
    return model, before


def test_modules_differ_in_format_and_reload_bit_by_bit(tmp_path):
    model, before = mixed(tiny_model())
    assert model.config.bertcompress["format"] == 2
    record = read_record(model.config)["lowbit"]
    assert record.simulated  # 3 bits, and inputs in 4
    bc.save(model, tmp_path / "m", tiny_tokenizer())
    again = bc.load(tmp_path / "m").model
    assert read_record(again.config)["lowbit"] == record
    assert torch.equal(answer(again), answer(model))
    remote = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "m", trust_remote_code=True
    )
    assert torch.equal(answer(remote), answer(model))
    for name, weight in before.items():
        error = (again.get_submodule(name).weight - weight).norm() / weight.norm()
        assert error < 0.75, name  # one sign for all of a matrix keeps the least


def test_a_weight_becomes_the_nearest_level():
    levels = torch.tensor(MIXED["ffn_out"].levels)
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    codes, scale = MIXED["ffn_out"].encode(weight)
    wide = scale.repeat_interleave(5, 1)
    nearest = ((weight / wide)[..., None] - levels).abs().argmin(-1)
    assert torch.equal(codes.long() + largest(4), nearest)
    assert torch.equal(MIXED["ffn_out"].decode(codes, scale), levels[nearest] * wide)
    assert torch.equal(scale, weight.abs().reshape(6, 2, 5).amax(2))


@pytest.mark.parametrize("group", [0, -1, 4])
def test_each_base_takes_what_those_before_left(group):
    """Guo et al. 2017, equation 3; with one base the scale is the mean magnitude (XNOR-Net)."""
    weight = torch.randn(5, 10, generator=torch.Generator().manual_seed(1))
    errors = []
    for bases in (1, 2, 3, 4):
        each = WeightFormat(bases, group, bases=bases)
        codes, scale = each.encode(weight)
        assert torch.equal(unpack(pack(codes, bases), bases, 10), codes)
        errors.append(float((each.decode(codes, scale) - weight).norm()))
        assert scale.shape == each.scale_shape(5, 10)
    assert errors == sorted(errors, reverse=True) and errors[3] < errors[0] / 2
    if group == -1:
        first = WeightFormat(1, group, bases=1).encode(weight)[1][0]
        torch.testing.assert_close(first, weight.abs().mean(1, keepdim=True))


def test_a_table_looks_up_the_same_rows():
    for each in (WeightFormat(2, -1, bases=2), WeightFormat(2, 0, levels=TERNARY)):
        table = torch.nn.Embedding(7, 6)
        made = QuantizedEmbedding(table, each)
        fill(made, table.weight)
        ids = torch.tensor([[3, 0], [6, 3]])
        assert torch.equal(made(ids), made.weight[ids])


def test_one_byte_holds_eight_signs():
    for bits, bytes_ in ((1, 2), (2, 4), (4, 8)):
        signs = torch.full((3, 16), -largest(bits)).to(torch.int8)
        assert pack(signs, bits).shape == (3, bytes_)


def test_what_older_releases_read_is_written_as_they_read_it():
    model = stored(tiny_model(), 4, group=8)[0]
    written = model.config.bertcompress
    assert written["format"] == 1
    record = written["edits"]["lowbit"]
    assert list(record) == ["weights", "group", "activations"] and record["group"] == 8
    assert {*record["weights"].values()} == {4} and isinstance(record["activations"], list)


def test_an_onnx_file_holds_integers_alone(tmp_path):
    from bertcompress.deployment import Product
    from bertcompress.errors import ModelError
    from bertcompress.runtimes.onnx.integers import export_qdq

    for each, words in ((WeightFormat(2, -1, levels=TERNARY), "a table of levels"),
                        (WeightFormat(2, bases=2), "a sum of binary matrices")):  # fmt: skip
        model = apply_edit(tiny_model(), LowBit({"classifier": each}))
        with pytest.raises(ModelError, match=f"classifier: its weights are {words}"):
            export_qdq(Product(model, tiny_tokenizer()), tmp_path / "onnx")
    model = apply_edit(tiny_model(), LowBit({"classifier": EIGHT}, {"classifier": 4}))
    with pytest.raises(ModelError, match="classifier: rounds its input to 4 bits"):
        export_qdq(Product(model, tiny_tokenizer()), tmp_path / "onnx")
