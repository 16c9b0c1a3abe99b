"""Whether TextBrewer's losses and ours are the same functions, on random tensors.

    pip install --no-deps textbrewer
    python benchmarks/textbrewer.py

Each row holds one of its losses beside the term here that learns the same, brought to one
definition where the two differ: the table says by what. Compared are values and the gradients in
the student's tensors, over seeds, with padding, unequal heads and temperatures. Exits with 1 where
a row differs by more than the rounding of fp32.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bertcompress.engines.distillation.objectives import hidden_loss, kd_loss
from bertcompress.engines.distillation.relations import (
    attention_loss,
    patient_loss,
    relation_loss,
)
from bertcompress.heads import HEADS

SEEDS = 20
ROWS, TOKENS, WIDTH, HEADS_S, HEADS_T, CLASSES = 5, 9, 24, 4, 2, 6
ALIKE = 2e-6
"""Relative difference of values, and of gradients by their norm, that fp32 explains."""

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """One loss of TextBrewer beside ours. `both`: of the student's and the teacher's tensors."""

    name: str
    ours: str
    differs: str
    """What brings the first to the second; empty: they are one function."""
    shape: tuple[int, ...]
    both: Callable[[Tensor, Tensor, Tensor, Any], Pair]


def losses_of_textbrewer() -> Any:
    """Return its module of losses alone: the package itself imports what nobody needs for them."""
    here = Path(__file__).parent.resolve()  # where a file of its name lies: this one
    places = [place for place in sys.path if Path(place or ".").resolve() != here]
    spec = PathFinder.find_spec("textbrewer", places)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("textbrewer is not installed: pip install --no-deps textbrewer")
    package = types.ModuleType("textbrewer")
    package.__path__ = [str(Path(place)) for place in spec.submodule_search_locations]
    sys.modules["textbrewer"] = package
    return importlib.import_module("textbrewer.losses")


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax, in nats. Shape: (..., K) -> (...)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def scores(one: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Return attention scores of a tensor with itself, padding at -1e9. Shape: (B, heads, T, T)."""
    parted = one.unflatten(-1, (heads, -1)).transpose(1, 2)
    made = parted @ parted.transpose(-1, -2) / parted.shape[-1] ** 0.5
    return made.masked_fill(~mask.bool()[:, None, None, :], -1e9)


def kd_ce(s: Tensor, t: Tensor, mask: Tensor, theirs: Any, temperature: float) -> Pair:
    """Hinton's loss: theirs is a cross entropy, not multiplied by T^2."""
    squared, constant = temperature**2, entropy(t / temperature).mean()
    ours = kd_loss(s, t, temperature, "single_label") + squared * constant
    return ours, squared * theirs.kd_ce_loss(s, t, temperature)


def kd_mse(s: Tensor, t: Tensor, mask: Tensor, theirs: Any, temperature: float) -> Pair:
    """Squared error of logits: here for numbers, in their own unit."""
    made = temperature**2 * theirs.kd_mse_loss(s, t, temperature)
    return kd_loss(s, t, temperature, "regression"), made


def hid_mse(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Hidden states of one layer, real tokens alone."""
    return hidden_loss([s], [t], mask, [0]), theirs.hid_mse_loss(s, t, mask)


def hid_mse_layers(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Three layers, each with the weight 0.5: theirs are summed by their weights."""
    mine, wanted = ([each * n for n in (1, 2, 3)] for each in (s, t))
    summed = sum(0.5 * theirs.hid_mse_loss(a, b, mask) for a, b in zip(mine, wanted, strict=True))
    return 0.5 * hidden_loss(mine, wanted, mask, [0, 1, 2]), summed / 3


def att_mse(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Attention scores of as many heads."""
    made = theirs.att_mse_loss(scores(s, HEADS_T, mask), scores(t, HEADS_T, mask), mask)
    return attention_loss((s, s, s), (t, t, t), mask, (HEADS_T, HEADS_T)), made


def att_mse_heads(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Attention scores of unequal heads: theirs are summed over heads, ours are means."""
    mine, wanted = (scores(each, h, mask) / h for each, h in ((s, HEADS_S), (t, HEADS_T)))
    made = theirs.att_mse_sum_loss(mine, wanted, mask)
    return attention_loss((s, s, s), (t, t, t), mask, (HEADS_S, HEADS_T)), made


def att_ce(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Attention as distributions: theirs is a cross entropy, ours a divergence."""
    mine, wanted = (scores(each, HEADS_T, mask) for each in (s, t))
    real = mask.bool()[:, None].expand(-1, HEADS_T, -1)
    ours = relation_loss((s, s, s), (t, t, t), mask, ("query_key",), HEADS_T)
    return ours + entropy(wanted)[real].mean(), theirs.att_ce_loss(mine, wanted, mask)


def att_ce_mean(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Of one head the mean over heads is the head itself."""
    mine, wanted = (scores(each, 1, mask) for each in (s, t))
    ours = relation_loss((s, s, s), (t, t, t), mask, ("query_key",), 1)
    constant = entropy(wanted[:, 0])[mask.bool()].mean()
    return ours + constant, theirs.att_ce_mean_loss(mine, wanted, mask)


def cos(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Vectors of texts, one at a time: what cosines among texts are off is a term of ours alone."""
    head = HEADS["vectors"]
    each = [head.divergence(s[i : i + 1], t[i : i + 1], {}, 1.0) for i in range(len(s))]
    return torch.stack(each).mean(), theirs.cos_loss(s[:, None], t[:, None])


def pkd(s: Tensor, t: Tensor, mask: Tensor, theirs: Any) -> Pair:
    """Normalised states of the first token, of two layers between the first and the last."""
    mine, wanted = ([each * 0, each, each.roll(1, -1), each * 0] for each in (s, t))
    pairs = list(zip(mine, wanted, strict=True))[1:-1]
    summed = sum(theirs.pkd_loss(a, b, mask) for a, b in pairs)
    return patient_loss(mine, wanted, [0, 1, 2, 3]), summed / len(pairs)


def at(temperature: float, loss: Callable[..., Pair]) -> Callable[..., Pair]:
    """Return a loss at a temperature."""
    return lambda s, t, mask, theirs: loss(s, t, mask, theirs, temperature)


LOGITS, STATES = (ROWS, CLASSES), (ROWS, TOKENS, WIDTH)
_CROSS = "T^2 (theirs - entropy of the teacher): a constant, and T^2 in the gradient"
CASES = (
    Case("kd_ce_loss, T = 1", "logits, one class", _CROSS, LOGITS, at(1.0, kd_ce)),
    Case("kd_ce_loss, T = 4", "logits, one class", _CROSS, LOGITS, at(4.0, kd_ce)),
    Case("kd_mse_loss, T = 1", "logits, a number", "", (ROWS, 1), at(1.0, kd_mse)),
    Case("kd_mse_loss, T = 4", "logits, a number", "T^2 theirs", (ROWS, 1), at(4.0, kd_mse)),
    Case("hid_mse_loss", "hidden states", "", STATES, hid_mse),
    Case(
        "hid_mse_loss, three layers",
        "hidden states",
        "theirs / layers: a mean over layers, not a sum",
        STATES,
        hid_mse_layers,
    ),
    Case("att_mse_loss", "attention scores", "", STATES, att_mse),
    Case(
        "att_mse_sum_loss, unequal heads",
        "attention scores",
        "theirs of scores / heads: a mean over heads, not a sum",
        STATES,
        att_mse_heads,
    ),
    Case("att_ce_loss", "relations, query_key", "theirs - entropy of the teacher", STATES, att_ce),
    Case(
        "att_ce_mean_loss, one head",
        "relations, query_key",
        "theirs - entropy of the teacher; of more heads ours is the mean of divergences, theirs "
        "the one of mean scores",
        STATES,
        att_ce_mean,
    ),
    Case(
        "cos_loss",
        "logits, vectors",
        "of one text; ours adds what cosines among texts are off",
        (ROWS, WIDTH),
        cos,
    ),
    Case("pkd_loss, two layers", "first tokens", "theirs / layers: a mean", STATES, pkd),
)


def difference(case: Case, theirs: Any) -> tuple[float, float]:
    """Return how far values and gradients are apart at most, relative to their size."""
    values, gradients = 0.0, 0.0
    lengths = torch.tensor([TOKENS, 3, 1, TOKENS - 2, 5])
    mask = (torch.arange(TOKENS)[None] < lengths[:, None]).long()
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        s, t = (torch.randn(case.shape, generator=generator) for _ in range(2))
        s.requires_grad_()
        ours, made = case.both(s, t, mask, theirs)
        values = max(values, float(((ours - made).abs() / made.abs()).detach()))
        mine, wanted = (torch.autograd.grad(each, s, retain_graph=True)[0] for each in (ours, made))
        gradients = max(gradients, float((mine - wanted).norm() / wanted.norm()))
    return values, gradients


def dropped_scores(theirs: Any) -> float:
    """Return the share of its own value that att_mse_loss has without a mask."""
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(ROWS, 2, TOKENS, TOKENS, generator=generator) for _ in range(2))
    return float(theirs.att_mse_loss(s, t) / functional.mse_loss(s, t))


def main() -> None:
    """Print the table."""
    theirs = losses_of_textbrewer()
    version = importlib.metadata.version("textbrewer")
    print(f"textbrewer {version}, torch {torch.__version__}, {SEEDS} seeds, fp32\n")
    print("| TextBrewer | term here | ours is | values differ by | gradients by | |")
    print("|---|---|---|---|---|---|")
    apart = []
    for case in CASES:
        values, gradients = difference(case, theirs)
        same = max(values, gradients) <= ALIKE
        apart += [] if same else [case.name]
        shown = "equal" if same else "DIFFERENT"
        print(
            f"| {case.name} | {case.ours} | {case.differs or 'the same'} | {values:.0e} | "
            f"{gradients:.0e} | {shown} |"
        )
    print(
        "\nWithout a mask its attention losses set every score below -0.001 to 0 (meant for "
        f"padding), negative scores too: {dropped_scores(theirs):.0%} of the squared error is left "
        "on random scores. Ours always have a mask."
    )
    if apart:
        raise SystemExit(f"different: {', '.join(apart)}")


if __name__ == "__main__":
    main()
