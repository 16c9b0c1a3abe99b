"""Speed of what `small` ships, against everything a user can have today without cutting.

    python benchmarks/speed.py --data-dir PATH_TO_GLUE [--recipe small] [--seconds 20]

Latency depends on the shape, not on the weights, so the recipe is run on a few rows. Then all
candidates are timed in turn, each in its own process, at fixed lengths and on the tasks' own
texts (dynamic padding on all sides, batch 1 and 8). Writes benchmarks/results/speed-HOST.json.
Run it with nothing else running, and without OMP_* or GOMP_* in the environment.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from results_of import write

TASKS = ("glue/mnli", "glue/stsb", "glue/sst2")
SHAPES = ((1, 128), (8, 128), (1, 32), (8, 32))


def make(recipe: str, data_dir: str, folder: Path) -> Any:
    """Run the recipe on a few rows, only for the shapes of what it leaves."""
    import bertcompress as bc

    overrides = ["measure.latency=false", "measure.controls=false", "limit=128"]
    for i, method in enumerate(bc.Recipe.load(recipe).methods):
        if method.leaves == "weights":
            overrides.append(f"methods.{i}.max_steps=2")
    chosen = bc.Recipe.load(recipe, overrides, model="embedded:minilm-l6", task="glue/mnli")
    return bc.run(chosen, folder, data_dir=data_dir)


def candidates(run: Path) -> dict[str, Any]:
    """Return what is timed, by name: the dense model on each runtime, then what is shipped."""
    from bertcompress.measure.timing.candidates import Candidate

    dense, base = run / "stages" / "01-finetune" / "model", run / "baseline"
    quantized = Path("onnx") / "model_quantized.onnx"
    static = Path("openvino") / "model_int8.onnx"
    plain = base / "onnx" / "model.onnx"
    return {
        "dense torch fp32": Candidate(dense, "torch", "fp32", baseline="torch"),
        "dense torch int8 (torch.ao dynamic)": Candidate(dense, "torch", "int8"),
        "dense ONNX Runtime fp32": Candidate(plain, "onnxruntime", "fp32"),
        "dense ONNX Runtime int8": Candidate(base / quantized, "onnxruntime", "int8", "dense_int8"),
        "dense OpenVINO int8": Candidate(base / static, "openvino", "int8", "dense_int8"),
        "shipped torch fp32": Candidate(run / "model", "torch", "fp32"),
        "shipped ONNX Runtime int8": Candidate(run / quantized, "onnxruntime", "int8"),
        "shipped OpenVINO int8": Candidate(run / static, "openvino", "int8"),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()

    import bertcompress as bc
    from bertcompress.deployment import Deployment
    from bertcompress.measure.footprint import size_of
    from bertcompress.measure.scores import task_batches
    from bertcompress.measure.timing.candidates import Timing, machine_load
    from bertcompress.measure.timing.interleaved import time_candidates
    from bertcompress.runtimes.hardware import environment
    from bertcompress.support.quiet import silence

    silence()
    with tempfile.TemporaryDirectory() as scratch:
        run = make(args.recipe, args.data_dir, Path(scratch) / "run").folder
        timed = candidates(run)
        rows: list[dict[str, Any]] = []
        every: list[Timing] = []
        tokenizer = bc.load(run / "model").tokenizer
        sets: dict[str, Any] = {"fixed lengths": None}
        for name in TASKS:
            data = bc.load_data(bc.Task.load(name), data_dir=args.data_dir, limit=2000)
            sets[name] = task_batches(data, "validation", tokenizer)
        for name, batches in sets.items():
            shapes = SHAPES if batches is None else ()
            count = len(shapes) or 2
            timings = time_candidates(
                list(timed.values()), shapes, task_batches=batches, seconds=args.seconds * count
            )
            every += timings
            for who, timing in zip(timed, timings, strict=True):
                rows += [
                    {"candidate": who, "texts": name, **row.model_dump()} for row in timing.latency
                ]
        sizes = {
            who: size_of(Deployment(c.runtime, c.precision, Path(c.path))).model_dump()  # type: ignore[arg-type]
            for who, c in timed.items()
        }
        host = environment() | machine_load(every)
    result = {"environment": host, "recipe": args.recipe, "sizes": sizes, "rows": rows}
    show(result)
    print(write(f"speed-{args.recipe}", result))


def show(result: dict[str, Any]) -> None:
    """Print the ratios that goals are stated in."""
    from rich.console import Console
    from rich.table import Table

    from bertcompress.measure.timing.candidates import Latency

    table = Table(
        "candidate",
        "texts",
        "batch",
        "tokens",
        "p50 ms",
        "first pass",
        "spread",
        "x torch",
        "x int8",
    )
    for row in result["rows"]:
        time = Latency(**{name: row[name] for name in Latency.model_fields})
        torch, dense = time.over_torch, time.over_dense_int8
        table.add_row(
            row["candidate"],
            row["texts"],
            str(row["batch"]),
            str(row["length"]),
            f"{row['p50_ms']:.2f}",
            "-" if time.first_pass_ms is None else f"{time.first_pass_ms:.2f}",
            f"{row['spread']:.0%}",
            "-" if torch is None else torch.words,
            "-" if dense is None else dense.words,
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
