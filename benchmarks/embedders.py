"""What an embedder keeps when it is cut on plain texts: sentence pairs and search, one seed.

    python benchmarks/embedders.py run --data-dir FOLDER --glue GLUE [--arms int8] [--limit N]
    python benchmarks/embedders.py run ... --arms sibling --sibling MODEL
    python benchmarks/embedders.py speed --data-dir FOLDER [--arms narrow]
    python benchmarks/embedders.py table

FOLDER has `text` (sentences), `sickr` and `scifact`. No label is seen in training: each arm runs a
recipe on the sentences, then what it ships is judged on STS-B, SICK-R and SciFact beside the model
as it came. Retention is of the headline, its interval over rows, both models on the same ones.
Two arms need no run: `sibling`, a smaller model of somebody else, as it comes and exported to int8,
and `static`, static word vectors of the original, distilled on the same sentences.
`speed` times what an arm ships beside the dense files, on a few sentences: it depends on the shape
alone. Run it with nothing else running, and without OMP_* or GOMP_* in the environment.
Writes benchmarks/results/embedders/ARM.json and ARM-speed.json; with --limit nothing is written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "embedders"
MODEL = "embedded:minilm-l6"
INT8 = "quantize_int8"
ARMS: dict[str, list[Any]] = {
    "int8": [INT8],
    "no-training": [{"kprune": {"keep": 0.6}}, INT8],
    "narrow": [{"prune_structured": {"keep": 0.28}}, "distill", INT8],
    "thin": [
        "trim_vocabulary",
        {"factorize_embedding": {"size": 128}},
        {"prune_structured": {"keep": 0.6}},
        "distill",
        INT8,
    ],
    "embedder": [],
}
"""Arm to its methods; none: those of the recipe of that name."""
SIBLING, STATIC = "sibling", "static"
TIMED = 300
"""Sentences that a model is made of which is timed alone."""
GOALS = {"int8": 0.995, "no-training": 0.98, "narrow": 0.975, "thin": 0.98}
SHIPPED = (("onnxruntime", "int8"), ("openvino", "int8"))


def judges(data: Path, glue: Path) -> dict[str, tuple[Any, str]]:
    """Return the tasks that judge, each with the split that it is judged on."""
    import bertcompress as bc

    pairs = {"text": ["sentence1", "sentence2"], "problem": "similarity", "metrics": ["spearman"]}
    sick = bc.Task(name="sick-r", dataset=str(data / "sickr"), label="score", **pairs)
    stsb = bc.Task.load("stsb-embeddings").model_copy(update={"dataset": str(glue)})
    scifact = bc.Task.load("scifact").model_copy(update={"dataset": str(data / "scifact")})
    return {
        "stsb": (stsb, "validation"),
        "sick-r": (sick.model_copy(update={"validation": "test"}), "validation"),
        "scifact": (scifact, "validation"),
    }


def answers(model: str, runtime: str, precision: str, task: Any, split: str) -> Any:
    """Return the task as the model reads it, its vectors of a split, and what is right."""
    from bertcompress.data import load_data
    from bertcompress.measure.scores import predict
    from bertcompress.runtimes import open_predictor
    from bertcompress.verbs.places import find_place

    place = find_place(model, runtime, precision, None, lambda line: None)
    task = place.reads(task)
    tokenizer = place.tokenizer(task)
    data = load_data(task).fitted(tokenizer)
    predictor = open_predictor(place.path, place.runtime, None, place.precision)
    vectors = predict(predictor, data, split, tokenizer, config=place.config)
    return data.task, vectors, data.references(split)


@cache
def original(name: str, data: Path, glue: Path) -> Any:
    """Return the answers of the model as it came to a task."""
    return answers(MODEL, "torch", "fp32", *judges(data, glue)[name])


def recipe_of(arm: str, data: Path, limit: int | None, **measure: bool) -> Any:
    """Return the recipe of an arm on the sentences."""
    import bertcompress as bc

    texts = bc.Task(
        name="sentences", dataset=str(data / "text"), config="en", text=["text"], problem="vectors"
    )
    fields: dict[str, Any] = {"model": MODEL, "task": texts, "limit": limit, "measure": measure}
    if not ARMS[arm]:
        return bc.Recipe.load(arm, **fields)
    return bc.Recipe.parse({**fields, "methods": ARMS[arm]})


def run_speed(arm: str, data: Path) -> dict[str, Any]:
    """Return the times of what an arm ships, each beside the best dense file of any runtime."""
    import bertcompress as bc
    from bertcompress.report.speed import speed_ups

    recipe = recipe_of(arm, data, TIMED, latency=True, controls=False)
    methods = [
        each.model_copy(update={"max_steps": 2}) if each.leaves == "weights" else each
        for each in recipe.methods
    ]
    recipe = recipe.model_copy(update={"methods": methods})
    with tempfile.TemporaryDirectory() as scratch:
        report = bc.run(recipe, Path(scratch) / "run", say=print).report
    rows = [
        {"deployment": f"{each.runtime} {each.precision}", **speed.model_dump()}
        for each in report.last.deployments
        for speed in speed_ups(each, report.reference)
    ]
    return {"rows": rows}


def run_arm(arm: str, data: Path, glue: Path, limit: int | None) -> dict[str, Any]:
    """Return what each file of an arm scores and keeps, its bytes, and the run's own words."""
    import bertcompress as bc

    recipe = recipe_of(arm, data, limit, latency=False)
    with tempfile.TemporaryDirectory() as scratch:
        run = bc.run(recipe, Path(scratch) / "run", say=print)
        sizes = {(d.runtime, d.precision): d.size_mb for d in run.report.last.deployments}
        own = {row.metric: row.value for row in run.report.last.deployments[0].scores}
        files = {
            f"{runtime} {precision}": {
                "mb": sizes[runtime, precision],
                **{name: judged(run.folder, runtime, precision, name, data, glue)
                   for name in judges(data, glue)},
            }
            for runtime, precision in SHIPPED
            if (runtime, precision) in sizes
        }  # fmt: skip
        minutes = sum(stage.cost.seconds for stage in run.report.stages if stage.cost) / 60
        return {
            "recipe": recipe.model_dump(mode="json"),
            "own": own,
            "minutes": minutes,
            "files": files,
        }


def run_sibling(model: str, data: Path, glue: Path) -> dict[str, Any]:
    """Return what a smaller model of somebody else keeps, as it comes and in int8."""
    import bertcompress as bc
    from bertcompress.measure.footprint import disk_bytes
    from bertcompress.models.locate import locate

    with tempfile.TemporaryDirectory() as scratch:
        made = [each for each in bc.export(model, scratch, say=print) if each.precision == "int8"]
        places = {("torch", "fp32"): locate(model)}
        places |= {(each.runtime, each.precision): each.path for each in made}
        files = {
            f"{runtime} {precision}": {
                "mb": disk_bytes(place) / 1e6,
                **{name: judged(place, runtime, precision, name, data, glue)
                   for name in judges(data, glue)},
            }
            for (runtime, precision), place in places.items()
        }  # fmt: skip
    return {"model": Path(model).name, "files": files}


def run_static(data: Path, glue: Path) -> dict[str, Any]:
    """Return what static word vectors of the original keep, distilled on the sentences."""
    import bertcompress as bc
    from bertcompress.data import load_data
    from bertcompress.engines.static_vectors import static_vectors
    from bertcompress.heads.pooling import Pooling
    from bertcompress.measure.scores import compare, predict
    from bertcompress.models.static import write_static
    from bertcompress.runs.opponents import token_counts

    product = bc.load(MODEL)
    pooling = Pooling.of(product.model.config) or Pooling()
    texts = load_data(recipe_of("int8", data, None).resolved_task()).fitted(product.tokenizer)
    found = static_vectors(product, product.tokenizer, token_counts(texts, product.tokenizer),
                           pooling)  # fmt: skip
    kept: dict[str, Any] = {}
    for name, (task, split) in judges(data, glue).items():
        _, before, _ = original(name, data, glue)
        rows = load_data(task.model_copy(update={"pooling": pooling})).fitted(product.tokenizer)
        right = rows.references(split)
        after = predict(found, rows, split, product.tokenizer)
        kept[name] = described(rows.task, compare(rows.task, after, before, right), right)
    with tempfile.TemporaryDirectory() as scratch:
        table = write_static(Path(scratch) / "static", found.table, product.tokenizer, pooling)
        size = table.stat().st_size
    return {"files": {"static table": {"mb": size / 1e6, **kept}}}


def described(task: Any, found: Any, right: Any) -> dict[str, Any]:
    """Return a comparison as results hold it."""
    return {
        "metric": task.headline,
        "kept": found.retention,
        "low": found.retention_low,
        "high": found.retention_high,
        "rows": task.head.examples(right),
    }


def judged(
    model: Path, runtime: str, precision: str, name: str, data: Path, glue: Path
) -> dict[str, Any]:
    """Return what a file keeps of the original's headline of a task, on the same rows."""
    from bertcompress.measure.scores import compare

    _, before, _ = original(name, data, glue)
    judge = judges(data, glue)[name]
    task, after, right = answers(str(model), runtime, precision, *judge)
    return described(task, compare(task, after, before, right), right)


def table() -> str:
    """Return what each arm's files keep."""
    rows = ["| arm | file | MB | STS-B | SICK-R | SciFact |", "|---|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        if path.stem.endswith("-speed"):
            continue
        found: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        for name, row in found["files"].items():
            kept = [f"{100 * row[task]['kept']:.1f} %" for task in ("stsb", "sick-r", "scifact")]
            rows.append(f"| {path.stem} | {name} | {row['mb']:.1f} | {' | '.join(kept)} |")
    return "\n".join(rows)


def speed(arms: Sequence[str], data: Path) -> None:
    """Time what arms ship, and write it."""
    from bertcompress.runtimes.hardware import environment
    from bertcompress.support.quiet import silence

    silence()
    for arm in arms:
        whole = {**run_speed(arm, data), "environment": environment()}
        print(json.dumps(whole["rows"], indent=1), flush=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{arm}-speed.json"
        path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def main() -> None:
    """Run arms, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--data-dir", required=True, type=Path)
    runs.add_argument("--glue", required=True, type=Path)
    runs.add_argument("--arms", nargs="+", choices=[*ARMS, SIBLING, STATIC],
                      default=[*ARMS, STATIC])  # fmt: skip
    runs.add_argument("--sibling", help="the smaller model of the arm of that name")
    runs.add_argument("--limit", type=int, help="sentences, for a trial: nothing is written")
    timed = commands.add_parser("speed")
    timed.add_argument("--data-dir", required=True, type=Path)
    timed.add_argument("--arms", nargs="+", choices=list(ARMS), default=["narrow"])
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "table":
        print(table())
        return
    if args.command == "speed":
        speed(args.arms, args.data_dir)
        return
    if SIBLING in args.arms and args.sibling is None:
        parser.error("--arms sibling: needs --sibling MODEL, a Hub id or a folder")

    from bertcompress.runtimes.hardware import environment
    from bertcompress.support.quiet import silence

    silence()
    for arm in args.arms:
        if arm == SIBLING:
            found = run_sibling(args.sibling, args.data_dir, args.glue)
        elif arm == STATIC:
            found = run_static(args.data_dir, args.glue)
        else:
            found = run_arm(arm, args.data_dir, args.glue, args.limit)
        print(json.dumps(found, indent=1), flush=True)
        if args.limit is None:
            RESULTS.mkdir(parents=True, exist_ok=True)
            whole = {**found, "seed": 0, "environment": environment()}
            (RESULTS / f"{arm}.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
