"""`verify`: does an artefact compute here what it computed where it was made, and how fast?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from bertcompress.deployment import KNOWN_ANSWERS_FILE
from bertcompress.errors import InputError, MissingExtra, ModelError, NotFound, WorkerError
from bertcompress.measure.known_answers import KnownAnswers, alike, answers, read_known_answers
from bertcompress.measure.row import Row
from bertcompress.measure.timing.candidates import Candidate, busy_words, machine_load, within
from bertcompress.measure.timing.interleaved import time_candidates
from bertcompress.runtimes import all_runtimes, open_predictor, runtime_named
from bertcompress.runtimes.hardware import environment

__all__ = ["Verified", "verify"]

TOKENS = 128
"""Of the one text that is timed, where the model reads so many."""


class Verified(Row):
    """One file of an artefact on this machine."""

    file: str = Field(description="Relative to what was verified")
    runtime: str = Field(description="What ran it; the runtime that it was made for")
    precision: str = Field(description="fp32, bf16 or int8")
    passes: bool | None = Field(description="Whether it computes what it did; null: not run here")
    words: str = Field(description="How near the answers are, or why it was not run")
    tokens: int | None = Field(None, description="Of the text that was timed; null: none was")
    latency_ms: float | None = Field(None, description="Median of one such text, here")
    latency_there_ms: float | None = Field(
        None, description="Median of one text of 128 tokens where it was made"
    )


def verify(
    folder: str | Path, *, seconds: float = 5.0, threads: int | None = None
) -> tuple[list[Verified], list[str]]:
    """Replay what was recorded in a run, or in one of its folders; return rows and warnings.

    Every file is run by the runtime that it was made for, where that is installed, and timed for
    about `seconds` each; 0 times nothing. The warnings say how this machine differs from the one
    that the artefact was made on, and whether something else used it during the timing. Raises
    NotFound for a folder without recorded answers.
    """
    place = Path(folder).expanduser()
    files = [place / KNOWN_ANSWERS_FILE, *sorted(place.glob(f"*/{KNOWN_ANSWERS_FILE}"))]
    folders = {file.parent: read_known_answers(file.parent) for file in files if file.is_file()}
    if not folders:
        read_known_answers(place)  # says what is missing
    rows: list[tuple[Verified, Candidate | None]] = []
    for inner, known in folders.items():
        rows += [_row(place, inner, name, known) for name in sorted(known.answers)]
    timed = [candidate for _, candidate in rows if candidate is not None]
    timing = bool(seconds and timed)
    speeds: Iterator[dict[str, float]] = iter(())
    warnings: list[str] = []
    try:
        if timing:
            found, warnings = _speeds(timed, seconds, threads)
            speeds = iter(found)
    except (WorkerError, ModelError) as error:  # what was checked stands without its times
        warnings = [f"nothing was timed: {error}"]
    done = [
        row if candidate is None else row.model_copy(update=next(speeds, {}))
        for row, candidate in rows
    ]
    there = next(iter(folders.values())).environment
    return done, [*_warnings(there, environment(threads)), *warnings]


def _row(
    place: Path, inner: Path, name: str, known: KnownAnswers
) -> tuple[Verified, Candidate | None]:
    file = inner / name
    shown = file.relative_to(place).as_posix()
    there = known.latency_ms.get(name)
    runtime, precision = known.runs_as[name]
    path = inner if runtime_named(runtime).opens_folders else file
    fields: dict[str, Any] = {
        "file": shown,
        "runtime": runtime,
        "precision": precision,
        "latency_there_ms": there,
    }
    if not file.is_file():
        return Verified(**fields, passes=False, words="the file is missing"), None
    if words := _of_another_machine(runtime, known.built_for.get(name)):
        return Verified(**fields, passes=None, words=words), None
    try:
        predictor = open_predictor(path, runtime, None, precision)
        got = answers(predictor, known.inputs)
    except MissingExtra as error:
        return Verified(**fields, passes=None, words=str(error)), None
    except Exception as error:  # runtimes have one class per cause; the other files go on
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Verified(**fields, passes=False, words=words), None
    vectors = name in known.vectors
    passes, words = alike(got, known.answers[name], precision, vectors)
    ids = known.inputs["input_ids"]
    candidate = Candidate(
        path, runtime, precision, vocab_size=int(ids.max()) + 1, longest=_most_tokens(path)
    )
    return Verified(**fields, passes=passes, words=words), candidate


def _of_another_machine(runtime: str, built_for: str | None) -> str | None:
    """Return in words why a file that was built for one machine is not run on this one."""
    here = runtime_named(runtime).machine()
    if built_for is None or built_for == here:
        return None
    return (
        f"it was built for {built_for}, and this is {here or 'another machine'}: a file of "
        f"{runtime} does not travel; make it again here"
    )


def _speeds(
    candidates: Sequence[Candidate], seconds: float, threads: int | None
) -> tuple[list[dict[str, float]], list[str]]:
    """Return what is known of each row once its file was timed, and how busy the machine was."""
    length = within([(1, TOKENS)], candidates)[0][1]
    shape, whole = (1, length), seconds * len(candidates)
    every = time_candidates(candidates, [shape], threads=threads, rounds=5, seconds=whole)
    known = [{"tokens": length, "latency_ms": each.latency[0].p50_ms} for each in every]
    load = machine_load(every)
    return known, busy_words(load["busy_cores"], load["disturbed_rounds"])


def _most_tokens(path: Path) -> int | None:
    """Return how many tokens a file takes by the config beside it; None without one."""
    from bertcompress.models.tokenizers import longest_text  # brings torch along

    folder = path if path.is_dir() else path.parent
    return longest_text(folder, str(path)) if (folder / "config.json").is_file() else None


def _warnings(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return in words what of this machine decides on speed and answers, and is different."""
    words = []
    if there.get("processor") != here["processor"]:
        words.append(
            f"made and timed on {there.get('processor', 'an unknown processor')}, this is "
            f"{here['processor']}"
        )
    lacking = sorted(set(there.get("instruction_sets", ())) - set(here["instruction_sets"]))
    if lacking:
        words.append(
            f"this processor lacks {', '.join(lacking)}, which the artefact was tuned with: int8 "
            "may be slower here, and without VNNI it may answer differently"
        )
    versions = there.get("versions", {})
    threads = there.get("threads"), here["threads"]
    if None not in threads and threads[0] != threads[1]:
        words.append(f"timed with {threads[0]} threads there and {threads[1]} here")
    engines = {runtime.engine for runtime in all_runtimes()}
    changed = [
        f"{name} {here['versions'].get(name)} instead of {version}"
        for name, version in versions.items()
        if name in engines and here["versions"].get(name) not in (None, version)
    ]
    if changed:
        words.append(", ".join(changed))
    return words


def checked(rows: Sequence[Verified]) -> None:
    """Raise InputError where a file does not compute what it did, NotFound where none was run."""
    wrong = [row.file for row in rows if row.passes is False]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: does not compute what it did where it was made")
    if all(row.passes is None for row in rows):
        raise NotFound("verify: none of the runtimes that these files were made for is installed")
