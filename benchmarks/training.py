"""What training costs beyond the arithmetic: ratios, each measured interleaved in one run.

- a distillation step with cached logits, with a live teacher's hidden states, and with relations of
  a cached teacher and of a live one, over a plain one;
- a step of `q8bert`, through the rounding of every weight and input, over a plain one;
- tokens per second of the training behind `fit` over a bare PyTorch loop with the same settings.

Run: python benchmarks/training.py [--steps 40] [--threads N]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from bertcompress.data import TaskData, collator, load_data
from bertcompress.deployment import Product
from bertcompress.engines.distillation.inside import InsideTerms
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.state_cache import hidden_cache_bytes
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.method import Objective
from bertcompress.methods.quantization.q8bert import Q8bert
from bertcompress.models.io import load
from bertcompress.runtimes.hardware import environment
from bertcompress.shapes import anatomy
from bertcompress.task import Task
from bertcompress.training import (
    DelegatingObjective,
    LabelLoss,
    TrainSettings,
    fit_batches,
    forward,
)
from bertcompress.training.rates import learning_rate
from bertcompress.training.steps import LengthGrouped, decay_groups

GLUE = Path(__file__).resolve().parents[2] / "shared" / "glue"
RESULTS = Path(__file__).parent / "results"
LIMITS = {
    "cached logits / plain step": 1.15,
    "live hidden states / plain step": 1.5,
    "cached relations / plain step": 1.2,
    "live relations / plain step": 1.5,
    "q8bert / plain step": 1.25,
    "fit / bare loop, tokens per s": 0.95,
}


class Bare:
    """A training step as one writes it by hand: fused AdamW, clipping, linear schedule."""

    def __init__(self, model: nn.Module, objective: Objective, settings: TrainSettings) -> None:
        self.model = model.train()
        self.objective = objective
        groups = decay_groups(model, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate(settings, model), fused=True)
        steps = settings.max_steps or 1_000
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, steps // 10, steps)

    def __call__(self, batch: dict[str, torch.Tensor]) -> float:
        """Take one step and return its seconds."""
        start = time.perf_counter()
        outputs = forward(self.model, batch, self.objective.needs)
        self.objective(self.model, batch, outputs, 0).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def loader(data: TaskData, product: Product, seed: int) -> DataLoader[Any]:
    """Return length-grouped batches of the training rows."""
    rows = data.encode(product.tokenizer, "train")
    sampler = LengthGrouped(np.asarray(rows["length"][:]), 16, seed)
    return DataLoader(rows, 16, sampler=sampler, collate_fn=collator(product.tokenizer))


def step_ratios(data: TaskData, product: Product, steps: int, workdir: Path) -> dict[str, Any]:
    """Return the cost of distillation steps over plain ones, on the same batches in turn."""
    settings = TrainSettings(max_steps=steps)
    live = LiveTeacher(copy.deepcopy(product.model), product.tokenizer, data)
    start = time.perf_counter()
    cached = CachedTeacher(live, workdir)
    filling_s = time.perf_counter() - start
    top = anatomy(product.model).depth - 1
    kept = CachedTeacher(live, workdir / "relations", hidden_limit_mb=1e6, states=(top,))
    inside = InsideTerms(relation_weight=1.0, teacher_depth=top + 1)
    related: dict[str, Any] = {"logit_weight": 0, "hidden_weight": 0, "inside": inside}
    rounding = copy.deepcopy(product.model)
    Q8bert().wrap(rounding, LabelLoss())
    trained: dict[str, tuple[Objective, nn.Module]] = {
        "plain step": (LabelLoss(), product.model),
        "cached logits": (Distillation(cached, hidden_weight=0), product.model),
        "live hidden states": (Distillation(live), product.model),
        "cached relations": (Distillation(kept, **related), product.model),
        "live relations": (Distillation(live, **related), product.model),
        "q8bert": (LabelLoss(), rounding),
    }
    arms = {
        name: Bare(copy.deepcopy(model), objective, settings)
        for name, (objective, model) in trained.items()
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn, batch in enumerate(islice(loader(data, product, 0), steps + 2)):
        for name, arm in arms.items():
            took = arm(batch)
            if turn >= 2:  # the first ones warm up
                times[name].append(took)
    plain = times.pop("plain step")
    ratios = {
        f"{name} / plain step": spread([t / p for t, p in zip(own, plain, strict=True)])
        for name, own in times.items()
    }
    lengths = np.asarray(data.encode(product.tokenizer, "train")["length"][:])
    facts = {
        "plain_step_ms": 1e3 * statistics.median(plain),
        "filling_the_logit_cache_s": filling_s,
        "logit_cache_bytes": 4 * len(lengths) * data.num_labels,
        "hidden_cache_bytes": hidden_cache_bytes(product.model, lengths),
        "relation_cache_bytes": hidden_cache_bytes(product.model, lengths, (top,)),
    }
    return {"ratios": ratios, **facts}


class Alternating(DelegatingObjective):
    """After each step of `fit`, takes one by hand on the same rows; both times include the data."""

    def __init__(self, bare: Bare, batches: Iterator[dict[str, torch.Tensor]]) -> None:
        super().__init__(LabelLoss())
        self.bare = bare
        self.batches = batches
        self.seconds: list[tuple[float, float]] = []
        self.tokens: list[int] = []
        self.mark = time.perf_counter()

    def on_step_end(self, model: Any, optimizer: Any, step: int) -> None:
        """Note the time of the step that ended, and of the same step by hand."""
        start = time.perf_counter()
        batch = next(self.batches)
        self.bare(batch)
        end = time.perf_counter()
        self.seconds.append((start - self.mark, end - start))
        self.tokens.append(int(batch["attention_mask"].sum()))
        self.mark = time.perf_counter()


def loop_ratio(data: TaskData, product: Product, steps: int) -> dict[str, Any]:
    """Return tokens per second of the training behind `fit` over those of a loop by hand."""
    settings = TrainSettings(max_steps=steps + 2, precision="fp32")
    bare = Bare(copy.deepcopy(product.model), LabelLoss(), settings)
    both = Alternating(bare, iter(loader(data, product, 0)))
    model = copy.deepcopy(product.model)
    fit_batches(model, both, loader(data, product, 0), settings=settings, progress=False)
    pairs = both.seconds[2:]  # the first ones warm up
    tokens = sum(both.tokens[2:])
    return {
        "ratios": {"fit / bare loop, tokens per s": spread([b / f for f, b in pairs])},
        "tokens_per_s": {
            "fit": tokens / sum(fit for fit, _ in pairs),
            "bare loop": tokens / sum(by_hand for _, by_hand in pairs),
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def main() -> None:
    """Measure, print a table, and write `results/training.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=1_000, help="training rows to draw from")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-dir", default=os.environ.get("BERTCOMPRESS_GLUE", str(GLUE)))
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_data(Task.load("glue/mrpc"), data_dir=options.data_dir, limit=options.rows)
    product = load(
        "embedded:minilm-l6",
        head="ForSequenceClassification",
        fresh_head=True,
        config_fields={"num_labels": data.num_labels},
    )
    with tempfile.TemporaryDirectory() as scratch:
        steps = step_ratios(data, product, options.steps, Path(scratch))
    loops = loop_ratio(data, product, options.steps)
    ratios = steps.pop("ratios") | loops.pop("ratios")
    result = {"model": "embedded:minilm-l6", "task": "glue/mrpc", "batch_size": 16}
    result |= {
        "rows": len(data.train),
        "threads": options.threads,
        "ratios": ratios,
        **steps,
        **loops,
    }
    result["environment"] = environment(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table("ratio", "median", "quartiles", "limit")
    for name, value in ratios.items():
        quartiles = f"{value['low']:.3f} to {value['high']:.3f}"
        table.add_row(name, f"{value['median']:.3f}", quartiles, f"{LIMITS[name]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
