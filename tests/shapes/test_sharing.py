"""Shared parts: counts of the ALBERT paper, one gradient, one copy on disk, any order of edits."""

from __future__ import annotations

import copy
from itertools import permutations

import pytest
import torch
import transformers
from safetensors import safe_open
from tests_support import LAYERS, WIDTH, thin, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.shapes import (
    Heads,
    Layers,
    LowRanks,
    Neurons,
    ShapeError,
    Sharing,
    anatomy,
    apply_edit,
    read_record,
)

UNSHARED = ["bert", "roberta", "distilbert", "electra"]
ALL = Sharing([0] * LAYERS, [0] * LAYERS)


def answer(model):
    with torch.no_grad():
        return model.eval()(**tiny_inputs())[0]


def equal_layers(family="bert", head="ForSequenceClassification"):
    model = tiny_model(family, head)
    layers = anatomy(model).layers
    for layer in layers[1:]:
        layer.module.load_state_dict(layers[0].module.state_dict())
    return model


@pytest.mark.parametrize("family", UNSHARED)
@pytest.mark.parametrize(
    "scope", [([0, 0, 0], [0, 0, 0]), ([0, 0, 0], [0, 1, 2]), ([0, 1, 2], [1, 1, 1])]
)
def test_sharing_equal_layers_changes_nothing(family, scope):
    model = equal_layers(family)
    before = answer(model)
    count = sum(p.numel() for p in model.parameters())
    assert apply_edit(model, Sharing(*scope)) is model
    assert torch.equal(answer(model), before)
    assert sum(p.numel() for p in model.parameters()) < count


@pytest.mark.parametrize(
    ("attention", "ffn", "expected"),
    [
        (False, False, 109_482_240),
        (True, True, 31_515_648),
        (True, False, 83_479_296),
        (False, True, 57_518_592),
    ],
)
def test_counts_of_the_albert_paper(attention, ffn, expected):
    """Table 4, E = 768, with BERT's vocabulary; on the meta device, so nothing is computed."""
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig())
    own, one = list(range(12)), [0] * 12
    if attention or ffn:
        apply_edit(model, Sharing(one if attention else own, one if ffn else own))
    assert sum(p.numel() for p in model.parameters()) == expected


def test_the_gradient_of_what_is_shared_is_the_sum():
    shared, apart = equal_layers(), equal_layers()
    apply_edit(shared, ALL)
    for model in (shared, apart):
        model.eval()(**tiny_inputs()).logits.pow(2).sum().backward()
    for name, parameter in anatomy(shared).layers[0].module.named_parameters():
        each = [layer.module.get_parameter(name).grad for layer in anatomy(apart).layers]
        torch.testing.assert_close(parameter.grad, torch.stack(each).sum(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMaskedLM", "Model"])
@pytest.mark.parametrize("family", UNSHARED)
def test_one_copy_is_saved_and_it_reloads_shared(family, head, tmp_path):
    model = tiny_model(family, head)
    apply_edit(model, Sharing([0, 0, 2], [0, 1, 1]))
    before = answer(model)
    bc.save(model, tmp_path / "model", tiny_tokenizer(), convert=False)
    model.save_pretrained(tmp_path / "own")
    tiny_tokenizer().save_pretrained(tmp_path / "own")
    for folder in ("model", "own"):
        with safe_open(tmp_path / folder / "model.safetensors", framework="pt") as file:
            stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
        assert stored == sum(p.numel() for p in model.parameters())
        again = bc.load(tmp_path / folder).model
        assert torch.equal(answer(again), before)
        assert anatomy(again).owners("query") == [0, 0, 2]
        assert anatomy(again).owners("ffn_in") == [0, 1, 1]


def edits(depth):
    """Each kind of edit on a model of so many layers."""
    return {
        "share": Sharing([0] * depth, [0] * depth),
        "heads": Heads([[0, 2]] * depth),
        "neurons": Neurons([10] * depth, [list(range(10))] * depth),
        "lowrank": LowRanks({"query": [3] * depth, "ffn_out": [4] * depth}),
        "layers": Layers(list(range(1, depth))),
    }


@pytest.mark.parametrize(("first", "second"), list(permutations(edits(LAYERS), 2)))
@pytest.mark.parametrize("family", UNSHARED)
def test_any_two_edits_in_any_order_round_trip(family, first, second, tmp_path):
    model = tiny_model(family)
    thin(model, edits(LAYERS)[first])
    thin(model, edits(len(anatomy(model).layers))[second])
    before = answer(model)
    bc.save(model, tmp_path / "model", tiny_tokenizer(), convert=False)
    again = bc.load(tmp_path / "model").model
    assert torch.equal(answer(again), before)
    assert read_record(again.config) == read_record(model.config)


def test_a_cut_of_shared_heads_happens_once():
    model = tiny_model()
    apply_edit(model, ALL)
    alone = copy.deepcopy(model)
    apply_edit(model, Heads([[1, 3]] * LAYERS))
    apply_edit(model, Neurons([8] * LAYERS, [list(range(8))] * LAYERS))
    assert [layer.heads for layer in anatomy(model).layers] == [2] * LAYERS
    assert [layer.width for layer in anatomy(alone).layers] == [WIDTH] * LAYERS


def test_sharing_twice_leaves_one_record():
    model = tiny_model()
    apply_edit(model, Sharing([0, 0, 2], [0, 1, 2]))
    apply_edit(model, Sharing([0, 1, 1], [0, 0, 2]))
    record = read_record(model.config)["sharing"]
    assert (record.attention, record.ffn) == ([0, 0, 0], [0, 0, 2])
    assert anatomy(model).owners("query") == [0, 0, 0]


def test_what_is_dropped_of_a_group_does_not_break_it(tmp_path):
    """The owner goes; the others go on sharing."""
    model = tiny_model()
    apply_edit(model, ALL)
    apply_edit(model, Layers([1, 2]))
    assert anatomy(model).owners("query") == [0, 0]
    before = answer(model)
    bc.save(model, tmp_path / "model", tiny_tokenizer(), convert=False)
    assert torch.equal(answer(bc.load(tmp_path / "model").model), before)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Sharing([0, 0], [0, 0, 0]), "2 owners of attention"),
        (Sharing([1, 0, 2], [0, 1, 2]), "which has none of its own"),
        (Sharing([0, 0, 9], [0, 1, 2]), "layer 9"),
    ],
)
def test_owners_that_cannot_be(edit, says):
    model = tiny_model()
    with pytest.raises(ShapeError, match=says):
        apply_edit(model, edit)
    assert not read_record(model.config)


def test_parts_of_different_shapes_are_not_shared():
    model = tiny_model()
    apply_edit(model, Heads([[0], [0, 1], [0, 1]]))
    with pytest.raises(ShapeError, match="differ in shape"):
        apply_edit(model, ALL)
    apply_edit(model, Sharing([0, 1, 1], [0, 0, 0]))
    with pytest.raises(ShapeError, match="layers 1 and 2 share them"):
        apply_edit(model, Heads([[0], [0], [1]]))
