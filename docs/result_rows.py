"""Which line of which result is shown under which words; the tables are in `result_tables.py`."""

from __future__ import annotations

TEXTS = {
    "128 tokens": ("fixed lengths", 128),
    "MNLI's own lengths": ("glue/mnli", "task"),
    "STS-B's": ("glue/stsb", "task"),
    "SST-2's": ("glue/sst2", "task"),
}
"""Words of a column, and the texts and the length of `speed-small-*.json`."""
INT8 = ("int8, OpenVINO", "int8, ONNX Runtime")
SMALL = ("small, OpenVINO int8", "small, ONNX Runtime int8")
ALBERT = ("albert-small, OpenVINO int8", "albert-small, ONNX Runtime int8")
KEPT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("`int8`: the full shape, OpenVINO / ONNX Runtime", INT8),
    (
        "`small`: 0.28 of the heads and neurons of each layer, distilled, int8, OpenVINO / ONNX "
        "Runtime",
        SMALL,
    ),
    ("*control*: `small` without a teacher, before int8", ("control: small, no teacher",)),
    (
        "*control*: the full model, trained for as many more steps as `small` (it was at its best)",
        ("control: dense, as many more steps",),
    ),
    (
        "`no-training`: 60 % of the encoder's operations, before int8 / OpenVINO",
        ("no-training, before int8", "no-training, OpenVINO int8"),
    ),
    ("*control*: cut by the same scores, nothing repaired", ("the same scores, plainly cut",)),
    (
        "`q8bert`: trained through the rounding, PyTorch / ONNX Runtime / OpenVINO",
        ("q8bert, torch", "q8bert, ONNX Runtime", "q8bert, OpenVINO"),
    ),
    (
        "*control*: fp32, trained for as many more steps as `q8bert`",
        ("control: fp32, as many more steps",),
    ),
    ("`q_bert`: 4-bit weights in groups of 64", ("q_bert, 4 bits in groups",)),
    (
        "vocabulary trimmed to the training text, E = 128, distilled, before int8",
        ("trimmed, E = 128, distilled",),
    ),
    (
        "`albert-small`: trimmed, E = 128, three sets of weights, distilled, int8, OpenVINO / ONNX "
        "Runtime",
        ALBERT,
    ),
    ("three sets of weights for six layers, distilled, before int8", ("three groups, distilled",)),
    ("*control*: the same without a teacher", ("control: three groups, no teacher",)),
    (
        "`factorize_linear`: 70 % of the layers' parameters, untrained / distilled",
        ("low rank, 70 %, untrained", "low rank, 70 %, distilled"),
    ),
    ("`factorize_linear`: 50 %, distilled", ("low rank, 50 %, distilled",)),
    ("`factorize_linear`: 20 %, distilled", ("low rank, 20 %, distilled 4 epochs",)),
    ("`flop` at the same size and steps", ("flop, 20 %, 2 + 2 epochs",)),
)
"""Words of a row, and the lines of `desk/table.md` that it shows, in their order."""
THINNER: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "recipe `albert-small`: trimmed, `tables: all`, E = 128, three groups, five epochs, int8; "
        "OpenVINO / ONNX Runtime",
        ALBERT,
    ),
    (
        "vocabulary trimmed (1,000 tokens in reserve), `tables: word`, E = 128, two epochs of "
        "distilling",
        ("trimmed, E = 128, distilled",),
    ),
    ("three groups for six layers, four epochs", ("three groups, distilled",)),
    ("one set of weights for all six, four epochs", ("all layers shared, distilled",)),
    (
        "`factorize_linear`, 70 % of the layers' parameters, untrained",
        ("low rank, 70 %, untrained",),
    ),
    ("the same, two epochs", ("low rank, 70 %, distilled",)),
    ("`factorize_linear`, 50 %, untrained", ("low rank, 50 %, untrained",)),
    ("the same, two epochs", ("low rank, 50 %, distilled",)),
    ("`factorize_linear`, 20 %, four epochs", ("low rank, 20 %, distilled 4 epochs",)),
    ("`flop`, 20 %, two epochs and two of distilling", ("flop, 20 %, 2 + 2 epochs",)),
    ("`factorize_linear`, 10 %, four epochs", ("low rank, 10 %, distilled 4 epochs",)),
    ("`flop`, 10 %, two epochs and two of distilling", ("flop, 10 %, 2 + 2 epochs",)),
)
FEW_BITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("`quantize_int8`, OpenVINO / ONNX Runtime", INT8),
    (
        "`q8bert`, torch / ONNX Runtime / OpenVINO",
        ("q8bert, torch", "q8bert, ONNX Runtime", "q8bert, OpenVINO"),
    ),
    ("`q_bert`, 4 bits in groups", ("q_bert, 4 bits in groups",)),
)
RUNTIMES: tuple[tuple[str, str], ...] = (
    ("PyTorch bf16", "torch bf16"),
    ("PyTorch dynamic int8", "torch.ao dynamic int8"),
    ("torchao int8, compiled", "torchao int8, compiled"),
    ("ONNX Runtime fp32", "ONNX Runtime fp32"),
    ("ONNX Runtime int8, optimum's defaults", "ONNX Runtime int8, optimum's defaults"),
    ("OpenVINO, its own precision (bf16)", "OpenVINO, its own precision"),
    ("**`int8`**, ONNX Runtime", "ONNX Runtime int8"),
    ("**`int8`**, OpenVINO", "OpenVINO int8"),
    ("**`q8bert`**, ONNX Runtime", "q8bert, ONNX Runtime"),
    ("**`q8bert`**, OpenVINO", "q8bert, OpenVINO"),
    (
        "half of the heads and neurons, OpenVINO fp32",
        "half of heads and neurons: OpenVINO fp32",
    ),
    ("the same with `int8`", "half of heads and neurons: OpenVINO int8"),
)
"""Words of a row, and the name of a candidate in `int8-*.json`."""
RECIPES: tuple[tuple[str, str, str], ...] = (
    ("int8", INT8[0], "none; 300 texts"),
    ("small", SMALL[0], "used, not needed"),
    ("no-training", "no-training, OpenVINO int8", "none; 512 texts"),
    ("albert-small", ALBERT[0], "used, not needed"),
)
"""A recipe, its line in `desk/table.md`, and what it needs of a model's task beside the model."""
HEADLINES: tuple[tuple[str, str, str], ...] = (
    ("`int8`: the full shape", "int8", INT8[0]),
    ("`small`: 0.28 of heads and neurons, distilled", "small", SMALL[0]),
    (
        "`no-training`: 60 % of the operations, cut and repaired",
        "no-training",
        "no-training, OpenVINO int8",
    ),
)
"""The first three: words, the recipe, its line in `desk/table.md`."""
