"""The lock on a run's folder: one living process at a time, here or elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import bertcompress
from bertcompress.errors import OutputError
from bertcompress.support import locking
from bertcompress.support.locking import locked

HOLDER = """
import sys, time
from pathlib import Path
from bertcompress.support.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""
ELSEWHERE = """filelock/2
pid=4321
host=elsewhere
mode=lease
token=0123456789abcdef0123456789abcdef
duration={lease}
start=1
"""


@pytest.fixture
def quick(monkeypatch):
    """A lease of a second, so that nobody waits a minute for a dead machine."""
    monkeypatch.setattr(locking, "LEASE_S", 1.0)
    monkeypatch.setattr(locking, "BEAT_S", 0.1)


def hold(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock on a folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(bertcompress.__file__).parents[1])}
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_living_holder_is_named_and_a_dead_one_replaced(tmp_path):
    folder = tmp_path / "deep" / "run"
    process = hold(folder)
    try:
        told: list[str] = []
        words = rf"run: process {process.pid} on \S+ is working on it; .*--resume goes on"
        with pytest.raises(OutputError, match=words), locked(folder, told.append):
            pytest.fail("the body must not run")
        assert len(told) == 1
    finally:
        process.kill()
        process.communicate()
    start = time.monotonic()
    with locked(folder):
        assert time.monotonic() - start < locking.LEASE_S / 2  # its death is seen, not waited for
    assert list(folder.parent.iterdir()) == []


def test_another_thread_is_another_holder(tmp_path, quick):
    folder = tmp_path / "run"
    with locked(folder), pytest.raises(OutputError, match="working on it"), locked(folder):
        pytest.fail("the body must not run")
    with locked(tmp_path / "run"):
        pass


def test_a_dead_machine_is_waited_out(tmp_path, quick):
    (tmp_path / ".run.lock").write_text(ELSEWHERE.format(lease=1.0))
    told: list[str] = []
    start = time.monotonic()
    with locked(tmp_path / "run", told.append) as held:
        assert time.monotonic() - start >= 1.0
        held.check()
    assert told == [f"{tmp_path}/run: is process 4321 on elsewhere alive? watching its lock"]


def test_a_living_machine_is_not_robbed(tmp_path, quick):
    """Whatever its clock says: the file changes, and that is all that is asked."""
    file = tmp_path / ".run.lock"
    file.write_text(ELSEWHERE.format(lease=1.0))
    end = threading.Event()

    def beat() -> None:
        for second in range(1_000):
            os.utime(file, (second, second))
            if end.wait(0.1):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with (
            pytest.raises(OutputError, match="process 4321 on elsewhere is working on it"),
            locked(tmp_path / "run"),
        ):
            pytest.fail("the body must not run")
    finally:
        end.set()
        thread.join()
    assert file.exists()


def test_who_slept_too_long_writes_nothing_more(tmp_path, quick):
    with locked(tmp_path / "run") as held:
        held.check()
        file = tmp_path / ".run.lock"
        file.unlink()
        file.write_text(ELSEWHERE.format(lease=1.0))  # another one took over
        deadline = time.monotonic() + 20
        with pytest.raises(OutputError, match="another process took over"):
            while time.monotonic() < deadline:
                held.check()
                time.sleep(0.05)
    assert "elsewhere" in file.read_text()  # what is not ours stays


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "file" / "run"):
        pytest.fail("the body must not run")
