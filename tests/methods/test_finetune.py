"""Fine-tuning as a stage and as a function; when it may be skipped."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from tests_support import tiny_model, tiny_tokenizer
from torch.utils.data import DataLoader
from training_support import toy_data

from bertcompress.data.for_model import already_finetuned
from bertcompress.deployment import Product
from bertcompress.errors import DataError
from bertcompress.heads import HEADS
from bertcompress.method import Context, Models, Need
from bertcompress.methods.training.finetune import Finetune, finetune


def context(data, workdir, **changes):
    return Context(data.task, data, Models(None), torch.device("cpu"), 3, workdir, **changes)


def test_stage_trains_and_tidies_up(tmp_path):
    data = toy_data()
    product = Product(tiny_model(num_labels=2), tiny_tokenizer())
    method = Finetune(epochs=10, learning_rate=3e-3, batch_size=8, precision="fp32")
    done = method.apply(product, context(data, tmp_path))
    assert done.findings.selection_score > 0.9
    assert 0 < done.findings.facts["best_step"] <= done.findings.facts["steps"]
    assert done.findings.facts["samples"] > 0 and done.findings.facts["precision"] == "fp32"
    json.dumps(done.findings.facts)
    assert {p.name for p in tmp_path.iterdir()} <= {"training"}  # until the stage is written


def test_knobs_are_the_settings_of_training():
    method = Finetune(epochs=2, batch_size=4)
    assert (method.epochs, method.batch_size, method.patience) == (2, 4, None)
    assert Finetune(**json.loads(method.model_dump_json())) == method
    assert method.controls() == {} and Need.LABELS in method.requires
    with pytest.raises(ValidationError, match="epoch"):
        Finetune(epoch=2)
    with pytest.raises(ValidationError, match="learning_rate"):
        Finetune(learning_rate=0)


def test_refuses_a_head_of_another_width(tmp_path):
    product = Product(tiny_model(num_labels=3), tiny_tokenizer())
    with pytest.raises(DataError, match="answers with 3 numbers"):
        Finetune().apply(product, context(toy_data(), tmp_path))


def test_function_trains_on_the_users_own_loader():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 20, (32, 6), generator=generator)
    ids[:, 0] = ids[:, 0] % 2 + 5
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 2} for i in ids]
    model = tiny_model(num_labels=2)
    assert finetune(model, DataLoader(rows, 8), epochs=20, learning_rate=5e-3) is model
    with torch.no_grad():
        answers = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.argmax(-1)
    assert (answers == ids[:, 0] % 2).float().mean() > 0.9


def fake_data(problem, *labels):
    task = SimpleNamespace(head=HEADS[problem])
    return SimpleNamespace(task=task, labels=labels, num_labels=len(labels) or 1)


NLI = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (NLI, NLI, True),
        (("contradiction", "neutral", "entailment"), NLI, True),  # permuted: aligned elsewhere
        (("LABEL_0", "LABEL_1", "LABEL_2"), NLI, None),  # only its score can tell
        (("red", "green", "blue"), NLI, False),  # names on both sides, and others
        (("negative", "positive"), NLI, False),
    ],
)
def test_already_finetuned_goes_by_width_and_names(names, labels, expected):
    model = tiny_model(num_labels=len(names))
    model.config.id2label = dict(enumerate(names))
    assert already_finetuned(model, fake_data("single_label", *labels)) is expected


def test_already_finetuned_other_heads():
    assert already_finetuned(tiny_model(num_labels=1), fake_data("regression")) is None
    assert not already_finetuned(tiny_model(num_labels=2), fake_data("regression"))
    assert not already_finetuned(tiny_model(head="Model"), fake_data("regression"))
    assert not already_finetuned(tiny_model(head="ForMaskedLM"), fake_data("single_label", *NLI))
