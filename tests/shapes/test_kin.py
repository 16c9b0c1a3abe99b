"""XLM-RoBERTa and CamemBERT are RoBERTa under other names: the whole way once for each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from tests_support import HEADS, KIN, aligned, answer, first_fast, tiny_inputs, tiny_model
from vocabulary_support import CORPUS, SPECIAL, UNSEEN, trained_tokenizer

import bertcompress as bc
from bertcompress.models.io import rung
from bertcompress.shapes import Heads, Neurons, Sharing, apply_edit
from bertcompress.shapes.stock_albert import to_albert


@pytest.mark.parametrize("family", KIN)
@pytest.mark.parametrize("head", HEADS)
def test_same_weights_same_answers_as_roberta_cut_or_whole(family, head, tmp_path):
    kin, roberta = tiny_model(family, head), tiny_model("roberta", head)
    assert kin.config.model_type == family
    kin.load_state_dict(roberta.state_dict())
    for model in (kin, roberta):
        apply_edit(model, Heads([[0, 2], [], [1]]))
        apply_edit(model, Neurons([3, 2, 0], [[1, 2, 20], [0, 7], []]))
    assert torch.equal(answer(kin, tiny_inputs(head)), answer(roberta, tiny_inputs(head)))
    kin.save_pretrained(tmp_path)
    again = aligned(type(kin).from_pretrained(tmp_path))
    assert torch.equal(answer(again, tiny_inputs(head)), answer(kin, tiny_inputs(head)))


ELSEWHERE = """
import json, sys, torch, transformers
transformers.utils.logging.set_verbosity_error()
folder, ids = sys.argv[1], json.loads(sys.argv[2])
Auto = transformers.AutoModelForSequenceClassification
model = Auto.from_pretrained(folder, trust_remote_code=True).eval()
assert "bertcompress" not in sys.modules
print(json.dumps(model(torch.tensor(ids)).logits.tolist()))
"""


@pytest.mark.parametrize("family", first_fast(KIN))
def test_it_travels_with_its_source(family, tmp_path):
    model = apply_edit(tiny_model(family), Heads([[0, 2], [], [1]]))
    assert rung(model)[0] == 2
    bc.save(model, tmp_path / "model", trained_tokenizer("unigram", 0))
    ids = tiny_inputs()["input_ids"]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "model"), json.dumps(ids.tolist())],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = model.eval()(ids).logits
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected)


@pytest.mark.parametrize("family", KIN)
def test_shared_layers_are_a_stock_albert(family):
    model = tiny_model(family, pad_token_id=0)
    apply_edit(model, Sharing([0, 0, 0], [0, 0, 0]))
    with torch.no_grad():
        ids = tiny_inputs()["input_ids"]
        assert torch.equal(to_albert(model)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("family", KIN)
def test_the_table_is_trimmed_with_the_tokenizer_class_of_the_family(family, tmp_path):
    """A Unigram tokenizer under the class that the Hub's checkpoints name."""
    inner = trained_tokenizer("unigram", 0).backend_tokenizer
    prefix = {"xlm-roberta": "XLMRoberta", "camembert": "Camembert"}[family]
    if transformers.__version__.startswith("4"):
        names = {f"{name}_token": token for name, token in SPECIAL.items()}
        whole = getattr(transformers, f"{prefix}TokenizerFast")(tokenizer_object=inner, **names)
    else:
        pieces = json.loads(inner.to_str())["model"]["vocab"]
        whole = getattr(transformers, f"{prefix}Tokenizer")(vocab=[tuple(each) for each in pieces])
    fields = {"vocab_size": len(whole), "pad_token_id": whole.pad_token_id}
    model = tiny_model(family, max_position_embeddings=64, **fields).eval()
    batch = whole(CORPUS[:6], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(batch["input_ids"], batch["attention_mask"]).logits
    smaller = bc.trim_vocabulary(model, whole, CORPUS, reserve=0)
    assert len(smaller) < len(whole)
    bc.save(model, tmp_path / "model", smaller)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert type(stock).__name__ == f"{prefix}ForSequenceClassification"
    batch = tokenizer(CORPUS[:6], padding=True, return_tensors="pt")
    with torch.no_grad():
        got = aligned(stock.eval())(batch["input_ids"], batch["attention_mask"]).logits
    assert torch.equal(got, expected)
    longer = [len(each.tokenize(" ".join(UNSEEN))) for each in (whole, tokenizer)]
    assert longer[0] < longer[1]
