"""Cells of the desk grid to one table: scores, retention with intervals, controls.

Examples are resampled (paired, the seeds' scores averaged); seeds are not, their standard deviation
stands beside. Retention is the mean over the judged tasks of compressed / baseline, same seed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grid_cells
import numpy as np
from grid_cells import Cell

JUDGED = ("mnli", "stsb", "sst2")
SHOWN = (*JUDGED, "mrpc", "cola")


@dataclass(frozen=True)
class Column:
    """One line of the table: which deployment of which stage of which arm."""

    name: str
    arm: str
    stage: str
    """End of the stage's name; `control` takes the control's score."""
    runtime: str = "torch"
    precision: str = "fp32"


WHY = (
    ("distill", "logits alone", "distill"),
    ("smoothed", "smoothed labels of equal entropy", "distill"),
    ("shuffled", "logits of other rows of the class", "distill"),
    ("permuted", "logits, other classes permuted", "distill"),
    ("confidence", "labels weighted by confidence", "distill"),
    ("self", "logits of itself, fine-tuned", "born_again"),
)
"""Arm, line, stage: what a teacher's logits tell, one thing after the other taken away."""
LINES = (
    Column("int8, OpenVINO", "int8", "quantize_int8", "openvino", "int8"),
    Column("int8, ONNX Runtime", "int8", "quantize_int8", "onnxruntime", "int8"),
    Column("no-training, before int8", "no-training", "prune_structured"),
    Column("no-training, OpenVINO int8", "no-training", "quantize_int8", "openvino", "int8"),
    Column("the same scores, plainly cut", "no-training-plain", "prune_structured"),
    Column("small, cut only", "small", "prune_structured"),
    Column("small, distilled", "small", "distill"),
    Column("small, OpenVINO int8", "small", "quantize_int8", "openvino", "int8"),
    Column("small, ONNX Runtime int8", "small", "quantize_int8", "onnxruntime", "int8"),
    Column("control: small, no teacher", "small", "control"),
    Column("control: dense, as many more steps", "dense-longer", "02-finetune"),
    Column("albert-small, distilled", "albert-small", "distill"),
    Column("albert-small, OpenVINO int8", "albert-small", "quantize_int8", "openvino", "int8"),
    Column(
        "albert-small, ONNX Runtime int8", "albert-small", "quantize_int8", "onnxruntime", "int8"
    ),
    Column("trimmed, E = 128, distilled", "thin-table", "distill"),
    Column("control: trimmed, E = 128, no teacher", "thin-table-alone", "distill"),
    Column("three groups, distilled", "groups-3", "distill"),
    Column("control: three groups, no teacher", "groups-3-alone", "distill"),
    Column("all layers shared, distilled", "shared-all", "distill"),
    Column("low rank, 70 %, untrained", "lowrank-70", "factorize_linear"),
    Column("low rank, 70 %, distilled", "lowrank-70", "distill"),
    Column("low rank, 50 %, untrained", "lowrank-50", "factorize_linear"),
    Column("low rank, 50 %, distilled", "lowrank-50", "distill"),
    Column("control: low rank, 50 %, no teacher", "lowrank-50-alone", "distill"),
    Column("fine-tuned as it ships now, fp32", "int8-defaults", "finetune"),
    Column(
        "`int8` as it ships now, OpenVINO", "int8-defaults", "quantize_int8", "openvino", "int8"
    ),
    Column(
        "`int8` as it ships now, ONNX Runtime",
        "int8-defaults",
        "quantize_int8",
        "onnxruntime",
        "int8",
    ),
    Column("`small` as it ships now, before int8", "small-defaults", "distill"),
    Column(
        "`small` as it ships now, OpenVINO", "small-defaults", "quantize_int8", "openvino", "int8"
    ),
    Column(
        "`small` as it ships now, ONNX Runtime",
        "small-defaults",
        "quantize_int8",
        "onnxruntime",
        "int8",
    ),
    Column("control: `small` as it ships now, no teacher", "small-defaults", "control"),
    Column("`no-training` as it ships now, before int8", "no-training-defaults", "kprune"),
    Column("low rank, 20 %, distilled 4 epochs", "lowrank-20", "distill"),
    Column("flop, 20 %, 2 + 2 epochs", "flop-20", "distill"),
    Column("low rank, 10 %, distilled 4 epochs", "lowrank-10", "distill"),
    Column("flop, 10 %, 2 + 2 epochs", "flop-10", "distill"),
    Column("q8bert, torch", "q8bert", "q8bert", "torch", "int8"),
    Column("q8bert, OpenVINO", "q8bert", "q8bert", "openvino", "int8"),
    Column("q8bert, ONNX Runtime", "q8bert", "q8bert", "onnxruntime", "int8"),
    Column("control: fp32, as many more steps", "q8bert-fp32", "02-finetune"),
    Column("q_bert, 4 bits in groups", "q-bert", "q_bert", "torch", "int4-8"),
    Column("q_bert, 4 bits, one scale", "q-bert-one-scale", "q_bert", "torch", "int4-8"),
    Column("q_bert, 2 and 4 bits", "q-bert-mixed", "q_bert", "torch", "int2-8"),
    Column("q_bert, the other way round", "q-bert-reversed", "q_bert", "torch", "int2-8"),
    Column("three layers, plainly fine-tuned", "student-finetune", "03-finetune"),
    *(
        Column(f"three layers, {name}", f"student-{name}", name)
        for name in ("distill", "pkd", "tinybert", "minilm", "theseus")
    ),
    *(Column(f"three layers, {words}", f"why-{arm}", end) for arm, words, end in WHY),
)
BASE = Column("fine-tuned, fp32", "int8", "finetune")
"""What the row of that name is made of; only compared."""
COMPARED = (
    ("fine-tuned as it ships now, fp32", "fine-tuned, fp32"),
    ("small, distilled", "control: small, no teacher"),
    ("no-training, before int8", "the same scores, plainly cut"),
    ("trimmed, E = 128, distilled", "control: trimmed, E = 128, no teacher"),
    ("three groups, distilled", "control: three groups, no teacher"),
    ("low rank, 50 %, distilled", "control: low rank, 50 %, no teacher"),
    ("flop, 20 %, 2 + 2 epochs", "low rank, 20 %, distilled 4 epochs"),
    ("flop, 10 %, 2 + 2 epochs", "low rank, 10 %, distilled 4 epochs"),
    ("q8bert, torch", "control: fp32, as many more steps"),
    ("q8bert, OpenVINO", "control: fp32, as many more steps"),
    ("q8bert, OpenVINO", "int8, OpenVINO"),
    *(
        (f"three layers, {name}", "three layers, plainly fine-tuned")
        for name in ("distill", "pkd", "tinybert", "minilm", "theseus")
    ),
    ("three layers, logits alone", "three layers, plainly fine-tuned"),
    *(
        ("three layers, logits alone", f"three layers, {words}")
        for arm, words, _ in WHY
        if arm != "distill"
    ),
    ("q_bert, 4 bits in groups", "q_bert, 4 bits, one scale"),
    ("q_bert, 2 and 4 bits", "q_bert, the other way round"),
)
"""Pairs of lines whose difference is claimed, or denied."""
BASELINE = "01-finetune"
"""The stage that all is compared with; some arms fine-tune a second time."""


def baseline(cell: dict[str, Any]) -> Any:
    """Return the torch deployment of the fine-tuned model."""
    stages = cell["report"]["stages"]
    return next(s for s in stages if s["name"] == BASELINE)["deployments"][0]


def score_of(cell: dict[str, Any], column: Column) -> float | None:
    """Return the headline score of a line in a cell."""
    for stage in cell["report"]["stages"]:
        controls = controls_of(stage)
        if column.stage == "control":
            if controls and stage["name"] == rivals_stage(cell):
                return float(controls[0]["score"]["value"])
            continue
        if stage["name"].endswith(column.stage):
            for control in controls:
                if control.get("goes_on"):  # the row is the control's; the line is of the method
                    return float(control["method"]["score"]["value"])
            for row in stage["deployments"]:
                if (row["runtime"], row["precision"]) == (column.runtime, column.precision):
                    return head(row)
    return None


def rivals_stage(cell: dict[str, Any]) -> str | None:
    """Return the stage whose control could have gone on; None: there is none.

    One that is only shown, as a random choice of heads is, is not what a line is about.
    """
    for stage in cell["report"].get("stages", ()):
        if any(each.get("role", "rival") == "rival" for each in controls_of(stage)):
            return str(stage["name"])
    return None


def controls_of(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the controls of a stage; reports of versions 1 and 2 had one at most."""
    one = stage.get("control")
    return list(stage.get("controls") or ([one] if one else []))


def head(row: dict[str, Any]) -> float:
    """Return a deployment's headline score."""
    return float(next(s["value"] for s in row["scores"] if s["headline"]))


def answers_of(cell: Cell, column: Column) -> tuple[Any, Any] | None:
    """Return the answers of a line and of the baseline. Shape: (N, K) both."""
    ours, base = answer_names(cell, column)
    if ours is None or base is None:
        return None
    return cell.answers[ours].astype(np.float32), cell.answers[base].astype(np.float32)


def answer_names(cell: Cell, column: Column) -> tuple[str | None, str | None]:
    """Return the names of a line's answers and of the baseline's, None where there are none."""
    suffix = f"{column.runtime}-{column.precision}-validation"
    whose = f"{rivals_stage(cell.body)}-control" if column.stage == "control" else column.stage
    end = f"{whose}/{suffix}"
    ours = [n for n in cell.answers if n.endswith(end) and not n.startswith("baseline-")]
    base = [n for n in cell.answers if n.startswith(f"{BASELINE}/torch")]
    return next(iter(ours), None), next(iter(base), None)


def names_read(cell: Cell) -> set[str]:
    """Return the names of the answers that a table reads: what is worth packing of a cell."""
    mine = [column for column in LINES if column.arm == cell.body["arm"]]
    names = {name for column in mine for name in answer_names(cell, column) if name}
    return names | {"labels"}


def retention_interval(pairs: list[Any], task: dict[str, Any], labels: Any) -> Any:
    """Return retentions on resampled examples, seeds averaged. Shape: (resamples,)."""
    drawn = resampled(pairs, task, labels)
    return drawn[0::2].mean(0) / drawn[1::2].mean(0)


def resampled(pairs: list[Any], task: Any, labels: Any) -> Any:
    """Return the scores of both sides of each pair, in turn. Shape: (2 pairs, resamples)."""
    from bertcompress.heads import HEADS, scoring

    # All in one call: every seed and both sides are judged on the same drawn rows.
    sides = [answers for pair in pairs for answers in pair]
    return scoring.resampled(HEADS[task["problem"]], task["headline"], sides, labels)


def difference(first: Column, second: Column, cells: Any) -> list[str] | None:
    """Return one row of the table of differences, in points; None where a line has no cells."""
    points, draws, tasks = [], [], []
    for task in JUDGED:
        sides: list[dict[int, tuple[float, Any]]] = []
        about, labels = None, None
        for column in (first, second):
            side = {}
            for cell in cells.get((column.arm, task), []):
                score, answers = score_of(cell.body, column), answers_of(cell, column)
                if score is not None and answers:
                    side[cell.body["seed"]] = (score, answers[0])
                    about, labels = cell.body["report"]["task"], cell.answers["labels"]
            sides.append(side)
        seeds = sorted(sides[0].keys() & sides[1].keys())
        if not seeds:
            continue
        tasks.append(f"{task} ({len(seeds)})")
        points.append(np.mean([sides[0][seed][0] - sides[1][seed][0] for seed in seeds]))
        pairs = [(sides[0][seed][1], sides[1][seed][1]) for seed in seeds]
        drawn = resampled(pairs, about, labels)
        draws.append(drawn[0::2].mean(0) - drawn[1::2].mean(0))
    if not points:
        return None
    low, high = np.quantile(np.mean(draws, 0), [0.025, 0.975])
    shown = f"{100 * np.mean(points):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return [first.name, second.name, shown, ", ".join(tasks)]


def collect(results: Path) -> dict[tuple[str, str], list[Cell]]:
    """Return the cells by arm and task."""
    cells = defaultdict(list)
    for cell in grid_cells.read(results):
        cells[cell.body["arm"], cell.body["task"]].append(cell)
    return cells


def line(column: Column, cells: Any) -> list[str]:
    """Return one row of the table."""
    shown, plain, corrected, draws, counts = [], [], [], [], []
    for task in SHOWN:
        found = [(c, s) for c in cells.get((column.arm, task), [])
                 if (s := score_of(c.body, column)) is not None]  # fmt: skip
        if not found:
            shown.append("-")
            continue
        scores = np.array([s for _, s in found])
        bases = np.array([head(baseline(c.body)) for c, _ in found])
        spread = f" ± {100 * scores.std(ddof=1):.1f}" if len(scores) > 1 else ""
        shown.append(f"{100 * scores.mean():.1f}{spread}")
        if task not in JUDGED:
            continue
        about = found[0][0].body["report"]["task"]
        counts.append(len(scores))
        plain.append((scores / bases).mean())
        corrected.append(((scores - about["chance"]) / (bases - about["chance"])).mean())
        pairs = [answers_of(c, column) for c, _ in found]
        if all(pairs):
            draws.append(retention_interval(pairs, about, found[0][0].answers["labels"]))
    if not plain:
        return [column.name, *shown, "-", "-", "-"]
    complete = len(plain) == len(JUDGED)
    interval = ""
    if len(draws) == len(plain):
        low, high = np.quantile(np.mean(draws, 0), [0.025, 0.975])
        interval = f" [{100 * low:.1f}, {100 * high:.1f}]" if low < high else ""
    mark = "" if complete else f" ({len(plain)} of {len(JUDGED)} tasks)"
    kept = f"{100 * np.mean(plain):.1f}{interval}{mark}"
    seeds = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return [column.name, *shown, kept, f"{100 * np.mean(corrected):.1f}", seeds]


def base_line(cells: Any) -> list[str]:
    """Return the row of the fine-tuned models; a seed's score is the mean of those it was met with.

    Arms that were run on another machine have another teacher of the same seed. What ships now is
    trained otherwise, and has a row of its own.
    """
    shown = []
    for task in SHOWN:
        by_seed: dict[int, set[float]] = defaultdict(set)
        for (arm, about), found in cells.items():
            for cell in found if about == task and not ships_now(arm) else ():
                by_seed[cell.body["seed"]].add(head(baseline(cell.body)))
        values = np.array([np.mean(sorted(met)) for met in by_seed.values()])
        spread = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
        shown.append(f"{100 * values.mean():.1f}{spread}" if len(values) else "-")
    return ["fine-tuned, fp32", *shown, "100", "100", ""]


def ships_now(arm: str) -> bool:
    """Return whether an arm has the training of today's defaults, and not that of the grid."""
    return arm.endswith("-defaults")


def processors(cells: Any) -> str:
    """Return the processors of the grid, and of what ships now."""
    of: dict[bool, set[str]] = {False: set(), True: set()}
    for (arm, _), found in cells.items():
        of[ships_now(arm)] |= {c.body["report"]["environment"]["processor"] for c in found}
    grid, now = (", ".join(sorted(names)) for names in of.values())
    return f"{grid}; of what ships now: {now}" if now else grid


def write_table(results: Path) -> str:
    """Write `table.md` beside the cells and return it."""
    cells = collect(results)
    columns = ["", *SHOWN, "retention % [95 %]", "chance-corrected %", "seeds"]
    made = [column for column in LINES if any(arm == column.arm for arm, _ in cells)]
    rows = [base_line(cells), *(line(column, cells) for column in made)]
    by_name = {column.name: column for column in (*LINES, BASE)}
    compared = [difference(by_name[a], by_name[b], cells) for a, b in COMPARED]
    note = (
        "Scores: accuracy (mnli matched, sst2, mrpc), Spearman (stsb), MCC (cola), times 100; ± is "
        "the standard deviation over seeds. Retention: mean over mnli, stsb and sst2. "
        f"Processor: {processors(cells)}."
    )
    text = f"{table(columns, rows)}\n\n{note}\n"
    if any(compared):
        heads = ["", "above", "points [95 %]", "tasks (seeds)"]
        text += f"\n{table(heads, [row for row in compared if row])}\n"
    (results / "table.md").write_text(text, encoding="utf-8")
    return text


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(r) + " |" for r in [columns, ["---"] * len(columns), *rows])
