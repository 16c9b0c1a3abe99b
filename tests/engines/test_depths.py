"""A family of embedders in one model: what its first layers answer is learned, and cut exactly."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from embedder_support import tiny_embedder, write_pairs, write_texts
from tests_support import FAMILIES, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.engines.distillation.depths import answers_after
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.errors import ModelError, RecipeError
from bertcompress.heads.vectors import Vectors
from bertcompress.method import TeacherOutputs
from bertcompress.methods.pruning.structured import prune_layers
from bertcompress.shapes import anatomy
from bertcompress.training import forward

TEXTS = ["good film", "bad plot and bad actor", "the film", "good"]


def batch_of(rows: int = 4) -> dict[str, torch.Tensor]:
    batch = tiny_tokenizer()(TEXTS[:rows], padding=True, return_tensors="pt")
    return {**batch, "row_id": torch.arange(rows)}


class Wanted:
    """A teacher whose answers are given."""

    def __init__(self, vectors):
        self.vectors = vectors

    def __call__(self, row_ids, needs=frozenset(), parts=None):
        assert not needs
        return TeacherOutputs(self.vectors)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_cut_at_a_depth_answers_what_it_answered_there(family):
    model, batch = tiny_model(family, "Model").eval(), batch_of()
    if anatomy(model).depth < 2:
        pytest.skip("one layer")
    with torch.no_grad():
        outputs = forward(model, batch, frozenset({"hidden_states"}))
        whole, first = answers_after(outputs, [1])
        gone = range(1, anatomy(model).depth)
        cut = forward(prune_layers(copy.deepcopy(model), gone), batch)
    assert torch.equal(cut.last_hidden_state, first)
    assert torch.equal(outputs.last_hidden_state, whole)
    assert not torch.equal(whole, first)


def test_the_loss_is_the_mean_over_the_depths_and_all_layers():
    model, batch = tiny_model("bert", "Model").eval(), batch_of()
    outputs = forward(model, batch, frozenset({"hidden_states"}))
    wanted = torch.randn(4, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    given = {"problem": "vectors", "hidden_weight": 0.0, "logit_weight": 0.9}
    loss = Distillation(Wanted(wanted), depths=[1], **given)
    assert loss.needs == {"hidden_states"}
    states = outputs.hidden_states
    each = [Vectors().divergence(state, wanted, batch, 2.0) for state in (states[-1], states[1])]
    torch.testing.assert_close(loss(model, batch, outputs, 0), 0.9 * (each[0] + each[1]) / 2)
    alone = Distillation(Wanted(wanted), **given)
    assert torch.equal(alone(model, batch, outputs, 0), 0.9 * each[0])


def test_each_depth_moves_the_weights_below_it_alone():
    model, batch = tiny_model("bert", "Model").eval(), batch_of()
    outputs = forward(model, batch, frozenset({"hidden_states"}))
    wanted = torch.randn(4, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    Vectors().divergence(answers_after(outputs, [1])[1], wanted, batch, 2.0).backward()
    moved = {name for name, each in model.named_parameters() if each.grad is not None}
    assert any(".layer.0." in name for name in moved)
    assert not any(".layer.1." in name or ".layer.2." in name for name in moved)


@pytest.fixture
def place(tmp_path):
    write_texts(tmp_path / "train.jsonl", 100)
    write_texts(tmp_path / "test.jsonl", 40, 5)
    tiny_embedder(tmp_path / "m")
    return tmp_path


def run_of(place, name, task=None, cut=None, **distill):
    steps = {"batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "epochs": 6}
    task = task or bc.Task.from_texts(place / "train.jsonl", place / "test.jsonl")
    methods = [{"prune_structured": cut or {"keep": 0.5}}, {"distill": {**steps, **distill}}]
    fields = {"model": str(place / "m"), "task": task, "methods": methods}
    measure = {"latency": False, "controls": False}
    return bc.run(bc.Recipe.parse({**fields, "measure": measure}), place / name)


def first_layer_cosine(run, place) -> float:
    """How near the vectors of a result's first layer are to the original's, once it is cut."""
    lines = (place / "test.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    vectors = []
    for folder in (run.folder, place / "m"):
        model = bc.load(folder).model
        if folder == run.folder:
            prune_layers(model, range(1, anatomy(model).depth))
        batch = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            states = forward(model.eval(), batch).last_hidden_state
        vectors.append(Vectors()._pooled(states, batch))
    return float(torch.cosine_similarity(*vectors).mean())


@pytest.mark.usefixtures("without_figures")
def test_the_first_layers_learn_and_the_report_says_how_well(place):
    learned, plain = run_of(place, "learned", depths=[1]), run_of(place, "plain")
    stage = learned.report.last
    assert set(stage.facts["depths"]) == {"1", "3"}
    (note,) = [each for each in stage.notes if "after so many layers" in each]
    assert note.startswith("cosine on the selection rows after so many layers: 1: 0.")
    assert "layer_order: bottom" in note
    assert "depths" not in plain.report.last.facts
    near, far = (first_layer_cosine(run, place) for run in (learned, plain))
    assert near > far + 0.1
    assert abs(near - stage.facts["depths"]["1"]) < 0.1  # other rows


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_pairs_are_scored_by_their_labels_at_each_depth(place):
    columns = {"text": ["a", "b"], "label": "score", "problem": "similarity"}
    files = [write_pairs(place / f"{i}.jsonl", 120, i) for i in range(2)]
    task = bc.Task.from_files(*files, **columns)
    run = run_of(place, "pairs", task, depths=[1])
    (note,) = [each for each in run.report.last.notes if "after so many layers" in each]
    assert note.startswith("spearman on the selection rows")


@pytest.mark.parametrize(
    ("depths", "words"),
    [([3], "depths: 3; the model has 3 layers, so from 1 to 2"), ([1, 7], "depths: 7")],
)
def test_depths_that_the_model_has_not_are_refused_first(place, depths, words):
    with pytest.raises(RecipeError, match=words):
        run_of(place, "refused", depths=depths)
    assert not (place / "refused").exists()


def test_depths_of_layers_that_an_earlier_step_cuts_are_refused_first(place):
    with pytest.raises(RecipeError, match=r"methods\[1\].*: 2; the model has 2 layers, so from 1"):
        run_of(place, "refused", cut={"keep_layers": 2}, depths=[2])
    assert not (place / "refused").exists()


def test_a_task_with_a_head_behind_the_layers_is_refused(place):
    recipe = bc.Recipe.load(
        "quickstart", methods=["finetune", bc.PruneStructured(), bc.Distill(depths=[1])]
    )
    with pytest.raises(RecipeError, match="depths: the states of a layer are the answers"):
        bc.run(recipe, place / "refused")


@pytest.mark.parametrize("method", [bc.Q8bert, bc.GradualMagnitude])
def test_a_method_whose_result_cannot_be_cut_has_no_depths(method):
    with pytest.raises(ValueError, match="depths"):
        method(depths=[1])


def test_depths_without_vectors_to_learn_are_refused():
    with pytest.raises(ValueError, match="whose weight is 0"):
        bc.Distill(depths=[1], logit_weight=0)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_loop_of_ones_own_refuses_a_head_behind_the_layers(classes):
    """Of one number the states of a layer would have been compared with it, token by token."""
    model, teacher = (tiny_model("bert", num_labels=classes, seed=seed) for seed in range(2))
    with pytest.raises(RecipeError, match="depths: the states of a layer are the answers"):
        bc.distill(model, teacher, [batch_of()], depths=[1], hidden_weight=0, epochs=1)


def test_a_model_that_is_too_shallow_is_refused_in_a_loop_of_ones_own():
    model, batch = tiny_model("bert", "Model").eval(), batch_of()
    with pytest.raises(ModelError, match="depths: 3; the model has 3 layers"):
        answers_after(forward(model, batch, frozenset({"hidden_states"})), [3])


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_result_is_cut_later_by_a_recipe_and_by_hand(place):
    """By `prune_structured` without training, and by leaving layers away in sentence-transformers.

    The latter is what the documentation shows.
    """
    from sentence_transformers import SentenceTransformer

    run = run_of(place, "learned", depths=[1])
    cut = {"keep_layers": 1, "layer_order": "bottom", "keep": 1.0}
    task = bc.Task.from_texts(place / "train.jsonl", place / "test.jsonl")
    later = bc.run(
        bc.Recipe(
            model=str(run.folder),
            task=task,
            methods=[bc.PruneStructured(**cut)],
            measure={"latency": False, "controls": False},
        ),
        place / "later",
    )
    by_recipe = SentenceTransformer(str(later.model), trust_remote_code=True)
    by_hand = SentenceTransformer(str(run.model), trust_remote_code=True)
    encoder = by_hand[0].auto_model.encoder
    encoder.layer = encoder.layer[:1]
    texts = [json.loads(line)["text"] for line in (place / "test.jsonl").read_text().splitlines()]
    both = [model.encode(texts) for model in (by_recipe, by_hand)]
    np.testing.assert_allclose(*both, atol=1e-6)
