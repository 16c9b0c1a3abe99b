"""Importances against gradients taken one example at a time, without our masks."""

from __future__ import annotations

import pytest
import torch
from tests_support import FAMILIES, tiny_inputs, tiny_model
from torch.nn import functional

from bertcompress.engines.pruning.importance import (
    frozen,
    head_of,
    mask_fisher,
    random_scores,
    sampled_loss,
    task_loss,
    weight_magnitude,
)
from bertcompress.engines.pruning.masks import sites, unit_masks
from bertcompress.heads import HEADS

LABELS = torch.tensor([2, 0, 1])


def batches():
    """Two batches of other sizes, the first with padding."""
    one = {**tiny_inputs(), "labels": LABELS}
    return [one, {key: value[1:] for key, value in one.items()}]


def slow_gradients(model, batch):
    """d loss / d mask of each example, the product with the mask written out here. (B, units)."""
    found, rows = sites(model), []
    for row in range(len(batch["labels"])):
        masks = [torch.ones(site.units, requires_grad=True) for site in found]
        handles = [
            site.projection.register_forward_pre_hook(
                lambda _, args, m=mask, s=site: (
                    (args[0].unflatten(-1, (s.units, s.size)) * m[:, None]).flatten(-2),
                )
            )
            for site, mask in zip(found, masks, strict=True)
        ]
        inputs = {k: v[row : row + 1] for k, v in batch.items() if k != "labels"}
        logits = model(**inputs).logits
        loss = functional.cross_entropy(logits, batch["labels"][row : row + 1])
        rows.append(torch.autograd.grad(loss, masks))
        for handle in handles:
            handle.remove()
    return [torch.stack(each) for each in zip(*rows, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_each_example(family):
    model, batch = tiny_model(family), batches()[0]
    with unit_masks(model, per_example=True) as masks, frozen(model):
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        logits = model(**inputs).logits
        functional.cross_entropy(logits, batch["labels"], reduction="sum").backward()
        for site, slow in enumerate(slow_gradients(model, batch)):
            torch.testing.assert_close(masks.gradients(site), slow, atol=1e-5, rtol=1e-4)
            assert slow.abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("power", [1, 2])
def test_fisher_is_the_sum_over_examples(family, power):
    model = tiny_model(family)
    expected = [torch.zeros(site.units) for site in sites(model)]
    for batch in batches():
        for total, rows in zip(expected, slow_gradients(model, batch), strict=True):
            total += rows.abs().pow(power).sum(0)
    found = mask_fisher(model, batches(), task_loss(HEADS["single_label"]), power=power)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_the_batch_size_does_not_matter(bert):
    whole = mask_fisher(bert, batches()[:1], task_loss(HEADS["single_label"]))
    single = [{k: v[i : i + 1] for k, v in batches()[0].items()} for i in range(3)]
    parts = mask_fisher(bert, single, task_loss(HEADS["single_label"]))
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)


def test_the_model_is_left_as_it_was(bert):
    bert.train()
    before = {k: v.clone() for k, v in bert.state_dict().items()}
    mask_fisher(bert, batches(), task_loss(HEADS["single_label"]))
    assert bert.training
    assert all(p.requires_grad and p.grad is None for p in bert.parameters())
    assert all(torch.equal(before[k], v) for k, v in bert.state_dict().items())
    assert not any(s.projection._forward_pre_hooks for s in sites(bert))


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_task_losses_by_hand(problem):
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    if problem == "single_label":
        labels = torch.tensor([0, 1])
        expected = torch.stack([logits[i].logsumexp(0) - logits[i, labels[i]] for i in range(2)])
    elif problem == "multi_label":
        labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        p = logits.sigmoid()
        expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum(1)
    else:
        logits, labels = logits[:, :1], torch.tensor([0.5, 1.0])
        expected = (logits[:, 0] - labels) ** 2
    found = task_loss(HEADS[problem])({"labels": labels}, logits)
    torch.testing.assert_close(found, expected)


def test_drawn_answers_have_the_models_distribution():
    logits = torch.tensor([[2.0, 0.0, -1.0]]).repeat(20_000, 1)
    generator = torch.Generator().manual_seed(0)
    losses = HEADS["single_label"].drawn_losses(logits, logits, {}, generator)
    nats = -logits[0].log_softmax(0)
    share = torch.stack([(losses - each).abs().lt(1e-5).float().mean() for each in nats])
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_drawn_scores_need_no_labels_and_repeat(problem):
    model = tiny_model(num_labels=1 if problem == "regression" else 3)
    if problem == "multi_label":
        model.config.problem_type = "multi_label_classification"
    assert head_of(model).key == problem
    unlabelled = [{k: v for k, v in b.items() if k != "labels"} for b in batches()]
    one, two, other = (
        mask_fisher(model, unlabelled, sampled_loss(HEADS[problem], s)) for s in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(row.sum() > 0 for row in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_controls(family):
    model = tiny_model(family)
    for site, norms in zip(sites(model), weight_magnitude(model), strict=True):
        columns = site.projection.weight.detach().split(site.size, dim=1)
        expected = torch.stack([part.norm() for part in columns])
        torch.testing.assert_close(norms, expected)
    one, two, other = (random_scores(model, seed) for seed in (1, 1, 2))
    assert [row.shape for row in one] == [(site.units,) for site in sites(model)]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
