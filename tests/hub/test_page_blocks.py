"""The Python blocks of docs/hub.md run against the server, in their order."""

from __future__ import annotations

import shutil

import pytest
from test_docs import PAGES, blocks

from hub.conftest import Runs
from hub.support import Site

PROGRAM = """
import os
from huggingface_hub import HfApi
from hub.support import told
import bertcompress as bc

os.chdir({folder!r})
task = bc.Task.load("glue/mrpc").model_copy(update={{"dataset": {glue!r}, "max_length": 32}})
names = {{"task": task}}
exec({push!r}, names)
HfApi().create_tag({there!r}, tag="v1")
exec({pull!r}, names)
model = type(names["product"].model).__name__
told([names["url"], str(names["folder"]), model, [score.metric for score in names["scores"]]])
"""


@pytest.mark.slow
def test_the_blocks_of_the_page(site: Site, runs: Runs) -> None:
    page = next(page for page in PAGES if page.name == "hub.md")
    there = site.id("bert-sst2-small")
    push, pull = (block.replace('"me/bert-sst2-small"', repr(there))
                  for block in blocks(page, "python"))  # fmt: skip
    assert '"glue/sst2"' in pull
    folder = site.folder / "page"
    shutil.copytree(runs.cut, folder / "runs" / "sst2-small")
    program = PROGRAM.format(
        folder=str(folder),
        glue=site.glue,
        there=there,
        push=push,
        pull=pull.replace('"glue/sst2"', "task"),
    )
    url, pulled, model, metrics = site.child(program, token=site.token).told
    assert there in url
    assert (folder / pulled / "model.safetensors").is_file()
    assert model == "CompressedBertForSequenceClassification"
    assert metrics == ["accuracy", "f1"]
