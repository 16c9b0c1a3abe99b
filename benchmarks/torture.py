"""What a run survives: kills at random moments, pairs of processes, damaged inputs.

    python benchmarks/torture.py all                       an hour of two cores
    python benchmarks/torture.py kills|pairs|folders|inputs [--count N] [--first N]
    python benchmarks/torture.py table                     the table of docs/reliability.md

What is in the result file is not done again: it goes on where it stopped. Each case is a process
forked from this one, with a stage store of its own; see docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torture_material as material
from torture_compare import differing, fingerprint
from torture_inputs import KINDS, mutate
from torture_process import GIB, Command, Ended, warm

RESULT = Path(__file__).parent / "results" / "torture.json"
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
COUNTS = {"kills": 100, "pairs": 20, "folders": 20, "inputs": 2_000}
SECONDS, WAIT, MEMORY = 60, 300.0, GIB
"""What a command on a damaged input may take: seconds of a processor, seconds on the wall (however
busy the machine is), and bytes beyond those of the imported libraries."""
SMALLEST_MB, LARGEST_MB = 0.06, 300.0
RUN = ["run", "recipe.yaml", "--out", "out"]
Record = dict[str, Any]


def _place(base: Path, name: str) -> Path:
    """Return a new folder of a case, with a store of its own."""
    place = base / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def _start(place: Path, recipe: Path, *more: str, home: str = "home") -> Command:
    arguments = ["run", str(recipe), "--out", "out", *more]
    return Command(arguments, place, environment={"BERTCOMPRESS_HOME": str(place / home)})


def _judge(end: Ended, place: Path, calm: dict[str, str], out: str = "out") -> str:
    """Return what is wrong with a run that ended, against an undisturbed one; empty: nothing."""
    if end.status or "Traceback" in end.err:
        return f"status {end.status}: {end.err.strip()[-200:]}"
    left = [path.name for path in place.glob(f".{out}*")]
    return ", ".join(left + differing(calm, fingerprint(place / out)))


class Torture:
    """The material and an undisturbed run to compare with."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.place = base / "material"
        material.make(self.place)
        self.recipe = self.place / "recipe.yaml"
        self.hub: Any = None
        """What answers for `me/tiny`; set by `prepared`."""

    def calm(self, recipe: Path) -> tuple[dict[str, str], float]:
        """Return the fingerprint and the seconds of an undisturbed run."""
        place = _place(self.base, "calm")
        end = _start(place, recipe).wait()
        assert end.status == 0, end.err
        return fingerprint(place / "out"), end.seconds

    def kills(self, number: int, calm: tuple[dict[str, str], float]) -> Record:
        """Kill a run at a random moment, now and then the second attempt too; it must go on."""
        draw, place = random.Random(f"kill {number}"), _place(self.base, "kill")
        moments = [draw.random() * calm[1] for _ in range(draw.choice([1, 1, 1, 2]))]
        more: list[str] = []
        for attempt, moment in enumerate(moments):
            command = _start(place, self.recipe, *more, home=f"home-{attempt}")
            time.sleep(moment)
            command.signal(signal.SIGKILL)
            command.wait()
            more = ["--resume"]
        stages = len(list(place.glob(".out.partial/stages/*/stage.json")))
        end = _start(place, self.recipe, "--resume", home="home-last").wait()
        return {"at": moments, "stages": stages, "wrong": _judge(end, place, calm[0])}

    def pairs(self, number: int, calm: tuple[dict[str, str], float]) -> Record:
        """Two runs of one recipe into two folders share a store; both must come out."""
        draw, place = random.Random(f"pair {number}"), _place(self.base, "pair")
        first, second = place / "a", place / "b"
        environment = {"BERTCOMPRESS_HOME": str(place / "home")}
        commands = []
        for folder in (first, second):
            folder.mkdir()
            arguments = ["run", str(self.recipe), "--out", "out"]
            commands.append(Command(arguments, folder, environment=environment))
            time.sleep(draw.choice([0.0, 0.0, draw.random()]))
        wrong = [
            _judge(command.wait(), folder, calm[0])
            for command, folder in zip(commands, (first, second), strict=True)
        ]
        left = [path.name for path in (place / "home" / "stages").glob(".*")]
        return {"wrong": "; ".join(filter(None, [*wrong, *left]))}

    def folders(self, number: int, _: Any) -> Record:
        """Two runs into one folder: one is refused; the first is killed, and another takes over."""
        size = SMALLEST_MB * (LARGEST_MB / SMALLEST_MB) ** (number % 20 / 19)
        recipe = self._sized(size)
        calm, seconds = self.calm(recipe)
        draw, place = random.Random(f"folder {number}"), _place(self.base, "folder")
        first = _start(place, recipe)
        until = time.monotonic() + WAIT
        while not (place / ".out.lock").exists() and time.monotonic() < until:
            time.sleep(0.005)
        second = _start(place, recipe, draw.choice(["--resume", "--fresh"])).wait()
        refused = second.status == 2 and "is working on it" in second.err
        time.sleep(draw.random() * max(seconds - second.seconds, 0.0))
        first.signal(signal.SIGKILL)
        ended = first.wait()
        # Where it was at its end before, the second heard of a finished run.
        words = "" if refused or not ended.status else f"not refused: {second.err[-200:]}"
        end = _start(place, recipe, "--resume").wait()
        wrong = "; ".join(filter(None, [words, _judge(end, place, calm)]))
        return {"mb": round(size, 2), "refused": refused, "wrong": wrong}

    def _sized(self, megabytes: float) -> Path:
        """Return a recipe that cuts a model of a size, most of it an embedding table."""
        place = self.base / f"sized-{megabytes:.2f}"
        if not (place / "recipe.yaml").exists():
            for old in self.base.glob("sized-*"):
                shutil.rmtree(old)
            words = max(int(megabytes * 1e6 / 4 / 64), len(material.WORDS) + 5)
            material.make(place, vocab_size=words, hidden_size=64)
            cut = [{"prune_structured": {"keep": 0.5, "rows": 16}}]
            material.write_recipe(place / "recipe.yaml", "tuned", cut)
        return place / "recipe.yaml"

    def inputs(self, number: int, whole: Path) -> Record:
        """Damage one input; the command must answer, or refuse it in one line."""
        kind = list(KINDS)[number % len(KINDS)]
        place = self.base / "input"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place, copy_function=os.link)
        arguments = mutate(kind, place, number)
        self.hub.draw = random.Random(f"hub {number}") if kind == "hub" else None
        home = {"BERTCOMPRESS_HOME": str(place / "home"), "HF_HOME": str(place / "hf")}
        limits = {"memory": MEMORY, "cpu_seconds": SECONDS}
        end = Command(arguments, place, environment=home, **limits).wait(WAIT)
        self.hub.draw = None
        record: Record = {"kind": kind, "s": round(end.cpu_seconds, 1), "mb": round(end.peak_mb)}
        return record | {"status": end.status, "wrong": _refusal(end)}

    def whole(self) -> Path:
        """Return the undamaged inputs: those of runs, and a run that ships ONNX files."""
        place = self.base / "whole"
        if not (place / "ship" / "report.json").exists():
            _place(self.base, "whole")
            material.make(place)
            cut = [{"prune_structured": {"keep": 0.5, "rows": 16}}]
            material.write_recipe(place / "lines.yaml", "tuned", cut, "jsonl")
            shutil.move(place / "task.yaml", place / "lines.yaml")
            int8 = {"quantize_int8": {"runtimes": ["onnxruntime"]}}
            material.write_recipe(place / "ship.yaml", "tuned", [*cut, int8])
            material.write_recipe(place / "cut.yaml", "tuned", cut)
            environment = {"BERTCOMPRESS_HOME": str(place / "home")}
            end = Command(["run", "ship.yaml", "--out", "ship"], place, environment=environment)
            assert end.wait().status == 0, "the undamaged run failed"
            shutil.rmtree(place / "home")
            for name in ("task.yaml", "lines.yaml", "cut.yaml"):  # each case has files of its own
                text = (place / name).read_text(encoding="utf-8")
                (place / name).write_text(text.replace(f"{place}/", ""), encoding="utf-8")
        return place


def _refusal(end: Ended) -> str:
    """Return what is wrong with how a command took a damaged input; empty: nothing."""
    lines = [line for line in end.err.splitlines() if line.startswith("error: ")]
    if end.late:
        return f"no end within {WAIT:.0f} s"
    if "Traceback" in end.err or end.status not in (0, 1, 2):
        return f"status {end.status}: {end.err.strip()[-300:]}"
    if end.status and len(lines) != 1:
        return f"{len(lines)} lines of error: {end.err.strip()[-300:]}"
    return ""


def results() -> dict[str, dict[str, Record]]:
    """Return what was done so far, by part and number."""
    if RESULT.is_file():
        return json.loads(RESULT.read_text(encoding="utf-8"))
    return {}


def record(part: str, number: int, made: Record) -> None:
    """Add a case to the result file."""
    all_ = results()
    all_.setdefault(part, {})[str(number)] = made
    lines = [
        f'"{name}": {{\n' + ",\n".join(f'"{n}": {json.dumps(r)}' for n, r in rows.items()) + "\n}"
        for name, rows in all_.items()
    ]
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    temporary.replace(RESULT)


def go(part: str, count: int, first: int, torture: Torture) -> None:
    """Do the cases of a part that were not done before."""
    missing = [n for n in range(first, first + count) if str(n) not in results().get(part, {})]
    if not missing:
        return
    made: Callable[[int, Any], Record] = getattr(torture, part)
    given: Any = None
    if part in ("kills", "pairs"):
        given = torture.calm(torture.recipe)
    elif part == "inputs":
        given = torture.whole()
    for number in missing:
        row = made(number, given)
        record(part, number, row)
        print(part, number, row, flush=True)


def table() -> str:
    """Return the summary of the result file as Markdown."""
    lines = ["| what | cases | as promised | notes |", "|---|---|---|---|"]
    done = results()
    names = {
        "kills": "killed at a random moment, resumed, every file compared",
        "pairs": "two runs at once, one stage store",
        "folders": "two runs at once, one folder, 60 kB to 300 MB",
    }
    for part, what in names.items():
        rows = list(done.get(part, {}).values())
        lines.append(_row(what, rows, _note(part, rows)))
    for kind in KINDS:
        rows = [row for row in done.get("inputs", {}).values() if row["kind"] == kind]
        lines.append(_row(f"damaged: {kind}", rows, _note("inputs", rows)))
    return "\n".join(lines) + "\n"


def _row(what: str, rows: list[Record], note: str) -> str:
    good = sum(not row["wrong"] for row in rows)
    return f"| {what} | {len(rows)} | {good} | {note} |"


def _note(part: str, rows: list[Record]) -> str:
    if not rows:
        return "not run"
    if part == "kills":
        twice = sum(len(row["at"]) > 1 for row in rows)
        later = statistics.median(row["stages"] for row in rows)
        return f"{twice} killed twice; {later:.0f} stages were done, in the median"
    if part == "folders":
        return f"{sum(row['refused'] for row in rows)} refused while the first lived"
    if part == "pairs":
        return "both whole"
    refused = sum(row["status"] != 0 for row in rows)
    slowest, most = max(row["s"] for row in rows), max(row["mb"] for row in rows)
    return f"{refused} refused in one line; at most {slowest:.0f} s and {most:,} MB"


def write_table() -> None:
    """Put the table between its marks in the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split("<!-- torture -->\n", 1)
    tail = rest.split("<!-- torture: end -->", 1)[1]
    marks = "<!-- torture -->\n", "<!-- torture: end -->"
    PAGE.write_text(f"{head}{marks[0]}{table()}{marks[1]}{tail}", encoding="utf-8")


def main() -> None:
    """Parse the arguments and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*COUNTS, "all", "table"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "torture")
    given = parser.parse_args()
    if given.part == "table":
        write_table()
        return
    torture = prepared(given.folder)
    for part in COUNTS if given.part == "all" else [given.part]:
        go(part, given.count or COUNTS[part], given.first, torture)


def prepared(folder: Path) -> Torture:
    """Return the torture in a folder, this process being ready to be forked."""
    from torture_hub import BadHub

    torture = Torture(folder)
    torture.hub = BadHub(torture.place / "tuned")
    # Read by the Hub's client when it is imported.
    os.environ |= {
        "HF_ENDPOINT": torture.hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    warm()
    import torch

    torch.set_num_threads(1)
    return torture


if __name__ == "__main__":
    sys.exit(main())
