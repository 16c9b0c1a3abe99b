"""What texts without labels add to 1,000 labelled rows: one JSON per cell, a table at the end.

    python benchmarks/transfer.py run --shared PATH [--tasks stsb] [--seeds 0] [--precision bf16]
    python benchmarks/transfer.py table

MiniLM-L6 is fine-tuned on 1,000 rows of a task, a tenth of which choose the best step; a student of
0.28 of its heads and neurons then learns from the labels alone (`labels`), from the teacher on the
same rows (`alone`), on these and 3,000 further texts of the same source without their labels
(`transfer`), and on the same rows for as many steps as `transfer` took (`longer`). Scores are on
other rows of the training set, which no training and no choice has seen.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from defaults import MODEL
from small_cells import Cells, described, headline
from small_tasks import HELD_OUT, LEAST_HELD_OUT, shuffled, task_of

LABELLED, FURTHER = 1_000, 3_000
ARMS = ("alone", "transfer", "longer", "labels")


def compute(arm: str, task: str, seed: int, shared: Path, precision: str) -> dict[str, Any]:
    """Return the scores of the teacher and of the student."""
    import bertcompress as bc

    given, further = rows_of(task, shared)
    with tempfile.TemporaryDirectory(prefix="transfer-") as scratch:
        texts = Path(scratch) / "further.jsonl"
        names = given.text
        texts.write_text(
            "".join(json.dumps({name: row[name] for name in names}) + "\n" for row in further),
            encoding="utf-8",
        )
        knobs: dict[str, Any] = {"precision": precision}
        if arm == "transfer":
            knobs["transfer"] = {"source": str(texts), "text": [*names]}
        if arm == "longer":
            cell = json.loads(CELLS.path("transfer", task, seed).read_text("utf-8"))
            knobs |= {"max_steps": cell["steps"], "patience": None}
        student = {"finetune": knobs} if arm == "labels" else {"distill": knobs}
        recipe = bc.Recipe(
            model=MODEL,
            task=given,
            methods=[{"finetune": {"precision": precision}}, {"prune_structured": {"keep": 0.28}},
                     student],
            seed=seed,
            measure={"latency": False, "controls": False},
        )  # fmt: skip
        folder = bc.run(recipe, Path(scratch) / "run").folder
        report = json.loads((folder / "report.json").read_text("utf-8"))
    teacher, _, last = report["stages"][-3:]
    return {
        "processor": report["environment"].get("processor"),
        "teacher": headline(teacher["deployments"][0]),
        "student": headline(last["deployments"][0]),
        "steps": last["facts"]["steps"],
        "notes": last["notes"],
    }


def rows_of(task: str, shared: Path) -> tuple[Any, Any]:
    """Return the task with its labelled rows, and further rows of the same source."""
    rows = shuffled(task, shared)
    judged = max(LEAST_HELD_OUT, min(HELD_OUT, len(rows) - LABELLED - FURTHER))
    begin = LABELLED + judged
    further = rows.select(range(begin, min(len(rows), begin + FURTHER)))
    return task_of(task, shared, LABELLED, judged), further


def table() -> str:
    """Return the students' scores in points, and each arm beside `alone` on the same seeds."""
    lines = ["| task | arm | score | above `alone` | cells |", "|---|---|---|---|---|"]
    cells = {(c["task"], c["arm"], c["seed"]): c for c in CELLS.read()}
    for task in CELLS.tasks:
        for arm in ARMS:
            mine = [c for key, c in cells.items() if key[:2] == (task, arm)]
            pairs = [(c, cells.get((task, "alone", c["seed"]))) for c in mine]
            apart = [100 * (c["student"] - a["student"]) for c, a in pairs if a]
            if mine:
                scores = described([100 * c["student"] for c in mine])
                beside = described(apart) if apart and arm != "alone" else "-"
                lines.append(f"| {task} | {arm} | {scores} | {beside} | {len(mine)} |")
    return "\n".join(lines)


CELLS = Cells(__file__, ("stsb", "sst2"), ARMS, compute, table)

if __name__ == "__main__":
    CELLS.main(__doc__)
