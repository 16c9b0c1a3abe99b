"""K-prune: cut one sublayer after the other and repair the stream after each cut, without training.

Park, Choi and Kang 2023, "Accurate Retraining-free Pruning for Pretrained Encoder-based Language
Models" (2308.03449). From bottom to top, each sublayer's units are ranked together with all units
above it, the share of the budget that falls to it is cut, and its output projection is solved anew
so that the residual stream is again what the *original* model had at that place.

One thing differs. The paper's predictive score is the gradient of the KL divergence to the original
model, which is exactly zero before the first cut, so that only the representational score ranks the
first sublayer. Here the gradient is taken against answers drawn from the original's distribution:
its square is the curvature of that same divergence and does not vanish.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bertcompress.engines.pruning.budget import fill_budget
from bertcompress.engines.pruning.importance import (
    frozen,
    head_of,
    head_outputs,
    model_inputs,
)
from bertcompress.engines.pruning.least_squares import Moments, solve_projection
from bertcompress.engines.pruning.masks import Site, sites, unit_masks
from bertcompress.heads import Head
from bertcompress.shapes import Heads, Neurons, anatomy, apply_edit
from bertcompress.support.progress import bar

__all__ = ["KPruneSettings", "cut_and_repair", "unit_costs"]

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class KPruneSettings:
    """Weights of the scores and of the repair; the defaults are the paper's."""

    predictive: float = 1.0
    representational: float = 2.5e-4
    head_weight: float = 64.0
    """Heads' scores are multiplied by this (mu in the paper)."""
    ridge: float = 1e-3
    """Pull of the least squares towards the present weights, relative to the feature variance."""
    reconstruct: bool = True
    """False cuts by the same scores and repairs nothing: the control."""
    length: int = 128
    """Tokens per input at which the cost of attention is counted."""


def unit_costs(model: nn.Module, found: Sequence[Site], length: int) -> list[float]:
    """Return the multiply-accumulates per token of one unit of each sublayer.

    A head costs 4 H D + 2 T D, a neuron 2 H, each time that it is applied.
    """
    hidden = anatomy(model).hidden
    each = [
        4.0 * hidden * site.size + 2.0 * length * site.size
        if site.kind == "heads"
        else 2.0 * hidden
        for site in found
    ]
    return [cost * site.times for cost, site in zip(each, found, strict=True)]


def cut_and_repair(
    model: nn.Module,
    batches: Sequence[Batch],
    keep: float,
    *,
    at_least: int = 0,
    seed: int = 0,
    settings: KPruneSettings | None = None,
    head: Head | None = None,
) -> nn.Module:
    """Cut the model in place to a share of its encoder's multiply-accumulates, and return it.

    Args:
        model: a fine-tuned encoder with a classification or regression head.
        batches: calibration inputs, held in memory; the paper uses about 100,000 tokens.
        keep: share of the encoder's multiply-accumulates that stays, above 0 up to 1.
        at_least: heads and neurons that stay in each sublayer.
        seed: of the drawn answers.
        settings: weights of the scores and of the repair.
        head: of the task, which draws the answers; None: as the model's config tells.
    """
    options = settings or KPruneSettings()
    original = copy.deepcopy(model).eval()
    model.eval()
    survey = _Survey(model, original, batches, options, seed, head_of(model, head))
    costs = unit_costs(model, survey.goals, options.length)
    full = sum(cost * site.units for cost, site in zip(costs, survey.goals, strict=True))
    budget = keep * full
    for position, goal in enumerate(bar(survey.goals, "cutting sublayers")):
        scores, moments = survey.look(position)
        least = [min(at_least, site.units) for site in survey.goals[position:]]
        kept = fill_budget(scores, costs[position:], budget, least)[0]
        _cut(model, goal, kept)
        budget -= costs[position] * len(kept)
        if options.reconstruct and kept:
            wide = [unit * goal.size + i for unit in kept for i in range(goal.size)]
            index = torch.tensor(wide, device=moments.gram.device)
            solve_projection(
                _site(model, goal).projection, moments.keep(index), ridge=options.ridge
            )
    return model


def _site(model: nn.Module, like: Site) -> Site:
    """Return the sublayer of the present model that answers to one of the original."""
    return next(s for s in sites(model) if (s.layers, s.kind) == (like.layers, like.kind))


def _cut(model: nn.Module, site: Site, kept: list[int]) -> None:
    rows = [list(range(n)) for n in _unit_counts(model, site.kind)]
    for layer in site.layers:
        rows[layer] = kept
    if site.kind == "heads":
        apply_edit(model, Heads(rows))
    else:
        apply_edit(model, Neurons([len(row) for row in rows], rows))


def _unit_counts(model: nn.Module, kind: str) -> list[int]:
    return [layer.heads if kind == "heads" else layer.width for layer in anatomy(model).layers]


class _Survey:
    """Looks at the partly cut model beside the original on all calibration batches."""

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        batches: Sequence[Batch],
        options: KPruneSettings,
        seed: int,
        head: Head,
    ) -> None:
        self.model, self.original, self.options = model, original, options
        self.goals = sites(original)
        self.device = next(model.parameters()).device
        self.seed = seed
        self.head = head
        with torch.no_grad():
            inputs = [model_inputs(model, batch) for batch in batches]
            answers = [head_outputs(original, each, head) for each in inputs]
            self.batches = list(zip(batches, inputs, answers, strict=True))

    def look(self, position: int) -> tuple[list[Tensor], Moments]:
        """Return the scores of the sublayers from `position` up, and the moments to repair it.

        Shape of each score: (units,).
        """
        target = _site(self.model, self.goals[position])
        open_sites = [_site(self.model, goal) for goal in self.goals[position:]]
        below = len(sites(self.model)) - len(open_sites)
        predictive = [torch.zeros(site.units, device=self.device) for site in open_sites]
        energy = [torch.zeros(s.projection.in_features, device=self.device) for s in open_sites]
        moments = Moments.empty(
            target.projection.in_features, target.projection.out_features, self.device
        )
        generator = torch.Generator().manual_seed(self.seed)
        with unit_masks(self.model, per_example=True, first=below) as masks, frozen(self.model):
            for batch, inputs, answer in self.batches:
                masks.forget()
                wanted = self._original_stream(inputs, position)
                with _captured(open_sites, target) as seen, torch.enable_grad():
                    outputs = head_outputs(self.model, inputs, self.head)
                    losses = self.head.drawn_losses(outputs, answer, batch, generator)
                    torch.autograd.backward(losses.sum())
                tokens = inputs["attention_mask"].bool()
                for i in range(len(open_sites)):
                    predictive[i] += 0.5 * masks.gradients(i).pow(2).sum(0)
                    energy[i] += sum(f[tokens].pow(2).sum(0) for f in seen.features[i])
                for x, out, stream, goal in zip(
                    seen.features[0], seen.outputs, seen.streams, wanted, strict=True
                ):
                    # What the projection should have added to the stream that reached it.
                    moments.add(x[tokens], (goal - (stream - out))[tokens])
        return self._scores(open_sites, predictive, energy), moments

    def _scores(
        self, open_sites: list[Site], predictive: list[Tensor], energy: list[Tensor]
    ) -> list[Tensor]:
        options, scores = self.options, []
        for site, gradient, features in zip(open_sites, predictive, energy, strict=True):
            weight = site.projection.weight.detach().pow(2).mean(0)
            known = (features * weight).reshape(site.units, site.size).sum(1)
            score = options.predictive * gradient + options.representational * known
            scores.append(score * (options.head_weight if site.kind == "heads" else 1.0))
        return scores

    @torch.no_grad()
    def _original_stream(self, inputs: Mapping[str, Tensor], position: int) -> list[Tensor]:
        """Return the original's stream behind the sublayer, once per application."""
        seen: list[Tensor] = []
        goal = self.goals[position]

        def see(stream: Tensor) -> None:
            seen.append(stream)
            if len(seen) == goal.times:
                raise _Enough

        handle = goal.residual.watch(see)
        try:
            self.original(**inputs)
        except _Enough:
            pass
        finally:
            handle.remove()
        return seen


class _Enough(Exception):
    """Ends a forward pass early: nothing above the sublayer is needed."""


@dataclass
class _Seen:
    features: list[list[Tensor]]
    outputs: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)


@contextlib.contextmanager
def _captured(open_sites: Sequence[Site], target: Site) -> Iterator[_Seen]:
    """Collect inputs of all projections, and output and stream of the target."""
    seen = _Seen([[] for _ in open_sites])
    handles = [
        site.projection.register_forward_pre_hook(
            lambda _, args, i=i: seen.features[i].append(args[0].detach())
        )
        for i, site in enumerate(open_sites)
    ]
    handles += [
        target.projection.register_forward_hook(
            lambda _, __, output: seen.outputs.append(output.detach())
        ),
        target.residual.watch(lambda stream: seen.streams.append(stream.detach())),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
