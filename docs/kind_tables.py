"""What each kind of task keeps: the rows of the tables from `heads/` and `embedders/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
Rows = tuple[list[str], list[list[str]]]
"""Column names, and the cells of each line."""

HEADS = {
    "mit_restaurant": "MIT Restaurant",
    "bc5cdr": "BC5CDR",
    "squad": "SQuAD",
}
"""Results in the order of the table; what was not measured has no line."""
EMBEDDERS = {
    "int8": "int8",
    "no-training": "60 % of the operations, cut and repaired, int8",
    "narrow": "0.28 of heads and neurons, distilled, int8",
    "thin": "trimmed, thin table, 0.6 of heads and neurons, distilled, int8",
    "embedder": "the recipe `embedder`",
    "sibling": "paraphrase-MiniLM-L3-v2, as it comes, int8",
    "static": "static word vectors of the original",
}
FILES = {"onnxruntime int8": "ONNX Runtime", "openvino int8": "OpenVINO", "static table": "none"}
JUDGES = {"stsb": "STS-B", "sick-r": "SICK-R", "scifact": "SciFact"}


def read(folder: str, name: str) -> dict[str, Any] | None:
    """Return one result; None where it was not measured."""
    path = RESULTS / folder / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def kept(share: float, low: float, high: float) -> str:
    """Return a retention in per cent with its interval."""
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def heads_rows(head: str) -> Rows:
    """Return what `int8` and `small` keep of F1, one line a data set and recipe."""
    rows = []
    for name, title in HEADS.items():
        result = read("heads", name)
        if result is None or result["head"] != head:
            continue
        for recipe, found in result["found"].items():
            files = {each["deployment"]: each for each in found["shipped"]}
            both = [files[f"{runtime} int8"] for runtime in ("onnxruntime", "openvino")]
            cells = [kept(each["retention"], *each["interval"]) for each in both]
            score = f"{100 * found['baseline']['f1']:.1f}"
            rows.append([title, score, f"`{recipe}`", f"{both[1]['mb']:.1f}", *cells])
    columns = ["data", "F1 of the baseline", "recipe", "MB", "ONNX Runtime keeps", "OpenVINO keeps"]
    return columns, rows


def embedders_rows() -> Rows:
    """Return what each arm keeps of Spearman and nDCG@10, one line for each int8 file."""
    rows = []
    for arm, title in EMBEDDERS.items():
        result = read("embedders", arm)
        if result is None:
            continue
        for name, file in result["files"].items():
            if (runtime := FILES.get(name)) is None:
                continue
            cells = [kept(*(file[judge][k] for k in ("kept", "low", "high"))) for judge in JUDGES]
            rows.append([title, runtime, f"{file['mb']:.1f}", *cells])
    return ["what", "runtime", "MB", *JUDGES.values()], rows
