"""`sequence_level`: the teacher's decisions are the labels; its controls; texts without labels."""

from __future__ import annotations

import copy

import pytest
import torch
from test_training import batches
from tests_support import answer, tiny_inputs, tiny_model, tiny_tokenizer
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.method import Context, Models
from bertcompress.methods.distillation.sequence_level import SequenceLevel

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_loss_is_that_of_labels_the_teacher_decided(problem):
    width = 1 if problem == "regression" else 3
    teacher = tiny_model(seed=8, num_labels=width)
    student = tiny_model(num_labels=width)
    batch = {**tiny_inputs(), "row_id": torch.arange(3), "labels": torch.tensor([0, 1, 1])}
    weights = {"label_weight": 0.0, "logit_weight": 1.0, "hidden_weight": 0.0}
    live = LiveTeacher(teacher)
    objective = Distillation(live, problem=problem, targets="decisions", **weights)
    logits = student(**tiny_inputs()).logits
    theirs = teacher(**tiny_inputs()).logits.detach()
    wanted = {
        "single_label": lambda: torch.nn.functional.cross_entropy(logits, theirs.argmax(-1)),
        "multi_label": lambda: torch.nn.functional.binary_cross_entropy_with_logits(
            logits, (theirs > 0).float()
        ),
        "regression": lambda: (logits - theirs).pow(2).mean(),
    }[problem]()
    found = objective(student, batch, student(**tiny_inputs()), 0)
    torch.testing.assert_close(found, wanted)


def stage(method, data, workdir):
    teacher = LiveTeacher(tiny_model(seed=8, num_labels=2), tiny_tokenizer(), data)
    ctx = Context(data.task, data, Models(teacher), torch.device("cpu"), 0, workdir)
    return method.apply(Product(tiny_model(num_labels=2), tiny_tokenizer()), ctx)


@pytest.mark.parametrize("problem", ["single_label", "unlabelled"])
def test_decisions_serve_with_and_without_labels(problem, tmp_path):
    data = toy_data(problem)
    done = stage(SequenceLevel(**QUICK), data, tmp_path / "a")
    soft = stage(SequenceLevel(**QUICK, targets="probabilities"), data, tmp_path / "b")
    assert not torch.equal(answer(done.model, tiny_inputs()), answer(soft.model, tiny_inputs()))


def test_its_controls_are_the_labels_and_the_probabilities():
    method = SequenceLevel(**QUICK)
    alone, soft = method.controls().values()
    assert next(iter(method.controls())) == WITHOUT_TEACHER and alone.labels_only
    assert soft == method.model_copy(update={"targets": "probabilities"})
    assert soft.controls() == {} and alone.controls() == {}


def test_the_function_needs_no_labels():
    rows = [{k: v for k, v in each.items() if k != "labels"} for each in batches(16)]
    model, teacher = tiny_model(num_labels=2), tiny_model(seed=8, num_labels=2)
    held = copy.deepcopy(teacher.state_dict())
    assert bc.sequence_level(model, teacher, rows, **QUICK) is model
    assert all(torch.equal(held[name], t) for name, t in teacher.state_dict().items())
