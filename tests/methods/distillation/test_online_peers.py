"""`online_peers`: shared layers, whom each learns from, and the leader that is left."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from test_training import batches
from tests_support import answer, tiny_inputs, tiny_model, tiny_tokenizer
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.distillation.peers import (
    PeerAttention,
    PeerLoss,
    SharedLayers,
    diversity,
    mean_target,
    peer_targets,
)
from bertcompress.errors import TaskError
from bertcompress.heads import HEADS
from bertcompress.method import Context, Models
from bertcompress.methods.distillation.online_peers import OnlinePeers
from bertcompress.shapes import ShapeError, anatomy

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}
FAMILIES = ["bert", "roberta", "distilbert", "electra"]
BATCH = {**tiny_inputs(), "labels": torch.tensor([0, 1, 0])}


def loss_of(leader, shared, **knobs):
    settings = {"temperature": 3.0, "weight": 1.0, "ramp": 1, "seed": 0} | knobs
    return PeerLoss(HEADS["single_label"], shared, leader, **settings)


def ran(leader, loss, step=10):
    outputs = leader(**tiny_inputs(), output_hidden_states=True)
    return loss(leader, BATCH, outputs, step)


@pytest.mark.parametrize("branch", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_peer_that_was_not_perturbed_answers_as_the_leader(family, branch, monkeypatch):
    monkeypatch.setattr("bertcompress.engines.distillation.peers._perturb", lambda *_: None)
    leader = tiny_model(family, num_labels=2)
    shared = SharedLayers(leader, 2, branch, 0)
    wanted = leader(**tiny_inputs()).logits
    for peer in shared.peers:
        assert torch.equal(peer.eval()(**tiny_inputs()).logits, wanted)


def test_peers_hold_no_more_than_their_own_layers():
    leader = tiny_model("bert", num_labels=2)
    shared = SharedLayers(leader, 3, 1, 0)
    top = anatomy(leader).layers[-1].module
    around = [leader.bert.pooler, leader.classifier]
    own = sum(p.numel() for m in (top, *around) for p in m.parameters())
    assert [sum(p.numel() for p in peer.parameters()) for peer in shared.peers] == [own] * 3
    trained = loss_of(leader, shared).parameter_groups()[0]["params"]
    assert not {id(p) for p in trained} & {id(p) for p in leader.parameters()}


def test_peers_teach_the_shared_layers_too():
    leader = tiny_model("bert", num_labels=2).train()
    shared = SharedLayers(leader, 2, 1, 0)
    ran(leader, loss_of(leader, shared)).backward()
    bottom = anatomy(leader).layers[0].linears["query"].weight
    assert bottom.grad.abs().sum() > 0
    for peer in shared.peers:
        assert all(p.grad is not None for p in peer.classifier.parameters())


def test_weights_of_peers_sum_to_one_and_differ():
    attention = PeerAttention(16, seed=0)
    weights = attention(torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 3))
    assert not torch.allclose(weights[:, 0], weights[:, 1])


def test_targets_are_mixtures_and_nobody_learns_through_them():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(4, 3, generator=generator, requires_grad=True) for _ in range(3)]
    weights = torch.rand(4, 3, 3, generator=generator).softmax(-1).requires_grad_()
    targets = peer_targets(weights, logits, 2.0)
    probabilities = torch.stack([(each / 2).softmax(-1) for each in logits], 1)
    for a, target in enumerate(targets):
        wanted = (weights[:, a, :, None] * probabilities).sum(1)
        torch.testing.assert_close((target / 2).softmax(-1), wanted)
    sum(target.sum() for target in targets).backward()
    assert all(each.grad is None for each in logits) and weights.grad.abs().sum() > 0
    mean = mean_target(logits, 2.0)
    assert not mean.requires_grad
    torch.testing.assert_close((mean / 2).softmax(-1), probabilities.mean(1).detach())


def test_the_loss_is_the_papers_sum():
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    leader = tiny_model("bert", num_labels=2, **still)
    shared = SharedLayers(leader, 2, 1, 0)
    loss = loss_of(leader, shared, temperature=3.0, weight=0.5, ramp=4)
    leader.train()
    found = ran(leader, loss, step=1)
    answers = [peer(**tiny_inputs(), output_hidden_states=True) for peer in shared.peers]
    mine = leader(**tiny_inputs()).logits
    logits = [each.logits for each in answers]
    labels = BATCH["labels"]
    wanted = sum(torch.nn.functional.cross_entropy(z, labels) for z in (mine, *logits))
    states = torch.stack([each.hidden_states[-1][:, 0] for each in answers], 1)
    targets = peer_targets(loss.attention(states), logits, 3.0)

    def kl(target, z):
        p = (target / 3).softmax(-1)
        return 9 * (p * (p.log() - (z / 3).log_softmax(-1))).sum(-1).mean()

    apart = sum(kl(t, z) for t, z in zip(targets, logits, strict=True))
    wanted = wanted + 0.25 * (apart + kl(mean_target(logits, 3.0), mine))  # half of 0.5 by then
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_leader_is_judged_alone():
    leader = tiny_model("bert", num_labels=2).eval()
    loss = loss_of(leader, SharedLayers(leader, 2, 1, 0))
    wanted = torch.nn.functional.cross_entropy(leader(**tiny_inputs()).logits, BATCH["labels"])
    torch.testing.assert_close(ran(leader, loss), wanted)


def test_state_goes_on_after_a_break():
    leader = tiny_model("bert", num_labels=2)
    one = loss_of(leader, SharedLayers(leader, 2, 1, 0))
    two = loss_of(leader, SharedLayers(leader, 2, 1, 5), seed=9)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for mine, theirs in zip(
        one.parameter_groups()[0]["params"], two.parameter_groups()[0]["params"], strict=True
    ):
        assert torch.equal(mine, theirs)


def test_diversity_is_zero_for_equal_peers():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert diversity([logits, logits]) == pytest.approx(0, abs=1e-7)
    assert diversity([logits, -logits]) > 0.1


def stage(data, workdir, model=None, **knobs):
    model = model or tiny_model(num_labels=2)
    ctx = Context(data.task, data, Models(), torch.device("cpu"), 0, workdir)
    return OnlinePeers(**QUICK | {"peers": 2, "branch_layers": 1} | knobs).apply(
        Product(model, tiny_tokenizer()), ctx
    )


def test_the_leader_alone_is_left(tmp_path):
    data, model = toy_data(), tiny_model(num_labels=2)
    names = list(model.state_dict())
    done = stage(data, tmp_path / "a", model)
    assert list(done.model.state_dict()) == names
    hooks = [hook for m in done.model.modules() for hook in m._forward_hooks.values()]
    assert not any(isinstance(getattr(hook, "__self__", None), SharedLayers) for hook in hooks)
    alone = stage(data, tmp_path / "b", peers=0)
    assert done.findings.steps == alone.findings.steps
    assert not torch.equal(answer(done.model, tiny_inputs()), answer(alone.model, tiny_inputs()))


def test_what_it_cannot_do_is_refused(tmp_path):
    with pytest.raises(ShapeError, match="branch_layers 9 of 3"):
        stage(toy_data(), tmp_path, branch_layers=9)
    with pytest.raises(ShapeError, match="one layer, applied many times"):
        OnlinePeers().check(tiny_model("albert", num_labels=2))
    with pytest.raises(TaskError, match="a regression task has none"):
        stage(toy_data("regression"), tmp_path, tiny_model(num_labels=1))
    with pytest.raises(ValidationError, match="peers"):
        OnlinePeers(peers=-1)
    with pytest.raises(ValidationError, match="nobody to learn from"):
        OnlinePeers(peers=1)


def test_the_function_and_the_control():
    model = tiny_model(num_labels=2)
    assert bc.online_peers(model, batches(16), peers=2, branch_layers=1, **QUICK) is model
    (control,) = OnlinePeers(peers=2).controls().values()
    assert control.peers == 0 and control.controls() == {}
