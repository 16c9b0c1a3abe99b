"""Scores with their intervals, sizes, MACs, latency, memory: of a `Predictor`, not of a class."""

from bertcompress.measure.chance import Standing
from bertcompress.measure.claims import Claim, ratio_claim, speed_claim
from bertcompress.measure.footprint import (
    LayerRow,
    Parameters,
    Size,
    count_parameters,
    disk_bytes,
    encoder_bytes,
    half_size,
    layer_table,
    macs,
    size_of,
)
from bertcompress.measure.latency import (
    Candidate,
    Latency,
    Timing,
    busy_words,
    cut_words,
    machine_load,
)
from bertcompress.measure.row import Row
from bertcompress.measure.scores import (
    BATCH,
    Comparison,
    Cost,
    Score,
    compare,
    flips,
    predict,
    score,
    task_batches,
)
from bertcompress.measure.timing import time_candidates
from bertcompress.runtimes.host import environment, peak_memory_mb, physical_cores

__all__ = [
    "BATCH",
    "Candidate",
    "Claim",
    "Comparison",
    "Cost",
    "Latency",
    "LayerRow",
    "Parameters",
    "Row",
    "Score",
    "Size",
    "Standing",
    "Timing",
    "busy_words",
    "compare",
    "count_parameters",
    "cut_words",
    "disk_bytes",
    "encoder_bytes",
    "environment",
    "flips",
    "half_size",
    "layer_table",
    "machine_load",
    "macs",
    "peak_memory_mb",
    "physical_cores",
    "predict",
    "ratio_claim",
    "score",
    "size_of",
    "speed_claim",
    "task_batches",
    "time_candidates",
]
