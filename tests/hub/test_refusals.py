"""A push that cannot work: which kind of failure is told, nothing is committed, no token shown."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hub.conftest import Pushed, Runs
from hub.support import Site

pytestmark = pytest.mark.slow

STORY = """
from pathlib import Path
from huggingface_hub import HfApi
from hub.stories import as_user, command, faults, impatient
from hub.support import told
impatient()

api, run, bad_card, public, private = HfApi(), {run!r}, {bad_card!r}, {public!r}, {private!r}
new = public + "-new"
heads = lambda: [api.repo_info(name).sha for name in (public, private)]
seen, before = {{}}, heads()
with as_user(None):
    seen["no token"] = command("push", run, public)
with as_user("hf_" + "wrong" * 5):
    seen["wrong token"] = command("push", run, public)
with as_user({other!r}):
    seen["not mine"] = command("push", run, public)
    seen["not seen"] = command("push", run, private)
    seen["no pull request"] = command("push", run, private, "--create-pr")
seen["name"] = command("push", run, "no-owner")
seen["odd name"] = command("push", run, {me!r} + "/a--b")
seen["no run"] = command("push", Path(run) / "model", public)
seen["both"] = command("push", run, public, "--create-pr", "--revision", "dev")
seen["public"] = command("push", run, public, "--private")
seen["card"] = command("push", bad_card, new)
seen["untouched"] = heads() == before
seen["empty"] = api.list_repo_files(new)

upload = HfApi.preupload_lfs_files
def overtaken(self, repo_id, *args, **options):
    upload(self, repo_id, *args, **options)
    HfApi.preupload_lfs_files = upload
    api.upload_file(repo_id=repo_id, path_or_fileobj=b"theirs", path_in_repo="theirs.md")
HfApi.preupload_lfs_files = overtaken
seen["moved"] = command("push", run, new)
seen["theirs"] = api.list_repo_files(new)
api.delete_repo(new)

with as_user("no-usual-token"):
    from bertcompress.publish.contents import contents
    seen["leaks"] = [
        place
        for place, content in contents(Path({leaky!r}), "me/x")
        if b"no-usual-token" in (content if isinstance(content, bytes) else content.read_bytes())
    ]
"""

FAULTS = """
run, name = {broken!r}, {name!r}
def state():
    return [api.list_repo_files(name), len(api.list_repo_commits(name))]
def push(*broken):
    faults(*broken)
    said = command("push", run, name)
    faults()
    return said
def always(pattern, status):
    return push({{"pattern": pattern, "status": status, "times": 99}})

seen["create"] = always("POST /api/repos/create", 500)
api.create_repo(name)
seen["half"] = push({{"pattern": "PUT /lfs/", "times": 99}})
seen["expired"] = always("PUT /lfs/", 403)
seen["stuck"] = always("POST .*/commit/", 503)
seen["late"] = always("POST .*/commit/", 429)
seen["nothing"] = state()
seen["now and then"] = push(
    {{"pattern": "POST /api/repos/create", "status": 429}},
    {{"pattern": "GET /api/models", "status": 500}},
    {{"pattern": "POST /api/validate-yaml", "status": 502}},
    {{"pattern": "PUT /lfs/", "status": 500}},
    {{"pattern": "PUT /lfs/"}},
    {{"pattern": "POST .*/commit/", "status": 503}},
    {{"pattern": "POST .*/commit/", "status": 500, "after": True}},
)
seen["all"] = state()
faults({{"pattern": "/resolve/.*/report.md", "status": 503, "times": 99}})
seen["no pull"] = command("pull", name, run + "-not-pulled")
faults(
    {{"pattern": "GET /api/models", "status": 429}},
    {{"pattern": "GET /api/models/.*/tree", "status": 500}},
    {{"pattern": "/resolve/.*/README.md", "status": 503}},
    {{"pattern": "GET .*/resolve/.*/report.html"}},
)
seen["pull"] = command("pull", name, run + "-pulled")
faults()
seen["there"] = [Path(run + end).exists() for end in ("-pulled/report.html", "-not-pulled")]
"""


@pytest.fixture(scope="module")
def story(site: Site, runs: Runs, pushed: Pushed) -> dict[str, Any]:
    """All that a server can hold against a push, in one process."""
    program = STORY + (FAULTS if site.local else "") + "told(seen)"
    program = program.format(
        run=str(runs.cut),
        bad_card=str(changed(site, runs.stock, "bad-card", BAD_CARD)),
        leaky=str(changed(site, runs.stock, "leaky", LEAKY)),
        broken=str(changed(site, runs.cut, "broken", BROKEN)),
        name=site.id("faults"),
        public=pushed.stock,
        private=pushed.cut,
        other=site.other,
        me=site.me,
    )
    return site.child(program, token=site.token).told  # type: ignore[no-any-return]


BAD_CARD = {"model/README.md": lambda old: old.replace(b"apache-2.0", b"whatever")}
LEAKY = {
    name: lambda old: old.replace(b"finetune", b"finetune no-usual-token")
    for name in ("report.json", "report.md", "report.html", "environment.json")
}
BROKEN = {"onnx/model.onnx": lambda _: bytes(100_000)}
"""The server keeps contents by their hash, and would not ask for the old ones again."""


def changed(site: Site, run: Path, name: str, changes: dict[str, Any]) -> Path:
    """Return a copy of a run with other bytes in some files."""
    copy = site.folder / name
    shutil.copytree(run, copy)
    for place, change in changes.items():
        (copy / place).write_bytes(change((copy / place).read_bytes()))
    return copy


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no token", ["no token", "HF_TOKEN", "hf auth login"]),
        ("wrong token", ["token", "HF_TOKEN"]),
        ("not mine", ["no right"]),
        ("not seen", ["no right"]),
        ("no pull request", ["no such repository", "private and this token may not see it"]),
        ("name", ["not a valid name", "owner/name"]),
        ("odd name", ["not a valid Hub id"]),
        ("no run", ["not the folder of a finished run"]),
        ("both", ["--create-pr and --revision"]),
        ("public", ["exists and is public"]),
        ("card", ["the card was refused", "license"]),
        ("moved", ["somebody else changed the branch", "push again"]),
    ],
)
def test_a_refusal_says_why(site: Site, story: dict[str, Any], what: str, words: list[str]) -> None:
    said = story[what]
    if what == "card" and site.local is None and said["code"] == 0:
        pytest.skip("this server accepts any license")
    assert said["code"] == 2
    for each in words:
        assert each in said["err"]
    # One line; what a library says while it is imported may stand above it.
    assert said["err"].splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said["err"]
    assert not said["out"]
    assert "wrongwrong" not in said["err"]


def test_a_refused_push_changes_nothing(story: dict[str, Any]) -> None:
    assert story["untouched"]
    if story["card"]["code"]:
        assert story["empty"] == [".gitattributes"]
    assert set(story["theirs"]) == {*story["empty"], "theirs.md"}


def test_a_server_that_fails_now_and_then(faulty: Site, story: dict[str, Any]) -> None:
    for what, words in (
        ("create", "keeps answering 500"),
        ("half", "cannot be reached"),
        ("expired", "no right"),
        ("stuck", "keeps answering 503"),
        ("late", "keeps answering 429"),
    ):
        assert story[what]["code"] == 2
        assert words in story[what]["err"], what
        assert "nothing was committed" in story[what]["err"]
        # The server repeated the request in its answer, token included.
        assert faulty.token not in story[what]["err"]
    assert story["nothing"] == [[".gitattributes"], 1]
    assert story["now and then"]["code"] == 0, story["now and then"]["err"]
    files, commits = story["all"]
    assert commits == 2
    assert len(files) == len(set(files)) > 20
    assert story["no pull"]["code"] == 2
    assert "keeps answering 503" in story["no pull"]["err"]
    assert story["pull"]["code"] == 0, story["pull"]["err"]
    assert story["there"] == [True, False]


def test_no_token_is_left_anywhere(
    site: Site, story: dict[str, Any], runs: Runs, pushed: Pushed
) -> None:
    """In no folder of these tests: caches, runs, what was pulled, what the server was sent."""
    seen = 0
    for path in site.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            seen += 1
            for secret in site.secrets:
                assert secret.encode() not in content, path
    assert seen > 100


def test_a_token_in_a_run_does_not_go_up(story: dict[str, Any]) -> None:
    """Whatever a token looks like: it is the one that is in use."""
    assert story["leaks"] == []
