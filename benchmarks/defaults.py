"""Default training settings against a grid of fixed ones: one JSON per cell, a table at the end.

    python benchmarks/defaults.py run --shared PATH [--tasks mrpc] [--arms default] [...]
    python benchmarks/defaults.py best --shared PATH [--workers 2]
    python benchmarks/defaults.py table

Each task is cut to at most 3,000 rows of its training set, of which a tenth is the selection split
that picks the best step. Cells are compared on 1,000 to 3,000 *other rows of the training set*:
the best of twelve scores on 300 rows would be the luckiest, and the validation set stays unread. A
cell is a process of one thread; its cost is counted in rows, since other cells run beside it: rows
trained on, and a third of the rows of the selection split at each evaluation. Cells that are there
are not computed again. The grid was computed in fp32; on a processor that is faster in bf16 the
default may be, which can only be held against it: the table says so.

Of twelve cells of one seed the best is partly the luckiest: `best` gives the best cell of each task
the seeds of the default, and the table compares means of equal seeds.

The arms `distill-*` train a student of 0.28 of the heads and neurons on one teacher of each task,
on three tasks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from grid import commit, start_cell
from small_tasks import task_of

RESULTS = Path(__file__).parent / "results" / "defaults"
MODEL = "embedded:minilm-l6"
TASKS = ("goemotions", "mrpc", "stsb", "mnli", "qqp", "sst2")
CONFIRMING = ("sick", "squad-pairs")
"""Looked at once, after the defaults were chosen."""
RATES = ("5e-5", "1e-4", "2e-4", "3e-4")
EPOCHS = (8, 4, 16)
SEEDS = {"default": (0, 1, 2), "distill-default": (0, 1, 2)}
DISTILLED = ("goemotions", "stsb", "mrpc")
DISTILL_RATES, DISTILL_EPOCHS = ("1e-4", "2e-4", "4e-4"), (8, 16)
TEACHER = {"learning_rate": 2e-4, "epochs": 8.0, "patience": None}
"""Of the students: the same for all of a task."""


def methods_of(arm: str, precision: str = "fp32") -> list[Any]:
    """Return the methods of an arm; the last one is what the arm is about.

    `default` or RATE-EPOCHS of `finetune`, or held_RATE_COOLDOWN_HEAD: the default at another rate
    and with another end and rate of the head (1 where the arm does not say); the same of `distill`
    with `distill-` before it.
    """
    import bertcompress as bc

    name = arm.removeprefix("distill-")
    held = name.startswith("held_")
    # What `auto` measures here would be the other cell on this machine.
    settings: dict[str, Any] = {"precision": precision}
    if held:
        _, rate, cooldown, *head = name.split("_")
        settings |= {"learning_rate": float(rate), "cooldown": float(cooldown)}
        if head:
            settings["head_rate"] = float(head[0])
    elif name != "default":
        rate, _, epochs = name.rpartition("-")
        settings |= {"learning_rate": float(rate), "epochs": float(epochs), "patience": None}
    if arm == name:
        return [bc.Finetune(**settings)]
    teacher = bc.Finetune(precision=precision, **TEACHER)
    return [teacher, bc.PruneStructured(keep=0.28), bc.Distill(**settings)]


def cell_path(arm: str, task: str, seed: int) -> Path:
    """Return where a cell's result lies."""
    return RESULTS / f"{arm}--{task}--{seed}.json"


def run_cell(arm: str, task: str, seed: int, shared: Path, precision: str) -> None:
    """Compute one cell in this process and write its JSON."""
    import time

    import bertcompress as bc
    from bertcompress.support.quiet import silence

    silence()
    folder = Path(tempfile.mkdtemp(prefix="defaults-")) / "run"
    recipe = bc.Recipe(
        model=MODEL,
        task=task_of(task, shared),
        methods=methods_of(arm, precision),
        seed=seed,
        measure={"latency": False, "controls": False},
    )
    data = bc.load_data(recipe.resolved_task(), seed=seed)
    selection_rows = len(data.selection)
    began = time.process_time()
    run = bc.run(recipe, folder)  # students share their teacher through the stage store
    report = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    stage = report["stages"][-1]
    scores = stage["deployments"][0]["scores"]
    facts = stage["facts"]
    cell = {
        "arm": arm,
        "task": task,
        "seed": seed,
        "commit": commit(),
        "cpu_seconds": round(time.process_time() - began, 1),
        "selection_rows": selection_rows,
        "metric": next(row["metric"] for row in scores if row["headline"]),
        "held_out": next(row["value"] for row in scores if row["headline"]),
        "facts": facts,
        "processor": report["environment"].get("processor"),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    cell_path(arm, task, seed).write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder.parent)


def cells(tasks: Sequence[str], arms: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return the cells in the order in which they say most."""
    ordered = [(arm, task, seed) for arm in arms for task in tasks for seed in seeds_of(arm)]
    return [cell for cell in ordered if not cell_path(*cell).exists()]


def seeds_of(arm: str) -> tuple[int, ...]:
    """Return the seeds of an arm: three of the defaults and of what might become the default."""
    return SEEDS.get(arm, (0, 1, 2) if "held_" in arm else (0,))


def best_cells() -> list[tuple[str, str, int]]:
    """Return the cells that the best arms of each task lack, of the seeds of the default."""
    found, wanted = read_cells(), []
    for kind in ("", "distill-"):
        for task in (*TASKS, *CONFIRMING):
            fixed = fixed_cells(found, kind, task)
            if fixed:
                arm = best_arm(fixed)
                wanted += [(arm, task, seed) for seed in SEEDS[f"{kind}default"]]
    return [cell for cell in wanted if not cell_path(*cell).exists()]


def all_arms() -> list[str]:
    """Return every arm, the middle of the grid first."""
    students = [f"{rate}-{epochs}" for epochs in DISTILL_EPOCHS for rate in DISTILL_RATES]
    return [
        "default",
        *(f"{rate}-{epochs}" for epochs in EPOCHS for rate in RATES),
        *(f"distill-{name}" for name in ("default", *students)),
    ]


def cost_of(cell: Mapping[str, Any]) -> float:
    """Return what a cell's last training cost, in rows trained on."""
    facts = cell["facts"]
    evaluated = len(facts["history"]) * cell["selection_rows"]
    return float(facts["samples"] + evaluated / 3)


def read_cells() -> list[dict[str, Any]]:
    """Return all cells that there are."""
    paths = sorted(RESULTS.glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def fixed_cells(
    found: Sequence[Mapping[str, Any]], kind: str, task: str
) -> list[Mapping[str, Any]]:
    """Return a task's cells of fixed settings."""
    mine = [cell for cell in found if cell["task"] == task and kind_of(cell) == kind]
    return [cell for cell in mine if "default" not in cell["arm"] and "held_" not in cell["arm"]]


def best_arm(fixed: Sequence[Mapping[str, Any]]) -> str:
    """Return the arm whose first seed scores best."""
    first = [cell for cell in fixed if cell["seed"] == 0]
    return str(max(first, key=lambda cell: cell["held_out"])["arm"])


def write_table() -> str:
    """Return the default beside the best cell of each task, and write it to `table.md`."""
    found = read_cells()
    lines = [
        "| training | task | best of the grid | its score, mean of seeds | default, mean of seeds "
        "| difference, points | cost | cells |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("", "distill-"):
        for task in (*TASKS, *CONFIRMING):
            fixed = fixed_cells(found, kind, task)
            mine = [cell for cell in found if cell["task"] == task]
            default = [cell for cell in mine if cell["arm"] == f"{kind}default"]
            if fixed and default:
                lines.append(row_of(kind, task, fixed, default))
    candidates = sorted({cell["arm"] for cell in found if "held_" in cell["arm"]})
    if candidates:
        names = ("candidate", "task", "its score, mean of seeds", "above the best", "cost")
        lines += ["", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        lines += [row for arm in candidates for row in candidate_rows(found, arm)]
    text = "\n".join(lines) + "\n"
    (RESULTS / "table.md").write_text(text, encoding="utf-8")
    return text


def kind_of(cell: Mapping[str, Any]) -> str:
    """Return `distill-` for a student, an empty string for a fine-tuning."""
    return "distill-" if cell["arm"].startswith("distill-") else ""


def row_of(
    kind: str, task: str, fixed: Sequence[Mapping[str, Any]], default: Sequence[Mapping[str, Any]]
) -> str:
    """Return a line of the table."""
    arm = best_arm(fixed)
    best = [cell for cell in fixed if cell["arm"] == arm]
    mean, theirs = mean_score(default), mean_score(best)
    cost = statistics.mean(map(cost_of, default)) / statistics.mean(map(cost_of, best))
    rate, _, epochs = arm.removeprefix("distill-").rpartition("-")
    arms = len({cell["arm"] for cell in fixed})
    return (
        f"| {'distill' if kind else 'finetune'} | {task} ({best[0]['metric']}) "
        f"| {rate}, {epochs} epochs | {described(best)} | {described(default)} "
        f"| {mean - theirs:+.1f} | {cost:.2f}x | {arms} |"
    )


def candidate_rows(found: Sequence[Mapping[str, Any]], arm: str) -> list[str]:
    """Return a line for each task of what was or might become the default."""
    rows = []
    for task in (*TASKS, *CONFIRMING):
        mine = [cell for cell in found if (cell["arm"], cell["task"]) == (arm, task)]
        fixed = fixed_cells(found, kind_of({"arm": arm}), task)
        if mine and fixed:
            name = best_arm(fixed)
            best = [cell for cell in fixed if cell["arm"] == name]
            cost = statistics.mean(map(cost_of, mine)) / statistics.mean(map(cost_of, best))
            above = mean_score(mine) - mean_score(best)
            rows.append(f"| {arm} | {task} | {described(mine)} | {above:+.1f} | {cost:.2f}x |")
    return rows


def mean_score(cells: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean score of some seeds, in points."""
    return 100 * statistics.mean(cell["held_out"] for cell in cells)


def described(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean score of some seeds with its spread."""
    scores = [100 * cell["held_out"] for cell in cells]
    spread = f"sd {statistics.stdev(scores):.1f}, {len(scores)}" if scores[1:] else "one seed"
    halves = sum(cell["facts"]["precision"] == "bf16" for cell in cells)
    return f"{mean_score(cells):.1f} ({spread}{f', {halves} in bf16' if halves else ''})"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    grid = commands.add_parser("run")
    grid.add_argument("--shared", type=Path, required=True, help="folder with glue/ and data/")
    grid.add_argument("--tasks", nargs="+", default=list(TASKS), choices=[*TASKS, *CONFIRMING])
    grid.add_argument("--arms", nargs="+", default=all_arms(), choices=all_arms())
    grid.add_argument("--workers", type=int, default=2)
    best = commands.add_parser("best")
    best.add_argument("--shared", type=Path, required=True)
    best.add_argument("--workers", type=int, default=2)
    cell = commands.add_parser("cell")
    for name in ("arm", "task"):
        cell.add_argument(name)
    cell.add_argument("seed", type=int)
    cell.add_argument("shared", type=Path)
    for each in (grid, best, cell):
        each.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "table":
        print(write_table())
        return
    if args.command == "cell":
        run_cell(args.arm, args.task, args.seed, args.shared, args.precision)
        return
    with ThreadPoolExecutor(args.workers) as pool:
        chosen = best_cells() if args.command == "best" else cells(args.tasks, args.arms)
        further = (str(args.shared), "--precision", args.precision)
        list(pool.map(lambda each: start_cell(__file__, *each, *further), chosen))


if __name__ == "__main__":
    main()
