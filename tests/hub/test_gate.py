"""What must not leave, and what must not come in: strangers, tokens, other bytes, nonsense."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests_support import first_fast

from hub.conftest import RON, Pushed, Runs
from hub.support import Site

TOKEN = "hf_" + "Secret0123456789abcdef"
STRANGERS = [".env", "key", "notes.ipynb", "run.log", "model/notes.ipynb", "onnx/key.json"]

PUSH = """
from pathlib import Path
from huggingface_hub import HfApi
from hub.stories import command
from hub.support import told
api, seen = HfApi(), {{}}
def look(name):
    return api.list_repo_files(name) if api.repo_exists(name) else None
for what, run in {runs!r}.items():
    name = {name!r} + what
    seen[what] = command("push", run, name)
    seen[what]["files"] = look(name)
told(seen)
"""


def littered(site: Site, run: Path, name: str) -> Path:
    """Return a copy of a run in which somebody left what is not to be published."""
    copy = site.folder / name
    shutil.copytree(run, copy)
    secret = site.folder / "secret"
    secret.write_text(f"key {TOKEN}", encoding="utf-8")
    for each in (".env", "notes.ipynb", "run.log", "model/notes.ipynb"):
        (copy / each).write_text(f'{{"token": "{TOKEN}"}}', encoding="utf-8")
    for each in ("key", "onnx/key.json"):
        (copy / each).symlink_to(secret)
    return copy


@pytest.fixture(scope="module")
def sent(site: Site, runs: Runs) -> dict[str, Any]:
    """Runs with something in them that has to stay, pushed in one process."""
    made = {name: littered(site, runs.stock, f"run-{name}") for name in ("with", "without")}
    (made["without"] / "manifest.json").unlink()
    for name in ("linked", "token", "outside", "broken", "deep"):
        made[name] = site.folder / f"run-{name}"
        shutil.copytree(runs.stock, made[name])
    link = made["linked"] / "onnx" / "tokenizer_config.json"
    link.unlink()
    link.symlink_to(site.folder / "secret")
    with (made["token"] / "onnx" / "model.onnx").open("ab") as stream:
        stream.write(f" {TOKEN} ".encode())
    wrong = {"outside": '{"format": 1, "files": ["../secret"]}', "broken": '{"format": "x"}'}
    wrong["deep"] = "[" * 100_000
    for name, text in wrong.items():
        (made[name] / "manifest.json").write_text(text, encoding="utf-8")
    program = PUSH.format(runs={n: str(p) for n, p in made.items()}, name=site.id("gate"))
    for name in made:
        site.id(f"gate{name}")
    return site.child(program, token=site.token).told  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["with", "without"])
def test_only_the_runs_own_files_go_up(sent: dict[str, Any], runs: Runs, what: str) -> None:
    said = sent[what]
    assert said["code"] == 0, said["err"]
    own = {path for path in json.loads((runs.stock / "manifest.json").read_text())["files"]}
    expected = {path.removeprefix("model/") for path in own}
    assert set(said["files"]) == expected | {".gitattributes"}
    assert {"config.json", "model.safetensors", "onnx/model.onnx", "report.html"} <= expected
    (line,) = (line for line in said["err"].splitlines() if line.startswith("left here"))
    assert all(stranger in line for stranger in STRANGERS)
    assert "stages" not in line


@pytest.mark.slow
def test_no_link_is_followed(sent: dict[str, Any]) -> None:
    said = sent["linked"]
    assert said["code"] == 0, said["err"]
    assert "onnx/tokenizer_config.json" not in said["files"]
    assert "onnx/tokenizer_config.json" in said["err"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("token", ["onnx/model.onnx", "looks like a token", "nothing was sent"]),
        ("outside", ["manifest.json", "'../secret' is no file of a run"]),
        ("broken", ["manifest.json", "format"]),
        ("deep", ["manifest.json", "nested too deep"]),
    ],
)
def test_a_run_that_is_not_clean_is_refused_whole(
    sent: dict[str, Any], what: str, words: list[str]
) -> None:
    said = sent[what]
    assert said["code"] == 2
    assert said["files"] is None
    last = said["err"].splitlines()[-1]
    assert last.startswith("error: ")
    assert all(word in last for word in words)
    assert TOKEN not in said["err"]


def test_the_right_to_write_is_asked_for_first(faulty: Site, runs: Runs) -> None:
    assert faulty.local is not None
    begin = len(faulty.local.log)
    said = faulty.command("push", runs.stock, "ron/new", token=RON, fails=True)
    assert said.code == 2
    assert "no right to write; it may only read" in said.err
    assert {(e.method, e.path) for e in faulty.local.log[begin:]} == {("GET", "/api/whoami-v2")}
    # Nor is anything downloaded for a place that cannot be written.
    blocked = faulty.folder / "blocked"
    blocked.write_text("a file", encoding="utf-8")
    said = faulty.command("pull", "ann/any", blocked / "x", token=faulty.token, fails=True)
    assert said.code == 2
    assert "cannot be written" in said.err
    assert not [e for e in faulty.local.log[begin + 1 :] if "ann/any" in e.path]


PULL = """
import shutil
from pathlib import Path
from huggingface_hub import constants
from hub.stories import command, faults, impatient
from hub.support import told
from bertcompress.hub import bounding
impatient()
bounding.MOST_BYTES = 60_000
seen, place = {{}}, Path({place!r})
def pull(what, *broken):
    if what != "again":  # in the cache lies what came whole
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    faults(*broken)
    seen[what] = command("pull", {name!r}, place / what)
    faults()
    seen[what]["left"] = sorted(path.name for path in place.iterdir())
for what, answer in {answers!r}.items():
    pull(what, {{"pattern": "GET /api/models", "body": answer, "times": 99}})
pull("words", {{"pattern": "GET /api/models", "status": 403, "times": 99,
               "message": "\\x1b[31mred[/red] " + "x" * 50_000}})
pull("large", {{"pattern": "GET .*/resolve/.*/model.safetensors", "corrupt": True, "times": 9}})
pull("small", {{"pattern": "GET .*/resolve/.*/recipe.yaml", "corrupt": True, "times": 9}})
pull("again")
told(seen)
"""


def listing(siblings: Any, sha: Any = "0" * 40) -> str:
    return json.dumps({"id": "a/b", "sha": sha, "siblings": siblings})


ANSWERS = {
    "list": "[]",
    "null": "null",
    "number": "17",
    "no json": "<html>",
    "empty": "{}",
    "no commit": '{"id": "a/b", "siblings": []}',
    "other commit": listing([{"rfilename": "x"}], sha=7),
    "siblings": listing(3),
    "nameless": listing([{}]),
    "outside": listing([{"rfilename": "../../evil"}]),
    "size": listing([{"rfilename": "x", "size": "y"}]),
    "deep": "[" * 20_000,
    "endless": json.dumps({"id": "a/b", "sha": "0" * 40, "siblings": [], "more": "x" * 70_000}),
}


@pytest.fixture(scope="module")
def pulled(site: Site, pushed: Pushed) -> dict[str, Any]:
    """Pulls from a server that answers nonsense, or other bytes."""
    if site.local is None:
        pytest.skip("this server is not ours: nothing can be made to go wrong in it")
    place = site.folder / "gate-pulled"
    place.mkdir()
    program = PULL.format(place=str(place), name=pushed.stock, answers=ANSWERS)
    return site.child(program, token=site.token).told  # type: ignore[no-any-return]


@pytest.mark.parametrize("what", [*ANSWERS, "large", "small", "words"])
def test_nonsense_and_other_bytes_leave_nothing(pulled: dict[str, Any], what: str) -> None:
    said = pulled[what]
    assert said["code"] == 2
    assert not said["left"]
    last = said["err"].splitlines()[-1]
    assert last.startswith("error: ")
    assert len(last) < 6_000
    assert "Traceback" not in said["err"]
    assert "\x1b" not in said["err"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("large", "the bytes of model.safetensors are not those that were announced"),
        ("small", "the bytes of recipe.yaml are not those that were announced"),
        ("outside", "lists '../../evil', which is no name of a file"),
        ("words", "\\x1b[31mred[/red]"),
        ("endless", "an answer of more than 0 MB"),
    ],
)
def test_what_was_wrong_is_said(pulled: dict[str, Any], what: str, words: str) -> None:
    assert words in pulled[what]["err"]


def test_another_try_gets_the_bytes_anew(pulled: dict[str, Any]) -> None:
    assert pulled["again"]["code"] == 0, pulled["again"]["err"]
    assert pulled["again"]["left"] == ["again"]


SLOW = """
import sys
from bertcompress.hub import waiting
from bertcompress.support import progress
class Told(progress.tqdm):
    def __init__(self, items, what, total, **how):
        super().__init__(items, what, total, **how)
        self.moved, self.words = 0, (what, total)
    def update(self, n=1):
        self.moved += n
        print(f"bar {{self.words[0]}} {{self.moved}} of {{self.words[1]}}", file=sys.stderr)
progress.tqdm = Told
waiting.SLOW_S, waiting.GIVE_UP_S = 0.5, {give_up}
sys.argv[1:] = {words!r}
from bertcompress.cli.main import main
main()
"""


@pytest.mark.parametrize("verb", first_fast(["pull", "push"]))
def test_a_slow_server_is_said_to_be_slow_and_can_be_interrupted(
    faulty: Site, runs: Runs, pushed: Pushed, verb: str
) -> None:
    assert faulty.local is not None
    new = faulty.id("slow")
    words = {
        "pull": ["pull", pushed.stock, str(faulty.folder / "slow")],
        "push": ["push", str(runs.stock), new],
    }[verb]
    slow = {"pull": "GET .*/resolve/.*/report.html", "push": "POST .*/preupload/"}[verb]
    faulty.local.faults.add(slow, drip_s=0.05, times=99)
    program = SLOW.format(give_up=999, words=words)
    process = faulty.start(program, token=faulty.token, PYTHONUNBUFFERED="1")
    assert process.stderr is not None
    name, moved, total = "", 0, 0
    for line in process.stderr:
        for found in re.findall(r"bar (\w+) (\d+) of (\d+)", line):
            name, moved, total = found[0], int(found[1]), int(found[2])
        # Of a file nothing is sent before the server has answered.
        if ": slow, " in line and (moved or verb == "push"):
            break
    assert name == {"pull": "downloading", "push": "sending"}[verb]
    assert moved < total
    assert total > (runs.stock / "onnx" / "model.onnx").stat().st_size
    assert "Ctrl-C stops it" in line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert not (faulty.folder / "slow").exists()


@pytest.mark.slow
def test_a_dead_server_is_given_up(faulty: Site, pushed: Pushed) -> None:
    assert faulty.local is not None
    faulty.local.faults.add("GET .*/resolve/.*/report.html", drip_s=0.2, times=99)
    words = ["pull", pushed.stock, str(faulty.folder / "dead")]
    program = SLOW.format(give_up=1.0, words=words)
    said = faulty.child(program, token=faulty.token, fails=True)
    assert said.code == 2
    assert "given up, the server is too slow" in said.err
    assert os.listdir(faulty.folder).count("dead") == 0


def test_what_was_written_is_for_others_to_read(runs: Runs) -> None:
    usual = (runs.stock / "report.md").stat().st_mode & 0o777
    files = json.loads((runs.stock / "manifest.json").read_text())["files"]
    assert {name: (runs.stock / name).stat().st_mode & 0o777 for name in files} == dict.fromkeys(
        files, usual
    )
