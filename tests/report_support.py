"""A hand-made report of a whole run, with figures as they are met: `sample_report()`."""

from __future__ import annotations

from typing import Any

from bertcompress.measure.scores import Cost, Score
from bertcompress.measure.timing.candidates import Latency
from bertcompress.report import Report
from bertcompress.report.rows import Control, DeploymentRow, LayerShape, Stage

HEADS = [3, 4, 4, 5, 4, 4]
NEURONS = [416, 448, 512, 576, 608, 512]
SETTINGS: tuple[tuple[int, int | str], ...] = ((1, 128), (8, 128), (1, "task"), (8, "task"))
TORCH_MS = (16.9, 97.6, 6.1, 28.4)
DENSE_INT8_MS = {"openvino": (7.4, 45.8, 2.9, 10.9), "onnxruntime": (11.9, 77.1, 4.1, 16.3)}


def scores(value: float, half: float = 0.021) -> tuple[Score, ...]:
    return (
        Score(
            metric="accuracy",
            value=value,
            ci_low=value - half,
            ci_high=value + half,
            n=872,
            headline=True,
            split="validation",
        ),
        Score(
            metric="f1",
            value=value + 0.004,
            ci_low=value - half - 0.001,
            ci_high=value + half + 0.002,
            n=872,
            headline=False,
            split="validation",
        ),
    )


def latency(runtime: str, times_ms: tuple[float, ...]) -> tuple[Latency, ...]:
    dense = DENSE_INT8_MS.get(runtime)
    return tuple(
        Latency(
            batch=batch,
            length=length,
            threads=2,
            p50_ms=ms,
            p95_ms=round(ms * 1.12, 2),
            spread=0.03,
            throughput_per_s=round(batch / ms * 1000, 1),
            speedup_vs_torch=TORCH_MS[i] / ms,
            speedup_vs_dense_int8=dense[i] / ms if dense else None,
        )
        for i, ((batch, length), ms) in enumerate(zip(SETTINGS, times_ms, strict=True))
    )


def deployment(runtime: str, precision: str, **fields: Any) -> DeploymentRow:
    suffix = {"torch": "model", "onnxruntime": "onnx/model_quantized.onnx"}
    loads = {"torch": "bertcompress, or transformers with trust_remote_code=True"}
    return DeploymentRow(
        runtime=runtime,
        precision=precision,
        path=suffix.get(runtime, "openvino/model_int8.onnx"),
        loads_in=loads.get(runtime, runtime),
        **fields,
    )


def against(retention: float, flipped: float, p_value: float) -> dict[str, float]:
    """What `Comparison.model_dump()` gives."""
    return {
        "retention": retention,
        "retention_low": retention - 0.017,
        "retention_high": retention + 0.016,
        "retention_chance_corrected": retention - 0.012,
        "flipped": flipped,
        "p_value": p_value,
        "difference": 0.868 * (retention - 1),
        "difference_low": 0.868 * (retention - 1.017),
        "difference_high": 0.868 * (retention - 0.984),
    }


def baseline() -> Stage:
    rows = (
        deployment(
            "torch",
            "fp32",
            size_mb=90.9,
            encoder_mb=42.6,
            scores=scores(0.868),
            memory_mb=612,
            load_s=1.9,
            latency=latency("torch", TORCH_MS),
        ),
        deployment(
            "onnxruntime",
            "int8",
            size_mb=23.1,
            encoder_mb=10.8,
            scores=scores(0.864),
            **against(0.9954, 0.011, 0.51),
            latency=latency("onnxruntime", DENSE_INT8_MS["onnxruntime"]),
        ),
        deployment(
            "openvino",
            "int8",
            size_mb=23.4,
            encoder_mb=11.0,
            scores=scores(0.866),
            **against(0.9977, 0.009, 0.73),
            latency=latency("openvino", DENSE_INT8_MS["openvino"]),
        ),
    )
    return Stage(
        name="01-finetune",
        method="finetune",
        baseline=True,
        params=22_713_986,
        encoder_params=10_646_784,
        macs=1_420_000_000,
        cost=Cost(seconds=412.0, steps=1_800, samples=28_800, peak_memory_mb=1_940, reused=True),
        deployments=rows,
        notes=("taken from the stage store",),
    )


def pruned() -> Stage:
    row = deployment(
        "torch",
        "fp32",
        size_mb=62.6,
        encoder_mb=14.3,
        scores=scores(0.701, 0.03),
        **against(0.8076, 0.24, 1e-9),
    )
    edits = tuple(
        LayerShape(layer=i, heads=h, heads_before=12, neurons=n, neurons_before=1536)
        for i, (h, n) in enumerate(zip(HEADS, NEURONS, strict=True))
    )
    return Stage(
        name="02-prune_structured",
        method="prune_structured",
        params=15_633_410,
        encoder_params=3_566_208,
        macs=474_000_000,
        cost=Cost(seconds=21.5, steps=0, samples=1_024, peak_memory_mb=1_310, reused=False),
        deployments=(row,),
        edits=edits,
    )


def distilled() -> Stage:
    row = deployment(
        "torch",
        "fp32",
        size_mb=62.6,
        encoder_mb=14.3,
        scores=scores(0.859),
        **against(0.9896, 0.052, 0.21),
        latency=latency("torch", (8.1, 44.0, 3.4, 14.1)),
    )
    return Stage(
        name="03-distill",
        method="distill",
        params=15_633_410,
        encoder_params=3_566_208,
        macs=474_000_000,
        cost=Cost(seconds=655.0, steps=2_500, samples=40_000, peak_memory_mb=2_250, reused=False),
        controls=(Control(name="no teacher", score=scores(0.842)[0]),),
        deployments=(row,),
    )


def quantized() -> Stage:
    rows = (
        deployment(
            "onnxruntime",
            "int8",
            size_mb=16.1,
            encoder_mb=3.7,
            scores=scores(0.857),
            **against(0.9873, 0.055, 0.14),
            memory_mb=121,
            load_s=0.31,
            latency=latency("onnxruntime", (6.6, 33.9, 2.4, 8.9)),
        ),
        deployment(
            "openvino",
            "int8",
            size_mb=16.2,
            encoder_mb=3.8,
            scores=scores(0.858),
            **against(0.9885, 0.053, 0.17),
            memory_mb=148,
            load_s=0.42,
            latency=latency("openvino", (3.5, 18.0, 1.7, 5.0)),
        ),
    )
    return Stage(
        name="04-quantize_int8",
        method="quantize_int8",
        params=15_633_410,
        encoder_params=3_566_208,
        macs=474_000_000,
        cost=Cost(seconds=48.0, steps=0, samples=300, peak_memory_mb=1_650, reused=False),
        deployments=rows,
        notes=("OpenVINO keeps the last layer's output projection in fp32",),
    )


def sample_report(stages: tuple[Stage, ...] | None = None) -> Report:
    """Return fine-tune, cut to a third, distil, int8 on SST-2; other stages where given."""
    return Report.of(
        stages or (baseline(), pruned(), distilled(), quantized()),
        recipe={
            "model": "embedded:minilm-l6",
            "task": "glue/sst2",
            "methods": [
                {"finetune": {"epochs": 3}},
                {"prune_structured": {"keep": 0.33}},
                {"distill": {"epochs": 4}},
                {"quantize_int8": {}},
            ],
            "seed": 1,
        },
        task={
            "name": "glue/sst2",
            "dataset": "nyu-mll/glue",
            "config": "sst2",
            "text": ["sentence"],
            "label": "label",
            "labels": ["negative", "positive"],
            "problem": "single_label",
            "metrics": ["accuracy", "f1"],
            "headline": "accuracy",
            "chance": 0.509,
        },
        environment={
            "processor": "Intel Xeon Processor (model 207)",
            "instruction_sets": ["avx2", "avx512f", "avx512_vnni"],
            "cores": 2,
            "threads": 2,
            "python": "3.11.9",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0", "openvino": "2026.4.1"},
        },
    )
