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

import json
import tempfile
from pathlib import Path
from typing import Any

from defaults import MODEL, methods_of
from small_cells import Cells, described, headline
from small_tasks import task_of

TRAINED = {"epochs": 2.0, "learning_rate": 2e-5, "patience": None}
ARMS: dict[str, dict[str, Any]] = {
    "mse": {"q8bert": {**TRAINED, "ranges": "mse"}},
    "max": {"q8bert": {**TRAINED, "ranges": "max"}},
    "fp32": {"finetune": TRAINED},
    "int8": {"quantize_int8": {"max_drop": None}},
    "taught": {"q8bert": {**TRAINED, "ranges": "mse", "logit_weight": 1.0}},
}


def compute(arm: str, task: str, seed: int, shared: Path, precision: str) -> dict[str, Any]:
    """Return the scores before an arm and after it, of every file."""
    import bertcompress as bc

    ((key, knobs),) = ARMS[arm].items()
    if key != "quantize_int8":
        knobs = {**knobs, "precision": precision}
    recipe = bc.Recipe(
        model=MODEL,
        task=task_of(task, shared),
        methods=[*methods_of("default", precision), {key: knobs}],
        seed=seed,
        measure={"latency": False, "controls": False},
    )
    with tempfile.TemporaryDirectory(prefix="rounding-") as scratch:
        folder = bc.run(recipe, Path(scratch) / "run").folder
        report = json.loads((folder / "report.json").read_text("utf-8"))
    before, after = report["stages"][-2:]
    return {
        "processor": report["environment"].get("processor"),
        "before": headline(before["deployments"][0]),
        "after": {
            f"{each['runtime']} {each['precision']}": headline(each)
            for each in after["deployments"]
        },
    }


def table() -> str:
    """Return what each file keeps of the score of its fine-tuned model, in percent."""
    lines = ["| arm | file | kept, mean of cells | worst cell | cells |", "|---|---|---|---|---|"]
    for arm in ARMS:
        mine = [cell for cell in CELLS.read() if cell["arm"] == arm]
        for file in sorted({file for cell in mine for file in cell["after"]}):
            kept = [100 * c["after"][file] / c["before"] for c in mine if file in c["after"]]
            lines.append(f"| {arm} | {file} | {described(kept)} | {min(kept):.1f} | {len(kept)} |")
    return "\n".join(lines)


CELLS = Cells(__file__, ("stsb", "sst2", "mrpc"), ARMS, compute, table)

if __name__ == "__main__":
    CELLS.main(__doc__)
