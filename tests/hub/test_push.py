"""What a push leaves on the server: one commit with everything, and nothing twice."""

from __future__ import annotations

import re
import shutil

import pytest

from hub.conftest import Pushed, Runs
from hub.support import Site

WANTED = {
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "recipe.yaml",
    "report.json",
    "report.md",
    "report.html",
    "environment.json",
    "onnx/model.onnx",
    "onnx/model_quantized.onnx",
    "onnx/config.json",
    "onnx/tokenizer.json",
    "figures/score_vs_size.svg",
    "figures/score_vs_size.png",
}

LOOK = """
from huggingface_hub import HfApi
from hub.support import told
api = HfApi()
told({{
    name: {{
        "files": api.list_repo_files(name),
        "titles": [commit.title for commit in api.list_repo_commits(name)],
        "private": api.repo_info(name).private,
    }}
    for name in {names!r}
}})
"""


def test_everything_goes_up_in_one_commit(site: Site, runs: Runs, pushed: Pushed) -> None:
    for name, said in zip((pushed.cut, pushed.stock), pushed.said.told, strict=True):
        assert said["code"] == 0, said["err"]
        assert said["out"].startswith(f"{site.url}/{name}/commit/")
        size, last = said["err"].splitlines()
        assert re.fullmatch(rf"{name}: \d+ files, [\d.]+ MB", size)
        assert last == name
    program = LOOK.format(names=[pushed.cut, pushed.stock])
    there = site.child(program, token=site.token).told
    cut, stock = there[pushed.cut], there[pushed.stock]
    assert set(cut["files"]) >= WANTED | {"modeling_bertcompress.py"}
    assert set(stock["files"]) >= WANTED
    assert "modeling_bertcompress.py" not in stock["files"]
    assert ("openvino/model_int8.onnx" in cut["files"]) == (runs.cut / "openvino").is_dir()
    left_out = ("stages", "baseline", "model/")
    assert not [name for name in cut["files"] if name.startswith(left_out)]
    assert [title for title in cut["titles"] if "compressed" in title] == cut["titles"][:1]
    assert (cut["private"], stock["private"]) == (True, False)


AGAIN = """
import shutil
from pathlib import Path
from huggingface_hub import HfApi
from hub.stories import as_user, command
from hub.support import told

api, name, run = HfApi(), {name!r}, Path({run!r})
head = lambda **of: api.repo_info(name, **of).sha
seen = {{"before": head(), "same": command("push", run, name), "after": head()}}
api.upload_file(repo_id=name, path_or_fileobj=b"mine", path_in_repo="notes.md")
(run / "figures" / "score_vs_size.png").write_bytes(b"\\0another picture")
shutil.rmtree(run / "onnx")
seen["changed"] = command("push", run, name)
seen["files"] = api.list_repo_files(name)
seen["unmoved"] = head()
seen["branch"] = command("push", {run_again!r}, name, "--revision", "whole")
seen["branches"] = [ref.name for ref in api.list_repo_refs(name).branches]
seen["on branch"] = api.list_repo_files(name, revision="whole")
seen["still"] = head()
if {ours}:
    with as_user({other!r}):
        seen["pull request"] = command("push", {run_again!r}, name, "--create-pr")
    refs = api.list_repo_refs(name, include_pull_requests=True)
    seen["pull requests"] = [ref.ref for ref in refs.pull_requests]
    seen["untouched"] = head()
told(seen)
"""


@pytest.mark.slow
def test_an_update_sends_what_changed(site: Site, runs: Runs, pushed: Pushed) -> None:
    changed = site.folder / "changed"
    shutil.copytree(runs.stock, changed)
    before = site.uploads()
    program = AGAIN.format(
        name=pushed.stock,
        run=str(changed),
        run_again=str(runs.stock),
        ours=site.local is not None,
        other=site.other,
    )
    seen = site.child(program, token=site.token).told
    for what in ("same", "changed", "branch"):
        assert seen[what]["code"] == 0, seen[what]["err"]
    # No empty commit, and the user is told so.
    assert seen["before"] == seen["after"]
    assert "nothing changed" in seen["same"]["err"]
    assert seen["before"] in seen["same"]["out"]
    # What the run no longer ships is gone; what somebody else put there is not.
    assert not [name for name in seen["files"] if name.startswith("onnx/")]
    assert {"notes.md", "model.safetensors"} <= set(seen["files"])
    assert "whole" in seen["branches"]
    assert "onnx/model_quantized.onnx" in seen["on branch"]
    assert seen["still"] == seen["unmoved"]
    if before is not None:
        # The picture; nothing for the branch, whose contents the server had.
        assert site.uploads() == before + 1
        # Who may not write can ask for it, and `main` stays as it was.
        assert seen["pull request"]["code"] == 0, seen["pull request"]["err"]
        assert "/discussions/1" in seen["pull request"]["out"]
        assert seen["pull requests"] == ["refs/pr/1"]
        assert seen["untouched"] == seen["still"]
