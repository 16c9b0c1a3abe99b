"""Families from outside the package: one class and one line, and the whole way serves them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from family_fused import FusedConfig, FusedForSequenceClassification
from family_toy import ToyConfig, ToyForSequenceClassification
from tests_support import aligned, random_batches, tiny_inputs, tiny_tokenizer

import bertcompress as bc
from bertcompress.deployment import Deployment
from bertcompress.engines.lowrank.calibration import linear_statistics
from bertcompress.engines.pruning.kprune import KPruneSettings, cut_and_repair
from bertcompress.engines.pruning.masks import unit_masks
from bertcompress.errors import UnsupportedFamily
from bertcompress.measure.footprint import count_parameters, encoder_bytes, macs
from bertcompress.models.io import max_tokens, rung
from bertcompress.shapes import (
    FAMILIES,
    Embedding,
    Heads,
    Hidden,
    Layers,
    LowRanks,
    Neurons,
    ShapeError,
    Sharing,
    Vocabulary,
    anatomy,
    apply_edit,
)


@pytest.fixture
def toy(monkeypatch):
    """The line of the toy in the table, and a model of it."""
    monkeypatch.setitem(FAMILIES, "toy", ("family_toy:ToyFamily", "a toy"))
    torch.manual_seed(0)
    return ToyForSequenceClassification(ToyConfig(vocab_size=40, num_labels=3)).eval()


def answer(model, batch=None):
    with torch.no_grad():
        return model(**(batch or tiny_inputs())).logits


def test_without_its_line_it_is_refused(toy, tmp_path, monkeypatch):
    bc.save(toy, tmp_path, tiny_tokenizer())
    assert bc.load(tmp_path).model.config.model_type == "toy"
    monkeypatch.delitem(FAMILIES, "toy")
    with pytest.raises(ShapeError, match="'toy' is not supported"):
        anatomy(toy)
    with pytest.raises(UnsupportedFamily, match="'toy'"):
        bc.load(tmp_path)


def test_masking_equals_cutting(toy):
    batch = tiny_inputs()
    with unit_masks(toy) as masks:
        assert [(s.kind, s.units, s.size) for s in masks.sites[:2]] == [
            ("heads", 4, 4),
            ("neurons", 24, 1),
        ]
        masks.values[0][[1, 3]] = 0
        masks.values[3][:] = 0
        masks.values[4][:] = 0
        masked = answer(toy, batch)
    bc.prune_heads(toy, [[1, 3], [], [0, 1, 2, 3]])
    bc.prune_neurons(toy, [[], list(range(24)), []])
    assert [(x.heads, x.width) for x in anatomy(toy).layers] == [(2, 24), (4, 0), (0, 24)]
    torch.testing.assert_close(answer(toy, batch), masked)


EDITS = {
    "heads": [Heads([[0, 2], [], [1]])],
    "neurons": [Neurons([2, 0, 24], [[3, 20], [], list(range(24))])],
    "layers": [Layers([0, 2])],
    "sharing": [Sharing([0, 0, 2], [0, 1, 1])],
    "lowrank": [LowRanks({"query": [2, 0, 3], "ffn_out": [4, 4, 4]})],
    "tables": [Embedding(4, "word")],
    "all tables": [Embedding(4, "all")],
    "vocabulary": [Vocabulary(29, list(range(29)))],
    "all": [
        Heads([[0, 2], [], [1]]),
        Neurons([2, 0, 24], [[3, 20], [], list(range(24))]),
        Layers([0, 2]),
    ],
}


@pytest.mark.parametrize("edits", EDITS)
def test_edited_saved_and_loaded_it_answers_the_same(toy, edits, tmp_path):
    for edit in EDITS[edits]:
        apply_edit(toy, edit)
    for parameter in toy.parameters():  # the factors are empty
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    bc.save(toy, tmp_path / "model", tiny_tokenizer())
    again = bc.load(tmp_path / "model").model
    stock = edits in ("layers", "vocabulary")
    assert rung(toy)[0] == (1 if stock else 2)
    prefix = "" if stock else "Compressed"
    assert type(again).__name__ == f"{prefix}ToyForSequenceClassification"
    assert torch.equal(answer(aligned(again)), answer(toy))


ELSEWHERE = """
import json, sys, torch, transformers
transformers.utils.logging.set_verbosity_error()
folder, ids = sys.argv[1], json.loads(sys.argv[2])
Auto = transformers.AutoModelForSequenceClassification
model = Auto.from_pretrained(folder, trust_remote_code=True).eval()
assert not [name for name in sys.modules if name.startswith(("bertcompress", "family_toy"))]
print(json.dumps(model(torch.tensor(ids)).logits.tolist()))
"""


def test_it_travels_with_its_source_and_with_no_other_family(toy, tmp_path):
    apply_edit(toy, Heads([[0, 2], [], [1]]))
    folder = bc.save(toy, tmp_path / "model", tiny_tokenizer())
    source = (folder / "modeling_bertcompress.py").read_text(encoding="utf-8")
    assert "class ToyFamily" in source and "class BertFamily" not in source
    ids = tiny_inputs()["input_ids"]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), json.dumps(ids.tolist())],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(
        torch.tensor(json.loads(done.stdout)), answer(toy, {"input_ids": ids})
    )


def test_a_table_that_goes_through_a_linear_is_no_token(toy):
    """The statistics of the keys are those of the hidden states alone."""
    data, kept = random_batches(2, padded=3), []
    key = anatomy(toy).layers[1].linears["key"].module
    seen = linear_statistics(toy, data)["key", 1]
    with torch.no_grad():
        for batch in data:
            handle = key.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
            toy(**batch)
            handle.remove()
            hidden = kept[-2][batch["attention_mask"].bool()]
            kept[-2:] = [hidden]
    features = torch.cat(kept)
    assert seen.times == 1
    torch.testing.assert_close(seen.inputs, features.T @ features / len(features))


METHODS = {
    "fisher": lambda model, data: bc.prune_structured(model, data, 0.5),
    "kprune": lambda model, data: cut_and_repair(model, data, 0.5),
    "best start": lambda model, data: bc.share_layers(model, groups=1, batches=data),
    "aligned": lambda model, data: bc.share_layers(model, groups=1, init="aligned"),
    "factors": lambda model, data: bc.factorize_linear(model, data, 0.5),
    "tables": lambda model, data: bc.factorize_embedding(model, 4, "all", batches=data),
    "4 bits": lambda model, data: bc.q_bert(model, data, epochs=0),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_make_it_smaller(toy, method):
    before, cost = count_parameters(toy), macs(toy, 10)
    smaller = METHODS[method](toy, random_batches(3, padded=2))
    smaller = smaller if isinstance(smaller, torch.nn.Module) else toy
    assert torch.isfinite(answer(smaller)).all()
    if method != "4 bits":
        assert count_parameters(smaller).total < before.total
        assert macs(smaller, 10) <= cost


def test_its_limit_and_its_cost_are_its_own(toy):
    assert max_tokens(toy) == 40
    per_layer = 10 * (4 * 16 * 16 + 2 * 16 * 24) + 2 * 10 * 10 * 16
    assert macs(toy, 10) == 3 * per_layer


def test_a_stream_that_a_table_shares_is_not_narrowed(toy):
    with pytest.raises(ShapeError, match="hidden: key of these layers takes a table"):
        apply_edit(toy, Hidden(8))


def test_its_tables_are_not_counted_as_its_encoder(toy, tmp_path):
    bc.save(toy, tmp_path, tiny_tokenizer())
    tables = (40 + 40) * 16
    encoder = encoder_bytes(Deployment("torch", "fp32", tmp_path))
    assert encoder == 4 * (count_parameters(toy).total - tables)


def test_its_encoder_comes_under_a_new_head(toy, tmp_path):
    bc.save(toy, tmp_path, tiny_tokenizer())
    new = bc.load(
        tmp_path,
        head="ForSequenceClassification",
        fresh_head=True,
        config_fields={"num_labels": 5},
    ).model
    assert new.classifier.out_features == 5
    state = toy.trunk.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in new.trunk.state_dict().items())


@pytest.fixture
def fused(monkeypatch):
    """A model that is not laid out as BERT, and its line in the table."""
    monkeypatch.setitem(FAMILIES, "fused", ("family_fused:FusedFamily", "another toy"))
    torch.manual_seed(0)
    return FusedForSequenceClassification(FusedConfig(num_labels=3)).eval()


def test_rows_of_fused_weights_are_cut_as_masks_say(fused):
    batch = tiny_inputs()
    with unit_masks(fused) as masks:
        masks.values[0][[1, 3]] = 0
        masks.values[1][:20] = 0
        masked = answer(fused, batch)
    bc.prune_heads(fused, [[1, 3], [], []])
    bc.prune_neurons(fused, [list(range(20)), [], []])
    layer = anatomy(fused).layers[0]
    assert (layer.heads, layer.width) == (2, 4)
    assert layer.linears["key"].weight.shape == (8, 16)
    assert layer.linears["ffn_gate"].out_features == 4
    torch.testing.assert_close(answer(fused, batch), masked)


@pytest.mark.parametrize("part", ["attention", "ffn"])
def test_the_stream_is_what_a_part_was_added_to(fused, part):
    """Without the output of both parts it is what came into the layer."""
    layer, seen, added = anatomy(fused).layers[1], {}, []
    handles = [
        layer.module.register_forward_pre_hook(lambda _, args: seen.update(first=args[0])),
        layer.residual(part).watch(lambda stream: seen.update(last=stream)),
        *(
            layer.out(each).module.register_forward_hook(lambda _, __, out: added.append(out))
            for each in ("attention", "ffn")[: 1 if part == "attention" else 2]
        ),
    ]
    answer(fused)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(seen["last"], seen["first"] + sum(added))


def test_what_cannot_be_says_so(fused):
    with pytest.raises(ShapeError, match="query of layer 0 is a part of a fused weight"):
        apply_edit(fused, LowRanks({"query": [2, 2, 2]}))
    with pytest.raises(ShapeError, match=r"no linear 'rubbish'; there are query, key.* ffn_gate"):
        apply_edit(fused, LowRanks({"rubbish": [2, 2, 2]}))
    with pytest.raises(ShapeError, match="the first layer of a fused model has to stay"):
        apply_edit(fused, Layers([1, 2]))


def test_fused_layers_share_their_aligned_mean(fused):
    """Heads and neurons of a layer in another order are brought back by rows of the views."""
    first, second = anatomy(fused).layers[:2]
    second.module.load_state_dict(first.module.state_dict())
    turned = torch.tensor([*range(8, 16), *range(8)])
    with torch.no_grad():
        for name in ("query", "key", "value"):
            view = second.linears[name]
            view.load({key: value[turned] for key, value in view.values().items()})
        second.module.Wo.weight.copy_(second.module.Wo.weight[:, turned])
    before = first.linears["key"].values()
    bc.prune_layers(fused, [2])
    whole = answer(fused)
    bc.share_layers(fused, groups=1, init="aligned")
    assert anatomy(fused).owners("query") == anatomy(fused).owners("ffn_gate") == [0, 0]
    torch.testing.assert_close(anatomy(fused).layers[0].linears["key"].weight, before["weight"])
    torch.testing.assert_close(answer(fused), whole)


@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_the_stream_of_a_pre_norm_model_is_repaired(fused, keep):
    """K-prune: with all units kept nothing moves; with fewer, repair is better than none."""
    batches = random_batches(4, rows=8, padded=2)
    whole = torch.cat([answer(fused, batch) for batch in batches])
    state = {name: value.clone() for name, value in fused.state_dict().items()}
    cut_and_repair(fused, batches, keep, at_least=1)
    moved = torch.cat([answer(fused, batch) for batch in batches]) - whole
    if keep == 1.0:
        torch.testing.assert_close(moved, torch.zeros_like(moved), atol=1e-3, rtol=0)
        return
    other = FusedForSequenceClassification(FusedConfig(num_labels=3)).eval()
    other.load_state_dict(state)
    unrepaired = KPruneSettings(reconstruct=False)
    cut_and_repair(other, batches, keep, at_least=1, settings=unrepaired)
    plain = torch.cat([answer(other, batch) for batch in batches]) - whole
    assert moved.norm() < plain.norm()


def test_a_fused_model_is_saved_and_loaded(fused, tmp_path):
    apply_edit(fused, Heads([[0, 2], [1], [0, 1, 2, 3]]))
    apply_edit(fused, Neurons([3, 24, 2], [[1, 2, 20], list(range(24)), [0, 9]]))
    apply_edit(fused, Sharing([0, 1, 2], [0, 1, 2]))
    apply_edit(fused, Embedding(4, "word"))
    bc.save(fused, tmp_path, tiny_tokenizer())
    assert torch.equal(answer(aligned(bc.load(tmp_path).model)), answer(fused))


def test_the_stream_of_a_fused_model_is_narrowed(fused, tmp_path):
    kept = [0, 1, 3, 4, 6, 7, 9, 10, 12, 13]
    weight = anatomy(fused).layers[1].linears["key"].weight.detach().clone()
    apply_edit(fused, Hidden(len(kept), kept))
    assert torch.equal(anatomy(fused).layers[1].linears["key"].weight, weight[:, kept])
    bc.save(fused, tmp_path, tiny_tokenizer())
    assert torch.equal(answer(aligned(bc.load(tmp_path).model)), answer(fused))


def test_a_gated_layer_counts_both_halves(fused):
    per_layer = 10 * (4 * 16 * 16 + 3 * 16 * 24) + 2 * 10 * 10 * 16
    assert macs(fused, 10) == 3 * per_layer
