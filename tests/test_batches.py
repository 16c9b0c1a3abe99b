"""Functions that take batches take any iterable of mappings; models may be in half precision."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
import transformers
from tests_support import first_fast, random_batches, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.errors import DataError

KNOBS = {"epochs": 1, "precision": "fp32"}


def batches():
    made = random_batches(2)
    for batch in made:
        batch["labels"] = torch.arange(len(batch["input_ids"])) % 3
    return made


SHAPES = {
    "prune_structured": lambda m, b, _: bc.prune_structured(m, b, 0.5),
    "kprune": lambda m, b, _: bc.kprune(m, b, 0.5),
    "share_layers": lambda m, b, _: bc.share_layers(m, batches=b),
    "factorize_embedding": lambda m, b, _: bc.factorize_embedding(m, 8, "all", batches=b),
    "factorize_linear": lambda m, b, _: bc.factorize_linear(m, b, 0.5),
}
TRAININGS = {
    "finetune": lambda m, b, _: bc.finetune(m, b, **KNOBS),
    "distill": lambda m, b, _: bc.distill(m, tiny_model(seed=4).to(m.dtype), b, **KNOBS),
    "flop": lambda m, b, _: bc.flop(m, b, 0.5, **KNOBS),
    "q8bert": lambda m, b, _: bc.q8bert(m, b, **KNOBS),
    "q_bert": lambda m, b, _: bc.q_bert(m, b, group=8, **KNOBS),
}
NO_BATCHES = {
    "prune_heads": lambda m, _, __: bc.prune_heads(m, [[0], [], []]),
    "prune_neurons": lambda m, _, __: bc.prune_neurons(m, [[0], [0], [0]]),
    "prune_layers": lambda m, _, __: bc.prune_layers(m, [1]),
    "to_albert": lambda m, _, __: bc.to_albert(m),
    "save": lambda m, _, place: bc.load(bc.save(m, place / "m", tiny_tokenizer())).model,
}
FORMS = {
    "list": list,
    "generator": lambda made: (batch for batch in made),
    "encodings": lambda made: [transformers.BatchEncoding(batch) for batch in made],
    "arrays": lambda made: ({k: v.numpy().astype(np.int32) for k, v in b.items()} for b in made),
    "numbers": lambda made: [{k: v.tolist() for k, v in b.items()} | {"text": ["a"]} for b in made],
}


@torch.no_grad()
def answers(model):
    return model.eval()(**random_batches(1)[0]).logits


@pytest.mark.parametrize("name", first_fast([*SHAPES, *TRAININGS], len(SHAPES) + 1))
def test_any_iterable_of_mappings(name, tmp_path):
    function = {**SHAPES, **TRAININGS}[name]
    wanted = None
    for form in FORMS.values():
        made = answers(function(tiny_model(), form(batches()), tmp_path))
        assert wanted is None or torch.equal(made, wanted)
        wanted = made


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*SHAPES, *TRAININGS, *NO_BATCHES])
def test_a_model_of_half_precision(name, kind, tmp_path):
    function = {**SHAPES, **TRAININGS, **NO_BATCHES}[name]
    made = function(tiny_model().to(kind), batches(), tmp_path)
    assert answers(made).isfinite().all()
    # Shapes change in the precision that came; what is trained or loaded is in fp32.
    exact = tiny_model().to(kind).float()
    if name in SHAPES or name.startswith("prune") or name == "to_albert":
        assert made.dtype == kind
    if name in ("prune_structured", "save"):
        wanted = answers(function(exact, batches(), tmp_path / "exact"))
        assert torch.equal(answers(made.float()), wanted)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "openvino", "nncf")),
    reason="needs the extra 'openvino'",
)
def test_int8_files_of_a_half_precision_model(tmp_path):
    product = Product(tiny_model().half(), tiny_tokenizer())
    shown = ({k: v.tolist() for k, v in b.items()} for b in batches())
    made = bc.quantize_int8(product, tmp_path, ("onnxruntime", "openvino"), shown)
    assert [each.precision for each in made] == ["fp32", "int8", "int8"]
    bc.save(product.model, tmp_path / "half", product.tokenizer)
    assert bc.inspect(tmp_path / "half").parameters.total
    assert bc.export(tmp_path / "half", tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (batches()[0], "one batch was given; give a list"),
        (["input_ids"], "batches: a str; each batch maps names"),
        (iter(()), "there are none"),
    ],
)
def test_what_is_no_batches_is_said(given, says):
    with pytest.raises(DataError, match=says):
        bc.finetune(tiny_model(), given, **KNOBS)
