"""Write the tables of results in README.md and docs/ from the files in `benchmarks/results/`.

A page holds a table between `<!-- table: NAME -->` and `<!-- /table -->`; `result_rows.py` says
which line is shown under which words. Run it after new results: `python docs/generate.py`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path += [str(Path(__file__).parent), str(RESULTS.parent)]

import grid_cells  # noqa: E402
import grid_table  # noqa: E402
import kind_tables  # noqa: E402
from example_page import printed  # noqa: E402
from result_rows import FEW_BITS, HEADLINES, KEPT, RECIPES, RUNTIMES, TEXTS, THINNER  # noqa: E402

from bertcompress.measure.timing.claims import Claim, speed_claim  # noqa: E402

BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
NAMES = {"mnli": "MNLI", "stsb": "STS-B", "sst2": "SST-2"}
COUNTS = {1: "one seed", 2: "two seeds", 3: "three seeds"}
LINES = {line.name: line for line in grid_table.LINES}
Lines = Sequence[str]
"""Names of lines of `desk/table.md`."""


@cache
def desk_lines() -> dict[str, list[str]]:
    """Return the lines of `desk/table.md` by name, as cells; tests hold the file to the results."""
    text = (RESULTS / "desk" / "table.md").read_text(encoding="utf-8").partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: row for row in rows[2:]}


@cache
def desk_cells() -> dict[str, list[dict[str, Any]]]:
    """Return the bodies of the desk grid's cells by arm."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for cell in grid_cells.read(RESULTS / "desk"):
        by_arm.setdefault(cell.body["arm"], []).append(cell.body)
    return by_arm


@cache
def measured(benchmark: str) -> dict[str, Any]:
    """Return the result of a benchmark of speed."""
    (path,) = RESULTS.glob(f"{benchmark}-*.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def table(*rows: Sequence[str]) -> str:
    """Return a table in Markdown, of which the first row is the head."""
    marks = ["---"] * len(rows[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], marks, *rows[1:]))


def kept(name: str) -> str:
    """Return a line's retention, for example `98.8 % [98.1, 99.4]`."""
    value, _, interval = desk_lines()[name][6].partition(" [")
    return f"{value} % [{interval.partition(']')[0]}]"


def worst(name: str) -> str:
    """Return the retention of the task that kept least, the seeds' mean."""
    by_task = [statistics.mean(score / base for score, base in found)
               for found in scores(name).values()]  # fmt: skip
    return f"{100 * min(by_task):.1f} %"


def scores(name: str) -> dict[str, list[tuple[float, float]]]:
    """Return a line's score and its baseline's in each cell, by task."""
    line, found = LINES[name], {}
    for task in grid_table.JUDGED:
        mine = [body for body in desk_cells()[line.arm] if body["task"] == task]
        pairs = [(grid_table.score_of(body, line), grid_table.head(grid_table.baseline(body)))
                 for body in mine]  # fmt: skip
        found[task] = [(score, base) for score, base in pairs if score is not None]
    return {task: pairs for task, pairs in found.items() if pairs}


def seeds_note(names: Lines) -> str:
    """Return what a row lacks of three tasks and three seeds, in brackets, or nothing."""
    counts = [{task: len(found) for task, found in scores(name).items()} for name in names]
    few = min(counts, key=lambda count: (len(count), sum(count.values())))
    if len(few) < len(NAMES):
        tasks = " and ".join(NAMES[task] for task in few)
        least = min(few.values())
        return f" ({tasks}{', ' + COUNTS[least] if least < 3 else ' alone'})"
    short = [f"{NAMES[task]}: {COUNTS[count]}" for task, count in few.items() if count < 3]
    return f" ({', '.join(short)})" if short else ""


def bytes_kept(names: Lines) -> str:
    """Return the share of the baseline's bytes that a row ships, over tasks and runtimes."""
    shares = []
    for line in (LINES[name] for name in names):
        what = (line.runtime, line.precision)
        for body in desk_cells()[line.arm]:
            stage = next(s for s in body["report"]["stages"] if s["name"].endswith(line.stage))
            rows = {(row["runtime"], row["precision"]): row for row in stage["deployments"]}
            shares.append(100 * rows[what]["size_mb"] / grid_table.baseline(body)["size_mb"])
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    return f"{low} %" if low == high else f"{low} to {high} %"


def over_best_dense(
    recipe: str, candidate: str, texts: str, length: int | str, batch: int
) -> Claim:
    """Return how many times faster than the fastest dense deployment a recipe's file is."""
    rows = [
        SimpleNamespace(**{"disturbed": None, **row})
        for row in measured(f"speed-{recipe}")["rows"]
        if (row["texts"], row["length"], row["batch"]) == (texts, length, batch)
    ]
    dense = [row for row in rows if row.candidate.startswith("dense")]
    best = max(dense, key=lambda row: row.throughput_per_s)
    return speed_claim(best, next(row for row in rows if row.candidate == candidate))


def claim(value: Claim) -> str:
    """Return a speed-up with one digit, or that its rounds do not allow one."""
    return f"{value.ratio:.1f}" if value.stands else "not measurable there"


def speed_table() -> str:
    """Return how many times faster `small` is, by runtime and texts, batch 1 / batch 8."""
    rows = []
    for words, candidate in (
        ("OpenVINO int8", "shipped OpenVINO int8"),
        ("ONNX Runtime int8", "shipped ONNX Runtime int8"),
    ):
        ratios = [[claim(over_best_dense("small", candidate, *texts, batch)) for batch in (1, 8)]
                  for texts in TEXTS.values()]  # fmt: skip
        rows.append([words, *(" / ".join(pair) for pair in ratios)])
    return table(["`small`", *TEXTS], *rows)


def runtimes_table() -> str:
    """Return how many times faster than fp32 in PyTorch each runtime is, batch 1 / batch 8."""
    result, rows = measured("int8"), []
    for words, name in RUNTIMES:
        size = result["size_mb"].get(name)
        shown = [words, f"{size:.1f}" if size else "-"]
        for texts in ("128 tokens", "glue/mnli", "glue/stsb", "glue/sst2"):
            found = {row["batch"]: row["speedup_vs_torch"] for row in result["rows"]
                     if (row["name"], row["texts"]) == (name, texts)}  # fmt: skip
            shown.append(f"{found[1]:.1f} / {found[8]:.1f}")
        rows.append(shown)
    return table(["", "MB", *TEXTS], *rows)


def kept_table() -> str:
    """Return what each recipe and its controls keep."""
    rows = []
    for words, names in KEPT:
        chance = " / ".join(f"{desk_lines()[name][7]} %" for name in names)
        rows.append([words + seeds_note(names), " / ".join(map(kept, names)), chance])
    return table(["recipe", "score kept [95 % interval]", "above chance"], *rows)


def ships_now_table() -> str:
    """Return what today's defaults make of the desk grid's tasks, beside the grid's settings."""
    now = [line.name for line in grid_table.LINES if grid_table.ships_now(line.arm)]
    rows = [desk_lines()[name] for name in (grid_table.BASE.name, *now) if name in desk_lines()]
    return table(
        ["", *(NAMES[task] for task in grid_table.JUDGED), "score kept"],
        *([row[0], *row[1 : 1 + len(grid_table.JUDGED)], row[6]] for row in rows),
    )


def few_bits_table() -> str:
    """Return what the methods of few bits keep, over all tasks and on the worst."""
    rows = [[words, " / ".join(map(kept, names)), " / ".join(map(worst, names))]
            for words, names in FEW_BITS]  # fmt: skip
    return table(["", "score kept", "worst task"], *rows)


def thinner_table() -> str:
    """Return what sharing and factorising keep, and of how many bytes."""
    rows = [[words + seeds_note(names), bytes_kept(names), " / ".join(map(kept, names))]
            for words, names in THINNER]  # fmt: skip
    return table(["", "of all bytes", "score kept"], *rows)


def fastest(recipe: str) -> str:
    """Return a recipe's speed at 128 tokens, batch 1 / 8, against the fastest dense deployment."""
    if recipe == "int8":
        return "1 (it is that one)"
    if not [*RESULTS.glob(f"speed-{recipe}-*.json")]:
        return "not measured"
    where = (recipe, "shipped OpenVINO int8", *TEXTS["128 tokens"])
    claims = [over_best_dense(*where, batch) for batch in (1, 8)]
    return " / ".join(map(claim, claims)) if any(c.stands for c in claims) else "none shown"


def headline_table() -> str:
    """Return three rows: what is gained and what is kept."""
    rows = [[words, fastest(recipe), kept(name)] for words, recipe, name in HEADLINES]
    return table(["OpenVINO file of", "times faster", "score kept"], *rows)


def recipes_table() -> str:
    """Return size, speed, score, labels and minutes of each shipped recipe."""
    rows = []
    for recipe, name, labels in RECIPES:
        bodies = desk_cells()[recipe]
        sizes = [f"{size_mb(body):.1f}" for body in sorted(bodies, key=size_mb)]
        size = sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        body = next(body for body in bodies if (body["task"], body["seed"]) == ("sst2", 0))
        rows.append([f"`{recipe}`", size, fastest(recipe), kept(name) + seeds_note([name]),
                     labels, minutes(body)])  # fmt: skip
    return table(["recipe", "MB", "times faster", "score kept", "labels", "minutes"], *rows)


def size_mb(body: dict[str, Any]) -> float:
    """Return the megabytes of the OpenVINO file that a cell ships."""
    rows = body["report"]["stages"][-1]["deployments"]
    return float(next(row["size_mb"] for row in rows if row["runtime"] == "openvino"))


def minutes(body: dict[str, Any]) -> str:
    """Return the minutes of all stages of a cell but the fine-tuning."""
    stages = [stage for stage in body["report"]["stages"] if not stage["baseline"]]
    taken = sum(stage["cost"]["seconds"] for stage in stages) / 60
    return f"{taken:.1f}" if taken < 10 else f"{taken:.0f}"


def _of(rows: kind_tables.Rows) -> str:
    return table(rows[0], *rows[1])


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline_table,
    "printed": printed,
    "recipes": recipes_table,
    "speed": speed_table,
    "runtimes": runtimes_table,
    "kept": kept_table,
    "ships-now": ships_now_table,
    "few-bits": few_bits_table,
    "thinner": thinner_table,
    "embedders": lambda: _of(kind_tables.embedders_rows()),
    "taggers": lambda: _of(kind_tables.heads_rows("tokens")),
}


def filled(text: str) -> str:
    """Return a page with its tables as the results are now."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def documents() -> dict[Path, str]:
    """Return the content that every page with a table of results ought to have."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    return {page: filled(text) for page, text in texts.items() if BLOCK.search(text)}
