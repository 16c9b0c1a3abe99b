"""What `no-training` costs beside one epoch of fine-tuning on MNLI; the goal is less than one.

    python benchmarks/no_training.py --data-dir PATH_TO_GLUE

Fine-tunes for one epoch, then cuts, repairs and quantises what came out, nothing from the store.
Writes benchmarks/results/no-training-HOST.json. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from results_of import write


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--limit", type=int, help="training rows, for a trial")
    args = parser.parse_args()

    import bertcompress as bc
    from bertcompress.runtimes.hardware import environment
    from bertcompress.support.quiet import silence

    silence()
    fields = {"task": "glue/mnli", "limit": args.limit, "measure": {"latency": False}}
    first = {**fields, "model": "embedded:minilm-l6", "methods": [{"finetune": {"epochs": 1}}]}
    with tempfile.TemporaryDirectory() as scratch:
        options: dict[str, Any] = {"data_dir": args.data_dir, "fresh": True, "say": print}
        tuned = bc.run(bc.Recipe.parse(first), Path(scratch) / "tuned", **options)
        recipe = bc.Recipe.load("no-training", **{**fields, "model": str(tuned.model)})
        cut = bc.run(recipe, Path(scratch) / "cut", **options)
        parts = json.loads((cut.folder / "environment.json").read_text("utf-8"))["seconds"]
        epoch = tuned.report.last.cost
        stages = {stage.name: stage.cost.seconds for stage in cut.report.stages}
    # The run also makes the int8 files of the full model, to compare with.
    compressing = sum(stages.values())
    result: dict[str, Any] = {
        "rows": epoch.samples,
        "epoch_s": epoch.seconds,
        "stages_s": stages,
        "parts_s": parts,
        "cutting, repairing and int8 / epoch": compressing / epoch.seconds,
        "everything, scoring the validation rows too / epoch": parts["total"] / epoch.seconds,
        "environment": environment(),
    }
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))
    if args.limit is None:
        print(write("no-training", result))


if __name__ == "__main__":
    main()
