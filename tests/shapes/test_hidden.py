"""The residual stream narrowed: against stock weights sliced by hand, and by a law."""

from __future__ import annotations

import pytest
import torch
from tests_support import (
    FAMILIES,
    HEAD_COUNT,
    LAYERS,
    answer,
    tiny_inputs,
    tiny_model,
    tiny_tokenizer,
)

import bertcompress as bc
from bertcompress.methods.pruning.hidden import feature_norms, prune_hidden
from bertcompress.shapes import (
    Heads,
    Hidden,
    ShapeError,
    anatomy,
    apply_edit,
    hidden_size,
    stream_tensors,
)
from bertcompress.shapes.stock import stock_obstacle, to_stock

ENDINGS = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model"]
WIDTH = 16


def doubled(model):
    """Let the second half of the stream be a copy of the first that nobody reads, in place."""
    view, half = anatomy(model), anatomy(model).hidden // 2
    tables = {id(t.weight) for t in view.embeddings.tables.values()}
    with torch.no_grad():
        for tensor, axis in stream_tensors(view):
            first, second = tensor.narrow(axis, 0, half), tensor.narrow(axis, half, half)
            reads = tensor.ndim == 2 and axis == 1 and id(tensor) not in tables
            second.copy_(torch.zeros_like(second) if reads else first)
    return model


def given(model):
    """What the model gives for each token or text, unlike `answer` in its own shape."""
    with torch.no_grad():
        return model(**tiny_inputs())[0]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_that_nobody_reads_can_go(family, ending):
    """Norms see the same mean and variance, so answers stay."""
    model = doubled(tiny_model(family, ending))
    before = given(model)
    apply_edit(model, Hidden(WIDTH // 2, list(range(WIDTH // 2))))
    after = given(model)
    if ending == "Model":  # the stream itself
        before = before[..., : WIDTH // 2]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ending", [*ENDINGS, "ForMaskedLM"])
def test_saved_and_loaded_to_the_bit(family, ending, tmp_path):
    model = tiny_model(family, ending)
    apply_edit(model, Hidden(12, [0, 1, 2, 3, 4, 6, 8, 9, 11, 12, 13, 15]))
    after = answer(model, tiny_inputs())
    assert torch.isfinite(after).all() and anatomy(model).hidden == 12
    assert hidden_size(model.config) == 12
    again = bc.load(bc.save(model, tmp_path / "model", tiny_tokenizer())).model
    assert torch.equal(answer(again, tiny_inputs()), after)


def test_against_stock_weights_sliced_by_hand():
    kept, heads = [1, 2, 5, 7, 8, 10, 12, 15], [0, 2]
    model = tiny_model("bert", num_labels=3)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    apply_edit(model, Heads([heads] * LAYERS))
    apply_edit(model, Hidden(len(kept), kept))
    size = WIDTH // HEAD_COUNT
    rows = [head * size + i for head in heads for i in range(size)]
    stock = to_stock(model)
    assert type(stock).__name__ == "BertForSequenceClassification"
    assert (stock.config.hidden_size, stock.config.num_attention_heads) == (8, 2)
    for name, value in stock.state_dict().items():
        old = state[name]
        if any(part in name for part in ("query", "key", "value")):
            old = old[rows]
        elif "attention.output.dense.weight" in name:
            old = old[:, rows]
        if name != "classifier.bias" and "intermediate.dense.bias" not in name:
            axes = {
                "query.bias": (), "key.bias": (), "value.bias": (),
                "query.weight": (1,), "key.weight": (1,), "value.weight": (1,),
                "attention.output.dense.weight": (0,), "intermediate.dense.weight": (1,),
                "output.dense.weight": (0,), "pooler.dense.weight": (0, 1),
                "classifier.weight": (1,), "embeddings.weight": (1,),
            }  # fmt: skip
            own = next((a for end, a in axes.items() if name.endswith(end)), (0,))
            for axis in own:
                old = old.index_select(axis, torch.tensor(kept))
        assert torch.equal(value, old), name
    assert torch.equal(answer(stock, tiny_inputs()), answer(model, tiny_inputs()))


def test_without_fitting_heads_it_is_our_class():
    model = apply_edit(tiny_model(), Hidden(8, list(range(8))))
    assert "heads" in str(stock_obstacle(model))
    odd = apply_edit(tiny_model(), Hidden(6, list(range(6))))
    assert "multiple" in str(stock_obstacle(odd))


def test_cut_twice_leaves_one_record():
    model = apply_edit(tiny_model(), Hidden(12, list(range(12))))
    apply_edit(model, Hidden(8, list(range(0, 8))))
    assert model.config.bertcompress["edits"]["hidden"] == {"size": 8}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Hidden(2, [3, 1]), "rising numbers from 0 to 15"),
        (Hidden(2, [3, 16]), "rising numbers from 0 to 15"),
        (Hidden(3, [1, 2]), "2 features given for a size of 3"),
        (Hidden(0, []), "0 features given"),
    ],
)
def test_features_that_are_not_there(edit, says):
    model = tiny_model()
    with pytest.raises(ShapeError, match=says):
        apply_edit(model, edit)
    assert anatomy(model).hidden == WIDTH


def test_magnitude_finds_the_features_that_carry_nothing():
    model, idle = tiny_model(), [3, 7, 8, 14]
    with torch.no_grad():
        for tensor, axis in stream_tensors(anatomy(model)):
            tensor.index_fill_(axis, torch.tensor(idle), 0.0)
    norms = feature_norms(model)
    assert norms.topk(4, largest=False).indices.sort().values.tolist() == idle
    prune_hidden(model, 0.75, multiple=4)
    assert anatomy(model).hidden == 12
    with pytest.raises(ShapeError, match="multiple 32 of a stream of"):
        prune_hidden(tiny_model(), 0.5, multiple=32)


def test_a_stream_as_thin_as_its_tables_is_no_stock_model():
    """The stock class builds no projection then, and could not hold the one that there is."""
    model = tiny_model("electra", embedding_size=8)
    apply_edit(model, Heads([[0, 1]] * LAYERS))
    apply_edit(model, Hidden(8, list(range(8))))
    assert "no projection between" in str(stock_obstacle(model))
    assert torch.isfinite(answer(model, tiny_inputs())).all()
    assert to_stock(model) is model
