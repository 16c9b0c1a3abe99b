"""Cutting, recording and reloading, for each family and head."""

from __future__ import annotations

import pytest
import torch
from tests_support import (
    FAMILIES,
    HEAD_COUNT,
    HEADS,
    WIDTH,
    aligned,
    answer,
    tiny_inputs,
    tiny_model,
    tiny_tokenizer,
)

from bertcompress.engines.pruning.masks import unit_masks
from bertcompress.models.io import load, save
from bertcompress.shapes import (
    Heads,
    Layers,
    LowRanks,
    Neurons,
    ShapeError,
    Sharing,
    anatomy,
    apply_edit,
    edited,
    read_record,
)


def cut_everything(model):
    """Uneven heads, one layer without any, uneven neurons, one layer without any, a layer gone."""
    physical = len(anatomy(model).layers)
    apply_edit(model, Heads([[0, 2], [], [1]][:physical]))
    rows = [[1, 2, 20], [], list(range(7))][:physical]
    apply_edit(model, Neurons([len(row) for row in rows], rows))
    return apply_edit(model, Layers([0, 2]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_cut_save_load_is_bitwise_equal(family, head, tmp_path):
    model = cut_everything(tiny_model(family, head))
    batch = tiny_inputs(head)
    model.save_pretrained(tmp_path)
    again = aligned(type(model).from_pretrained(tmp_path))
    assert torch.equal(answer(model, batch), answer(again, batch))
    assert read_record(again.config) == read_record(model.config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_masking_a_unit_changes_the_output_and_equals_removing_it(family, kind):
    model, batch = tiny_model(family), tiny_inputs()
    plain = answer(model, batch)
    units = HEAD_COUNT if kind == "heads" else WIDTH
    for layer in range(len(anatomy(model).layers)):
        with unit_masks(model) as masks:
            site = next(
                i for i, s in enumerate(masks.sites) if (s.layers[0], s.kind) == (layer, kind)
            )
            masks.values[site][1] = 0
            masked = answer(model, batch)
        assert (masked - plain).abs().max() > 1e-3
        rows = [list(range(units)) for _ in anatomy(model).layers]
        rows[layer].remove(1)
        cut = tiny_model(family)
        apply_edit(cut, Heads(rows) if kind == "heads" else Neurons([len(r) for r in rows], rows))
        torch.testing.assert_close(answer(cut, batch), masked, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_masking_all_units_equals_removing_all(family):
    model, batch = tiny_model(family), tiny_inputs()
    with unit_masks(model) as masks:
        for values in masks.values:
            values.zero_()
        masked = answer(model, batch)
    layers = len(anatomy(model).layers)
    cut = apply_edit(tiny_model(family), Heads([[] for _ in range(layers)]))
    apply_edit(cut, Neurons([0] * layers, [[] for _ in range(layers)]))
    torch.testing.assert_close(answer(cut, batch), masked, rtol=0, atol=1e-5)


def test_cutting_twice_leaves_one_record_in_original_numbers(bert):
    apply_edit(bert, Heads([[0, 2, 3], [1, 2], [3]]))
    apply_edit(bert, Layers([0, 2]))
    apply_edit(bert, Heads([[1, 2], [0]]))
    apply_edit(bert, Layers([1]))
    assert read_record(bert.config) == {
        "heads": Heads([[2, 3], [1, 2], [3]]),
        "layers": Layers([2]),
    }


def test_the_record_is_plain_json_and_holds_widths_only(bert, tmp_path):
    rows = [[3, 5], [1], list(range(WIDTH))]
    apply_edit(bert, Neurons([len(row) for row in rows], rows))
    assert bert.config.bertcompress == {
        "format": 1,
        "edits": {"neurons": {"widths": [2, 1, WIDTH]}},
    }


def test_dropping_layers_of_albert_shortens_the_loop():
    model, batch = tiny_model("albert"), tiny_inputs()
    shorter = tiny_model("albert", num_hidden_layers=2)
    shorter.load_state_dict(model.state_dict())
    apply_edit(model, Layers([0, 1]))
    assert torch.equal(answer(model, batch), answer(shorter, batch))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Heads([[0]]), "1 lists given, the model has 3 layers"),
        (Heads([[0], [4], [1]]), "heads of layer 1"),
        (Heads([[2, 1], [0], [0]]), "rising numbers"),
        (Heads([[1, 1], [0], [0]]), "rising numbers"),
        (Neurons([1, 1, 1], [[0], [0], [99]]), "neurons of layer 2"),
        (Neurons([2, 1, 1], [[0], [0], [0]]), "do not match"),
        (Layers([]), "at least one layer"),
        (Layers([0, 7]), "layers of layer 0"),
    ],
)
def test_an_impossible_edit_changes_nothing(bert, edit, message):
    before = answer(bert, tiny_inputs())
    with pytest.raises(ShapeError, match=message):
        apply_edit(bert, edit)
    assert not edited(bert)
    assert torch.equal(before, answer(bert, tiny_inputs()))


def test_a_newer_format_says_upgrade(bert):
    bert.config.bertcompress = {"format": 99, "edits": {}}
    with pytest.raises(ShapeError, match="upgrade bertcompress"):
        read_record(bert.config)


def test_an_unknown_kind_says_upgrade(bert):
    bert.config.bertcompress = {"format": 1, "edits": {"origami": {}}}
    with pytest.raises(ShapeError, match=r"origami.*upgrade bertcompress"):
        read_record(bert.config)


def test_a_decoder_is_refused():
    with pytest.raises(ShapeError, match="decoder"):
        anatomy(tiny_model("bert", "Model", is_decoder=True))


def test_an_unknown_family_is_named_with_the_supported_ones():
    import transformers

    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9, n_positions=8)
    with pytest.raises(ShapeError, match=r"'gpt2'.*supported families: bert"):
        anatomy(transformers.GPT2Model(config))


def _factorised(model):
    return apply_edit(
        model, LowRanks({"query": [4] * 4, "attention_out": [4] * 4, "ffn_in": [5] * 4})
    )


AFTER = {
    "shared, a layer gone, heads cut": (
        lambda model: apply_edit(model, Sharing([0, 0, 2, 2], [0, 0, 2, 2])),
        lambda model: apply_edit(model, Layers([1, 2])),
        lambda model: apply_edit(model, Heads([[0, 1], [0, 1]])),
    ),
    "shared, an owner gone, neurons cut": (
        lambda model: apply_edit(model, Sharing([0, 0, 0, 0], [0, 0, 0, 0])),
        lambda model: apply_edit(model, Layers([1, 3])),
        lambda model: apply_edit(model, Neurons([3, 3], [[0, 1, 2]] * 2)),
    ),
    "shared, a layer gone, factorised": (
        lambda model: apply_edit(model, Sharing([0, 0, 2, 2], [0, 0, 2, 2])),
        lambda model: apply_edit(model, Layers([0, 1, 3])),
        lambda model: apply_edit(model, LowRanks({"query": [4, 4, 3]})),
    ),
    "factorised, a layer gone, heads cut": (
        _factorised,
        lambda model: apply_edit(model, Layers([1, 2, 3])),
        lambda model: apply_edit(model, Heads([[0, 1], [1, 2], [2, 3]])),
    ),
    "factorised, all heads and all neurons of a layer cut": (
        _factorised,
        lambda model: apply_edit(model, Heads([[0], [], [1], [2]])),
        lambda model: apply_edit(model, Neurons([2, 0, 3, 1], [[0, 1], [], [0, 1, 2], [5]])),
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_what_was_edited_in_any_order_is_read_again(name, tmp_path):
    """Records of layers that are gone said that nothing was left of them, which others denied."""
    model = tiny_model(num_hidden_layers=4)
    for edit in AFTER[name]:
        edit(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    wanted = answer(model.eval(), tiny_inputs())
    save(model, tmp_path / "model", tiny_tokenizer())
    again = load(tmp_path / "model").model
    assert torch.equal(answer(again, tiny_inputs()), wanted)
