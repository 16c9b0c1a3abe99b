"""Where the figures of a benchmark go: one file for each processor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(benchmark: str, result: dict[str, Any]) -> Path:
    """Write `results/BENCHMARK-PROCESSOR.json` and return it; `result` holds an `environment`."""
    processor = str(result["environment"]["processor"]).lower()
    words = re.sub(r"[^a-z0-9]+", "-", processor).strip("-")
    path = RESULTS / f"{benchmark}-{words}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
