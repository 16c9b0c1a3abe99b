"""The desk grid: shipped recipes x tasks x seeds, one JSON per cell, a table at the end.

    python benchmarks/grid.py run --data-dir PATH_TO_GLUE [--arms small] [--tasks stsb] [--seeds 0]
    python benchmarks/grid.py table
    python benchmarks/grid.py compact

A cell that is there, by the same recipe, is not computed again: the grid goes on where it stopped.
Each cell is a process of one thread; the cells of one task and seed run after each other, since
they share the fine-tuned teacher through the stage store. `compact` packs what was computed into
one file per task (grid_cells.py): these are what git keeps. See docs/measuring.md for what the
columns mean.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grid_cells
import numpy as np

RESULTS = Path(__file__).parent / "results" / "desk"
MODEL = "embedded:minilm-l6"
TASKS: dict[str, dict[str, Any]] = {
    "stsb": {},
    "sst2": {"limit": 10_000},
    "mnli": {},
    "mrpc": {},
    "cola": {},
}
JUDGED = ("mnli", "stsb", "sst2")
"""MRPC and CoLA are shown, not judged: their validation sets cannot carry a claim."""

MEASURED: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 4, "learning_rate": 5e-5, "patience": 3},
    "distill": {"epochs": 4, "learning_rate": 1e-4},
    "flop": {"epochs": 3, "learning_rate": 1e-4},
    "q8bert": {"epochs": 2, "learning_rate": 2e-5, "ranges": "max"},
    "q_bert": {"epochs": 1, "learning_rate": 2e-5},
}
"""The training that the grid was measured with; the defaults of today train to the end."""
DEFAULTS = ("int8", "small", "no-training")
"""Recipes that are measured again, as they ship now: the arms `int8-defaults` and so on."""

PLAIN_CUT = "methods.1.reconstruct=false"
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "int8": ("int8", ()),
    "no-training": ("no-training", ()),
    "no-training-plain": ("no-training", (PLAIN_CUT,)),
    "small": ("small", ()),
    # The dense model trained on for as many steps as distilling takes, at its best: the second
    # control of `small`, beside the one without a teacher that its own report holds.
    "dense-longer": ("", ()),
    "albert-small": ("albert-small", ("measure.controls=false", "methods.4.epochs=5")),
    **{f"{name}-defaults": (name, ()) for name in DEFAULTS},
}
TWO: dict[str, Any] = {"distill": {"epochs": 2}}
HALF: dict[str, Any] = {"prune_structured": {"keep_layers": 3, "keep": 1.0}}
EQUAL: dict[str, Any] = {"epochs": 4, "learning_rate": 1e-4, "evaluations_per_epoch": 1}
PARTS: dict[str, Any] = {**EQUAL, "epochs": 2}
"""Of two trainings, one after the other."""
MADE: dict[str, Any] = {"augment": 2, "epochs": 2 / 3, "evaluations_per_epoch": 3}
"""Two texts made of each row: epochs three times as long, and a third as many. As many steps and
evaluations as without them, but for those of the few texts that are left out."""
STUDENTS: dict[str, dict[str, Any]] = {
    "finetune": {"finetune": {**EQUAL, "patience": None}},
    "distill": {"distill": EQUAL},
    "pkd": {"pkd": EQUAL},
    "tinybert": {"tinybert": {**PARTS, "inside_epochs": 2}},
    "tinybert-augment": {"tinybert": {**PARTS, **MADE, "inside_epochs": MADE["epochs"]}},
    "minilm": {"minilm": {**PARTS, "inside_epochs": 2}},
}
THESEUS: dict[str, Any] = {"theseus": {**PARTS, "layers": 3, "replacing_epochs": 2}}
"""It replaces layers of the whole model, so that nothing is cut before it."""
LOGITS: dict[str, Any] = {**EQUAL, "hidden_weight": 0.0}
WHY: dict[str, dict[str, Any]] = {
    "distill": {"distill": LOGITS},
    "smoothed": {"distill": {**LOGITS, "targets": "smoothed"}},
    "shuffled": {"distill": {**LOGITS, "targets": "shuffled"}},
    "permuted": {"distill": {**LOGITS, "targets": "permuted"}},
    "confidence": {
        "distill": {
            **LOGITS,
            "label_weight": 1.0,
            "logit_weight": 0.0,
            "label_weighting": "confidence",
        }
    },
    # The teacher is the student itself, trained for as many steps on the labels before.
    "self": {
        "born_again": {
            **EQUAL,
            "begins": "here",
            "temperature": 2.0,
            "label_weight": 0.1,
            "logit_weight": 0.9,
        }
    },
}
"""Why a teacher helps: students as `student-finetune`, of logits and of what stands for them."""
CLASSES_OF = {"permuted": 3, "smoothed": 2, "shuffled": 2, "confidence": 2}
"""Classes that a task needs for an arm of `WHY`; a number has none."""
TASK_CLASSES = {"stsb": 0, "sst2": 2, "mnli": 3, "mrpc": 2, "cola": 2}
STEPS: dict[str, list[Any]] = {
    # Sharing and factorisation, each with the training that its goal names.
    "thin-table": ["trim_vocabulary", {"factorize_embedding": {"size": 128}}, TWO],
    "groups-3": [{"share_layers": {"groups": 3}}, "distill"],
    "shared-all": ["share_layers", "distill"],
    "lowrank-70": [{"factorize_linear": {"keep": 0.7}}, TWO],
    "lowrank-50": [{"factorize_linear": {"keep": 0.5}}, TWO],
    "lowrank-20": [{"factorize_linear": {"keep": 0.2}}, "distill"],
    "flop-20": [{"flop": {"keep": 0.2, "epochs": 2}}, TWO],
    "lowrank-10": [{"factorize_linear": {"keep": 0.1}}, "distill"],
    "flop-10": [{"flop": {"keep": 0.1, "epochs": 2}}, TWO],
    # Few bits; the control of q8bert is fp32 trained on for the same steps.
    "q8bert": ["q8bert"],
    "q8bert-mse": [{"q8bert": {"ranges": "mse"}}],
    "q8bert-fp32": [{"finetune": {"epochs": 2, "learning_rate": 2e-5, "patience": None}}],
    "q-bert": ["q_bert"],
    "q-bert-one-scale": [{"q_bert": {"group": 0}}],
    "q-bert-mixed": [{"q_bert": {"bits": 2, "high_bits": 4, "high_share": 0.5}}],
    "q-bert-reversed": [
        {"q_bert": {"bits": 2, "high_bits": 4, "high_share": 0.5, "order": "reversed"}}
    ],
    # Students of three of the six layers, each trained for four epochs in all.
    **{f"student-{name}": [HALF, step] for name, step in STUDENTS.items()},
    "student-theseus": [THESEUS],
    **{f"why-{name}": [HALF, step] for name, step in WHY.items()},
}
"""Arms that are no shipped recipe: what follows `finetune`, without controls."""
ALONE = {f"{arm}-alone": arm for arm in ("thin-table", "groups-3", "lowrank-50")}
"""Controls of some of them: the same, its last training without a teacher."""


def recipe_of(arm: str, task: str, seed: int) -> Any:
    """Return the recipe of one cell; it times nothing, since other cells run beside it."""
    import bertcompress as bc

    fields = {"model": MODEL, "task": f"glue/{task}", "seed": seed, **TASKS[task]}
    if arm in ALONE:
        whole = recipe_of(ALONE[arm], task, seed)
        alone = (*whole.methods[:-1], *whole.methods[-1].controls().values())
        return whole.model_copy(update={"methods": alone})
    if arm in STEPS:
        bare = {"latency": False, "controls": False}
        steps = ["finetune", *STEPS[arm]]
        return as_measured(bc.Recipe.parse({**fields, "methods": steps, "measure": bare}))
    name, overrides = ARMS[arm]
    if not name:
        longer = {"epochs": MEASURED["distill"]["epochs"], "patience": None}
        methods = ["finetune", {"finetune": longer}]
        dense = {**fields, "methods": methods, "measure": {"latency": False}}
        return as_measured(bc.Recipe.parse(dense))
    recipe = bc.Recipe.load(name, [*overrides, "measure.latency=false"], **fields)
    return recipe if arm.endswith("-defaults") else as_measured(recipe)


def as_measured(recipe: Any) -> Any:
    """Return the recipe with the training that the grid was measured with, where it names none."""

    def settled(method: Any) -> Any:
        known = MEASURED.get(method.key)
        if known is None:
            return method
        wanted = {"evaluations_per_epoch": 1, **known}
        given = method.model_fields_set
        return method.model_copy(update={k: v for k, v in wanted.items() if k not in given})

    return recipe.model_copy(update={"methods": tuple(map(settled, recipe.methods))})


def serves(arm: str, task: str) -> bool:
    """Return whether an arm has something to say about a task; others are refused by the recipe."""
    return TASK_CLASSES[task] >= CLASSES_OF.get(arm.removeprefix("why-"), 0)


def cell_path(arm: str, task: str, seed: int) -> Path:
    """Return where a cell's result lies."""
    return RESULTS / f"{arm}--{task}--{seed}.json"


def computed(arm: str, task: str, seed: int) -> bool:
    """Return whether a cell is there and was made by the recipe as it is now."""
    found = grid_cells.find(RESULTS, arm, task, seed)
    if found is None:
        return False
    return _within(found["report"]["recipe"], recipe_of(arm, task, seed).model_dump(mode="json"))


def _within(made: Any, now: Any) -> bool:
    """Return whether every setting that there was then and is now is the same.

    Some came later, and some are gone: those of `kprune` while it was an option of another method.
    """
    if isinstance(made, dict) and isinstance(now, dict):
        return all(_within(made[name], now[name]) for name in made.keys() & now.keys())
    if isinstance(made, list) and isinstance(now, list):
        return len(made) == len(now) and all(map(_within, made, now))
    return bool(made == now)


def run_cell(arm: str, task: str, seed: int, data_dir: str) -> None:
    """Compute one cell in this process and write its JSON and its answers."""
    import bertcompress as bc
    from bertcompress.support.quiet import silence

    silence()
    folder = Path(tempfile.mkdtemp(prefix="grid-"))
    recipe = recipe_of(arm, task, seed)
    made = bc.compress(recipe, data_dir=data_dir, say=lambda line: print(line, flush=True))
    # Shipped, though nothing is timed: sizes are of what a user gets.
    run = bc.ship(made, folder / "run", progress=False)
    report = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    answers = {"labels": np.asarray(made.start.data.validation["label"])}
    for stage in sorted((made.folder / "stages").iterdir()):
        if not (stage / "logits.npz").exists():  # a probe answers nothing
            continue
        with np.load(stage / "logits.npz", allow_pickle=False) as stored:
            for name in stored.files:
                if name.endswith("-validation"):
                    answers[f"{stage.name}/{name}"] = stored[name].astype(np.float16)
    chosen_by = {
        f"{each.runtime} {each.precision}": score.value
        for each in made.final.deployments
        for score in made.selection_scores(each)
        if score.headline
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(cell_path(arm, task, seed).with_suffix(".npz"), **answers)
    seconds = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["seconds"]
    cell = {"arm": arm, "task": task, "seed": seed, "commit": commit(), "seconds": seconds}
    cell |= {"selection": chosen_by, "report": report}
    cell_path(arm, task, seed).write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder)


def commit() -> str:
    """Return the commit of the code that computes, and whether it was changed since."""
    git = ["git", "-C", str(Path(__file__).parent.parent)]
    head = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "bertcompress"], check=False)
    return head.stdout.strip() + ("" if same.returncode == 0 else "-dirty")


def run_grid(arms: list[str], tasks: list[str], seeds: list[int], workers: int, data: str) -> None:
    """Compute the cells that are missing, two groups at a time."""
    groups = [(task, seed) for seed in seeds for task in tasks]

    def group(pair: tuple[str, int]) -> None:
        for arm in arms:
            if serves(arm, pair[0]) and not computed(arm, *pair):
                start_cell(__file__, arm, *pair, data)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(group, groups))


def start_cell(script: str, arm: str, task: str, seed: int, *further: str) -> None:
    """Run the cell of a script in a process of one thread.

    A failure is printed and leaves the cell missing. `further` words end the command line.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    command = [sys.executable, script, "cell", arm, task, str(seed), *further]
    print(f"start {arm} {task} {seed}", flush=True)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    tail = "" if done.returncode == 0 else f"\n{done.stdout[-500:]}{done.stderr[-3000:]}"
    print(f"{'done' if not tail else 'FAILED'} {arm} {task} {seed}{tail}", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    grid = commands.add_parser("run")
    grid.add_argument("--arms", nargs="+", default=list(ARMS), choices=[*ARMS, *STEPS, *ALONE])
    grid.add_argument("--tasks", nargs="+", default=list(JUDGED), choices=TASKS)
    grid.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    grid.add_argument("--workers", type=int, default=2)
    grid.add_argument("--data-dir", required=True)
    cell = commands.add_parser("cell")
    for name in ("arm", "task"):
        cell.add_argument(name)
    cell.add_argument("seed", type=int)
    cell.add_argument("data_dir")
    commands.add_parser("table")
    commands.add_parser("compact")
    args = parser.parse_args()
    if args.command == "run":
        run_grid(args.arms, args.tasks, args.seeds, args.workers, args.data_dir)
    elif args.command == "cell":
        run_cell(args.arm, args.task, args.seed, args.data_dir)
    elif args.command == "compact":
        from grid_table import names_read

        print(*grid_cells.compact(RESULTS, names_read), sep="\n")
    if args.command != "cell":
        from grid_table import write_table

        print(write_table(RESULTS))


if __name__ == "__main__":
    main()
