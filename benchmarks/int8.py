"""int8 beside everything else that a user can run on this processor, and times the other methods.

    python benchmarks/int8.py --data-dir PATH_TO_GLUE [--seconds 20]

Latency depends on the shape, not on the weights, so models are trained for two steps. All are timed
in turn, each in its own process, batch 1 and 8, at 128 tokens and on the texts of three tasks.
Writes benchmarks/results/int8-HOST.json. Run it with nothing else running, and without OMP_* or
GOMP_* in the environment. `torchao` is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from results_of import write

TASKS = ("glue/mnli", "glue/stsb", "glue/sst2")
MODEL = "embedded:minilm-l6"
TWO_STEPS = {"max_steps": 2}
INT8 = {"quantize_int8": {"max_drop": None}}
SHAPES: dict[str, list[Any]] = {
    "half of heads and neurons": [{"prune_structured": {"keep": 0.5}}],
    "three shared groups": [{"share_layers": {"groups": 3}}],
    "half of the parameters, thin": [{"factorize_linear": {"keep": 0.5}}],
    "half, three groups": [{"prune_structured": {"keep": 0.5}}, {"share_layers": {"groups": 3}}],
}
"""What int8 is put on top of: its gain should multiply with theirs."""
STATIC, DYNAMIC = Path("openvino") / "model_int8.onnx", Path("onnx") / "model_quantized.onnx"


def make(methods: list[Any], folder: Path, data_dir: str) -> Path:
    """Run methods on a few rows, only for the files that they leave."""
    import bertcompress as bc

    recipe = bc.Recipe.parse(
        {
            "model": MODEL,
            "task": "glue/mnli",
            "limit": 128,
            "methods": [{"finetune": TWO_STEPS}, *methods],
            "measure": {"latency": False, "controls": False},
        }
    )
    return bc.run(recipe, folder, data_dir=data_dir).folder


def per_tensor(source: Path, out: Path) -> Path:
    """Write dynamic int8 as optimum's defaults do: one scale for each matrix."""
    from bertcompress.runtimes import onnxruntime

    return onnxruntime.quantize(source, per_channel=False, out=out).path


def candidates(place: Path, data_dir: str) -> dict[str, tuple[Any, Path | None]]:
    """Return what is timed, by name, with the file whose bytes count; None: made on loading."""
    from bertcompress.measure.timing.candidates import Candidate

    dense = make([INT8], place / "dense", data_dir)
    trained = make([{"q8bert": TWO_STEPS}], place / "q8bert", data_dir)
    plain, torch = dense / "onnx" / "model.onnx", dense / "model"
    default = per_tensor(dense / "onnx", place / "default")
    shutil.copy2(dense / "onnx" / "config.json", default.parent)
    found: dict[str, tuple[Any, Path | None]] = {
        "torch fp32": (Candidate(torch, "torch", "fp32", baseline="torch"), torch),
        "torch bf16": (Candidate(torch, "torch", "bf16"), None),
        "torch.ao dynamic int8": (Candidate(torch, "torch", "int8"), None),
        "ONNX Runtime fp32": (Candidate(plain, "onnxruntime", "fp32"), plain),
        "ONNX Runtime int8, optimum's defaults": (Candidate(default, "onnxruntime"), default),
        "ONNX Runtime int8": (Candidate(dense / DYNAMIC, "onnxruntime"), dense / DYNAMIC),
        "OpenVINO fp32": (Candidate(plain, "openvino", "fp32"), plain),
        "OpenVINO, its own precision": (Candidate(plain, "openvino", "auto"), plain),
        "OpenVINO int8": (
            Candidate(dense / STATIC, "openvino", baseline="dense_int8"),
            dense / STATIC,
        ),
        "q8bert, ONNX Runtime": (Candidate(trained / DYNAMIC, "onnxruntime"), trained / DYNAMIC),
        "q8bert, OpenVINO": (Candidate(trained / STATIC, "openvino"), trained / STATIC),
    }
    if importlib.util.find_spec("torchao"):
        found["torchao int8, compiled"] = Candidate(torch, "torch", "torchao"), None
    for name, methods in SHAPES.items():
        run = make([*methods, INT8], place / re.sub(r"\W+", "-", name), data_dir)
        found[f"{name}: OpenVINO fp32"] = (
            Candidate(run / "onnx" / "model.onnx", "openvino", "fp32"),
            run / "onnx" / "model.onnx",
        )
        found[f"{name}: OpenVINO int8"] = Candidate(run / STATIC, "openvino"), run / STATIC
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()

    import bertcompress as bc
    from bertcompress.measure.footprint import disk_bytes
    from bertcompress.measure.scores import task_batches
    from bertcompress.measure.timing.candidates import Timing, machine_load
    from bertcompress.measure.timing.interleaved import time_candidates
    from bertcompress.runtimes.hardware import environment
    from bertcompress.support.quiet import silence

    silence()
    rows: list[dict[str, Any]] = []
    every: list[Timing] = []
    with tempfile.TemporaryDirectory() as scratch:
        timed = candidates(Path(scratch), args.data_dir)
        sizes = {name: disk_bytes(path) / 1e6 for name, (_, path) in timed.items() if path}
        tokenizer = bc.load(MODEL).tokenizer
        sets: dict[str, Any] = {"128 tokens": None}
        for name in TASKS:
            data = bc.load_data(bc.Task.load(name), data_dir=args.data_dir, limit=2000)
            sets[name] = task_batches(data, "validation", tokenizer)
        for texts, batches in sets.items():
            timings = time_candidates(
                [candidate for candidate, _ in timed.values()],
                ((1, 128), (8, 128)) if batches is None else (),
                task_batches=batches,
                seconds=args.seconds * len(timed),
            )
            every += timings
            for name, timing in zip(timed, timings, strict=True):
                for row in timing.latency:
                    over = row.over_torch.words if row.over_torch else "-"
                    print(f"{texts:11} b{row.batch} {name:42} {row.batch_ms:8.2f} ms "
                          f"{over} torch", flush=True)  # fmt: skip
                    rows.append({"texts": texts, "name": name, **row.model_dump()})
    host = environment() | machine_load(every)
    print(write("int8", {"environment": host, "size_mb": sizes, "rows": rows}))


if __name__ == "__main__":
    main()
