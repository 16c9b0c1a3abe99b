"""int8 with and without training, by how ranges are chosen: one JSON per cell, a table at the end.

    python benchmarks/rounding.py run --shared PATH [--tasks stsb] [--seeds 0] [--precision bf16]
    python benchmarks/rounding.py table

Tasks, rows and the fine-tuned model are those of `defaults.py`, by its arm `default` (from the
stage store where that was computed). Each arm takes that model on: `int8` without any training,
`q8bert` with either kind of range, its control `fp32` trained as long on the labels, and `taught`:
`q8bert` with the fp32 model as its teacher. Scores are on 1,000 to 3,000 rows that no training and
no choice has seen, of every file; a cell is a process of one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from defaults import MODEL, methods_of
from grid import commit, start_cell
from small_tasks import task_of

RESULTS = Path(__file__).parent / "results" / "rounding"
TASKS = ("stsb", "sst2", "mrpc")
TRAINED = {"epochs": 2.0, "learning_rate": 2e-5, "patience": None}
ARMS: dict[str, dict[str, Any]] = {
    "mse": {"q8bert": {**TRAINED, "ranges": "mse"}},
    "max": {"q8bert": {**TRAINED, "ranges": "max"}},
    "fp32": {"finetune": TRAINED},
    "int8": {"quantize_int8": {"max_drop": None}},
    "taught": {"q8bert": {**TRAINED, "ranges": "mse", "logit_weight": 1.0}},
}


def run_cell(arm: str, task: str, seed: int, shared: Path, precision: str) -> None:
    """Compute one cell in this process and write its JSON."""
    import bertcompress as bc
    from bertcompress.support.quiet import silence

    silence()
    ((key, knobs),) = ARMS[arm].items()
    if key != "quantize_int8":
        knobs = {**knobs, "precision": precision}
    folder = Path(tempfile.mkdtemp(prefix="rounding-")) / "run"
    recipe = bc.Recipe(
        model=MODEL,
        task=task_of(task, shared),
        methods=[*methods_of("default", precision), {key: knobs}],
        seed=seed,
        measure={"latency": False, "controls": False},
    )
    report = json.loads((bc.run(recipe, folder).folder / "report.json").read_text("utf-8"))
    before, after = report["stages"][-2:]
    cell = {
        "arm": arm,
        "task": task,
        "seed": seed,
        "commit": commit(),
        "processor": report["environment"].get("processor"),
        "precision": precision,
        "before": headline(before["deployments"][0]),
        "after": {
            f"{each['runtime']} {each['precision']}": headline(each)
            for each in after["deployments"]
        },
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    cell_path(arm, task, seed).write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder.parent)


def headline(deployment: dict[str, Any]) -> float:
    """Return the score of a deployment on the rows that nothing has seen."""
    return float(next(row["value"] for row in deployment["scores"] if row["headline"]))


def cell_path(arm: str, task: str, seed: int) -> Path:
    """Return where a cell's result lies."""
    return RESULTS / f"{arm}--{task}--{seed}.json"


def start_group(task: str, seed: int, args: argparse.Namespace) -> None:
    """Run the missing arms of a task and seed one after the other, each a process."""
    for arm in args.arms:
        if not cell_path(arm, task, seed).exists():
            start_cell(__file__, arm, task, seed, str(args.shared), "--precision", args.precision)


def table() -> str:
    """Return what each file keeps of the score of its fine-tuned model, in percent."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    lines = ["| arm | file | kept, mean of cells | worst cell | cells |", "|---|---|---|---|---|"]
    for arm in ARMS:
        mine = [cell for cell in found if cell["arm"] == arm]
        for file in sorted({file for cell in mine for file in cell["after"]}):
            kept = [100 * c["after"][file] / c["before"] for c in mine if file in c["after"]]
            lines.append(f"| {arm} | {file} | {described(kept)} | {min(kept):.1f} | {len(kept)} |")
    return "\n".join(lines)


def described(kept: Sequence[float]) -> str:
    """Return a mean with the standard error over the cells."""
    error = statistics.stdev(kept) / len(kept) ** 0.5 if kept[1:] else float("nan")
    return f"{statistics.mean(kept):.2f} ± {error:.2f}"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    grid, cell = commands.add_parser("run"), commands.add_parser("cell")
    grid.add_argument("--shared", type=Path, required=True, help="folder with glue/ and data/")
    grid.add_argument("--tasks", nargs="+", default=list(TASKS))
    grid.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    grid.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    grid.add_argument("--workers", type=int, default=2)
    for name in ("arm", "task"):
        cell.add_argument(name)
    cell.add_argument("seed", type=int)
    cell.add_argument("shared", type=Path)
    for each in (grid, cell):
        each.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "cell":
        run_cell(args.arm, args.task, args.seed, args.shared, args.precision)
        return
    if args.command == "run":
        groups = [(task, seed) for seed in args.seeds for task in args.tasks]
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(lambda group: start_group(*group, args), groups))
    print(table())


if __name__ == "__main__":
    main()
