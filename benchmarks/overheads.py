"""Share of a run that is not compressing, evaluating, timing or exporting; the goal is at most 2 %.

python benchmarks/overheads.py RUN_FOLDER...      reads what each run recorded of itself
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WORK = ("compressing", "evaluating", "timing", "exporting")


def overhead(seconds: dict[str, float]) -> float:
    """Return the share, 0 to 1."""
    return 1 - sum(seconds.get(name, 0.0) for name in WORK) / seconds["total"]


def main() -> None:
    """Print one line per run."""
    for folder in map(Path, sys.argv[1:]):
        facts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        parts = {name: round(value, 1) for name, value in facts["seconds"].items()}
        print(f"{folder}: {overhead(facts['seconds']):.1%} of {parts}")


if __name__ == "__main__":
    main()
