"""Cells of benchmarks on small tasks: a process of one thread each, and a JSON; none is made twice.

A script gives what a cell computes and how its table reads, and has the commands

    run --shared PATH [--tasks ...] [--arms ...] [--seeds ...] [--precision bf16] [--workers 2]
    table
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grid import commit, start_cell

RESULTS = Path(__file__).parent / "results"
Compute = Callable[[str, str, int, Path, str], dict[str, Any]]
"""Arm, task, seed, the folder with glue/ and data/, and precision to what a cell says."""


@dataclass(frozen=True)
class Cells:
    """The cells of one benchmark."""

    script: str
    """Its file."""
    tasks: Sequence[str]
    arms: Collection[str]
    compute: Compute
    table: Callable[[], str]

    @property
    def folder(self) -> Path:
        """Where the cells lie."""
        return RESULTS / Path(self.script).stem

    def path(self, arm: str, task: str, seed: int) -> Path:
        """Return where a cell's result lies."""
        return self.folder / f"{arm}--{task}--{seed}.json"

    def read(self) -> list[dict[str, Any]]:
        """Return all cells that there are."""
        return [json.loads(path.read_text("utf-8")) for path in sorted(self.folder.glob("*.json"))]

    def run(self, arm: str, task: str, seed: int, shared: Path, precision: str) -> None:
        """Compute one cell in this process and write its JSON."""
        from bertcompress.support.quiet import silence

        silence()
        where = {"arm": arm, "task": task, "seed": seed, "commit": commit()}
        cell = {**where, "precision": precision, **self.compute(arm, task, seed, shared, precision)}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path(arm, task, seed).write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")

    def start_group(self, task: str, seed: int, args: argparse.Namespace) -> None:
        """Run the missing arms of a task and seed one after the other, each a process.

        They share stages through the store.
        """
        for arm in args.arms:
            if not self.path(arm, task, seed).exists():
                further = (str(args.shared), "--precision", args.precision)
                start_cell(self.script, arm, task, seed, *further)

    def main(self, about: str | None) -> None:
        """Parse the command line."""
        parser = argparse.ArgumentParser(description=about)
        commands = parser.add_subparsers(dest="command", required=True)
        grid, cell = commands.add_parser("run"), commands.add_parser("cell")
        grid.add_argument("--shared", type=Path, required=True, help="folder with glue/ and data/")
        grid.add_argument("--tasks", nargs="+", default=list(self.tasks))
        grid.add_argument("--arms", nargs="+", default=list(self.arms), choices=self.arms)
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
            self.run(args.arm, args.task, args.seed, args.shared, args.precision)
            return
        if args.command == "run":
            groups = [(task, seed) for seed in args.seeds for task in args.tasks]
            with ThreadPoolExecutor(args.workers) as pool:
                list(pool.map(lambda group: self.start_group(*group, args), groups))
        print(self.table())


def headline(deployment: dict[str, Any]) -> float:
    """Return the score of a deployment of a report on the rows that nothing has seen."""
    return float(next(row["value"] for row in deployment["scores"] if row["headline"]))


def described(values: Sequence[float]) -> str:
    """Return a mean with the standard error over the cells."""
    error = statistics.stdev(values) / len(values) ** 0.5 if values[1:] else float("nan")
    return f"{statistics.mean(values):.2f} ± {error:.2f}"
