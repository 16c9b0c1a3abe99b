"""How a command ends that the machine, the shell or the user ends: a line, a status, no ruins."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_locking import hold

import bertcompress
import bertcompress.cli.errors
from bertcompress.cli.main import main

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import torture_material
from endings_support import (
    Command,
    closed_output,
    closed_pipe,
    few_open_files,
    full_output,
    limited_files,
    no_temporary_folder,
    stubborn,
)
from torture_process import Ended

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are forked")
METHODS = [{"finetune": {**torture_material.TRAIN, "epochs": 3}}]
RUN = ["run", "recipe.yaml", "--out", "out"]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    place = tmp_path_factory.mktemp("endings")
    torture_material.make(place)
    torture_material.write_recipe(place / "recipe.yaml", "bare", METHODS)
    return place


@pytest.fixture
def place(material, monkeypatch):
    """A folder that holds what a run needs, and is to hold no more than its run afterwards."""
    monkeypatch.chdir(material)
    yield material
    for path in [*material.glob("out*"), *material.glob(".out*")]:
        subprocess.run(["rm", "-rf", path], check=True)


def told(end: Ended) -> list[str]:
    """The lines that are no words about what is going on."""
    assert "Traceback" not in end.err + end.out
    return [line for line in end.err.splitlines() if line.startswith(("error", "note", "Exc"))]


def start(place: Path, *more: str) -> Command:
    """Start a run, and return it once it trains."""
    command = Command([*RUN, *more], place)
    deadline = time.monotonic() + 120
    while not list(place.glob(".out.partial/work/*/training/checkpoint-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return command


@pytest.mark.parametrize(
    ("signals", "status", "words"),
    [
        (["SIGTERM"], 143, "terminated"),
        (["SIGINT", "SIGINT"], 130, "interrupted"),
        pytest.param(["SIGINT"], 130, "interrupted", marks=pytest.mark.slow),
        pytest.param(["SIGHUP"], 129, "the terminal went away", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_in_order(place, signals, status, words):
    command = start(place)
    for name in signals:
        command.signal(getattr(signal, name))
        time.sleep(0.01)
    end = command.wait(60)
    assert (end.status, told(end)) == (status, [f"error: {words}; add --resume to go on"])
    assert not (place / "out").exists()
    assert (place / ".out.partial" / "recipe.yaml").is_file()
    if signals == ["SIGTERM"]:
        again = Command([*RUN, "--resume"], place).wait(120)
        assert (again.status, told(again)) == (0, [])
        assert (place / "out" / "report.json").is_file()
        assert not list(place.glob(".out*"))


def test_who_does_not_end_in_order_ends_at_once(place):
    command = Command(RUN, place, before=stubborn)
    deadline = time.monotonic() + 60
    while not (place / "out-busy").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(2):
        command.signal(signal.SIGINT)
        time.sleep(0.2)
    end = command.wait(60)
    assert (end.status, told(end)) == (130, ["error: interrupted; add --resume to go on"])


@pytest.mark.slow
def test_a_file_limit_is_a_line_and_what_is_done_is_kept(place):
    end = Command(RUN, place, before=limited_files).wait(120)
    assert end.status == 2
    (line,) = told(end)
    assert "cannot write the checkpoint: a file may not become that large here (ulimit -f)" in line
    assert not (place / "out").exists()
    assert not list(place.glob(".out.partial/**/checkpoint-*/state.pt"))
    assert Command([*RUN, "--resume"], place).wait(120).status == 0


def test_too_many_open_files_is_a_line(place):
    end = Command(RUN, place, before=few_open_files).wait(120)
    assert end.status == 2, end.err
    (line,) = told(end)
    assert "raise the limit on open files (ulimit -n)" in line
    assert not (place / "out").exists()


def test_no_temporary_folder_is_found_out_first(place):
    end = Command(RUN, place, before=no_temporary_folder).wait(120)
    assert end.status == 2
    assert told(end) == [
        "error: no temporary folder can be written to; make room, or set TMPDIR to one"
    ]
    assert not list(place.glob(".out*"))


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (".", "exists already; choose another --out"),
        ("..", "exists already"),
        ("/", "exists already"),
        ("x" * 250, "a name of 250 bytes; at most 200 fit"),
        ("é" * 120, "a name of 240 bytes; at most 200 fit"),
        ("x/" * 3_000 + "y", "File name too long"),
        ("dangling", "exists already"),
    ],
    ids=["here", "above", "root", "long", "accents", "deep", "link"],
)
def test_an_out_that_cannot_be(place, monkeypatch, capsys, out, words):
    if out == "dangling":
        (place / "out-link").symlink_to("nowhere")
        out = "out-link"
    before = sorted(place.iterdir())
    monkeypatch.setattr(sys, "argv", ["bertcompress", "run", "recipe.yaml", "--out", out])
    with pytest.raises(SystemExit) as end:
        main()
    text = capsys.readouterr().err
    assert end.value.code == 2
    assert words in text
    assert len(text.splitlines()) == 1
    assert len(text) < 200 or len(out) > 1_000
    assert sorted(place.iterdir()) == before


def test_a_seed_that_nothing_takes(place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bertcompress", *RUN, "--seed", str(2**32)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "seed: Input should be less than or equal to 4294967295" in capsys.readouterr().err


def test_an_ascii_terminal_shows_what_it_can(place, monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    (place / "out-é.yaml").write_text("model: tuned\ndescription: é→漢\n", encoding="utf-8")
    for arguments in (["show", "out-é.yaml"], ["show", "none-é.yaml"], ["list", "methods"]):
        monkeypatch.setattr(sys, "argv", ["bertcompress", *arguments])
        with pytest.raises(SystemExit):
            main()
    shown = {}
    for name, stream in streams.items():
        stream.flush()
        shown[name] = stream.buffer.getvalue().decode("ascii")
    assert "\\xe9\\u2192\\u6f22" in shown["stdout"]
    assert "none-\\xe9.yaml" in shown["stderr"]


@pytest.mark.parametrize(
    ("before", "status", "lines"),
    [
        (closed_pipe, 141, 0),
        (full_output, 2, 1),
        (closed_output, 0, 0),
    ],
    ids=["nobody reads", "full", "closed"],
)
@pytest.mark.parametrize("arguments", [["list", "methods"], ["--help"], ["show", "small"]], ids=str)
def test_where_nothing_can_be_printed(place, arguments, before, status, lines):
    end = Command(arguments, place, before=before).wait(60)
    assert (end.status, len(end.err.splitlines())) == (status, lines), end.err
    assert len(told(end)) == lines


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_lives(place):
    first = hold(place / "out")
    try:
        for more in ([], ["--resume"], ["--fresh"]):
            end = Command([*RUN, *more], place).wait(60)
            assert end.status == 2
            (line,) = told(end)
            assert f"out: process {first.pid} on" in line
    finally:
        first.kill()
        first.communicate()
    assert Command([*RUN, "--resume"], place).wait(120).status == 0
    assert not list(place.glob(".out*"))


BUSY = """
import sys, time
from bertcompress.measure.timing import worker
worker.Worker.answer = lambda self, request: time.sleep(300)
worker.main()
"""


def test_a_worker_ends_with_its_parent_in_the_middle_of_its_work():
    environment = {**os.environ, "PYTHONPATH": str(Path(bertcompress.__file__).parents[1])}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], env=environment, stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    process.stdin.write(b'{"do": "time"}\n')
    process.stdin.close()  # as the end of the parent does
    assert process.wait(60) == 0
    process.stdout.close()


PARENT = """
import sys, time
from bertcompress.measure.timing.process import WorkerProcess
with WorkerProcess("x") as worker:
    print(worker.pid, flush=True)
    time.sleep(300)
"""


def test_no_worker_outlives_a_killed_parent():
    environment = {**os.environ, "PYTHONPATH": str(Path(bertcompress.__file__).parents[1])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    worker.wait(60)
