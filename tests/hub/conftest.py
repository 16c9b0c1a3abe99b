"""One server and two finished runs for all these tests.

Against another server: BERTCOMPRESS_HUB names its address, BERTCOMPRESS_HUB_TOKEN and
BERTCOMPRESS_HUB_OTHER_TOKEN the tokens of two users. Tests that make a server fail are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hub.repositories import User
from hub.server import LocalHub
from hub.support import Done, Site

ANN, BOB, GLUE, RON = (f"hf_{name}{'x' * 20}{name}" for name in ("ann", "bob", "glue", "ron"))

WHO = """
from huggingface_hub import HfApi
print(HfApi().whoami()["name"])
"""
REMOVE = """
from huggingface_hub import HfApi
for name in {names!r}:
    HfApi().delete_repo(name, missing_ok=True)
HfApi().delete_repo({glue!r}, repo_type="dataset", missing_ok=True, token={token!r})
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server: ours, or the one that the environment names."""
    folder = tmp_path_factory.mktemp("hub")
    url = os.environ.get("BERTCOMPRESS_HUB")
    if url:
        token, other = (os.environ[f"BERTCOMPRESS_HUB_{n}"] for n in ("TOKEN", "OTHER_TOKEN"))
        site = Site(url, "", token, other, folder, glue_token=token)
        site.me = site.child(WHO, token=token).out.strip()
        site.tag = f"-{secrets.token_hex(4)}"
        site.glue = f"{site.me}/glue{site.tag}"
        yield site
        program = REMOVE.format(names=site.made, glue=site.glue, token=token)
        site.child(program, token=token)
        return
    users = [User("ann", ANN), User("bob", BOB), User("nyu-mll", GLUE)]
    users.append(User("ron", RON, writes=False))
    with LocalHub(folder / "server", users) as local:
        yield Site(local.url, "ann", ANN, BOB, folder, local, "nyu-mll/glue", GLUE)


@pytest.fixture
def faulty(site: Site) -> Iterator[Site]:
    """The server, if it is one that can be made to fail."""
    if site.local is None:
        pytest.skip("this server is not ours: nothing can be made to go wrong in it")
    yield site
    site.local.faults.clear()


@dataclass(frozen=True)
class Runs:
    """Two finished runs, from a private model and a data set of the server."""

    cut: Path
    """Heads and neurons removed: no stock class holds it (rung 2). With ONNX, OpenVINO files."""
    stock: Path
    """Only precision changed: a stock class (rung 1). With ONNX files."""
    model: str
    """Hub id of what was compressed."""
    said: Done
    """What the process said that made and pushed them."""


MAKE = """
from pathlib import Path
from huggingface_hub import HfApi
from hub.stories import CARD, command, glue_folder
from hub.support import told
from tests_support import tiny_model, tiny_tokenizer
import bertcompress as bc

folder = Path({folder!r})
tiny_model("bert", "Model", max_position_embeddings=64).save_pretrained(folder / "bert")
tiny_tokenizer().save_pretrained(folder / "bert")
(folder / "bert" / "README.md").write_text(CARD, encoding="utf-8")
api, owner = HfApi(), HfApi(token={glue_token!r})
api.create_repo({model!r}, private=True)
api.upload_folder(repo_id={model!r}, folder_path=folder / "bert")
owner.create_repo({glue!r}, repo_type="dataset")
owner.upload_folder(
    repo_id={glue!r}, repo_type="dataset", folder_path=glue_folder(folder / "glue")
)

task = bc.Task.load("glue/mrpc").model_copy(update={{"dataset": {glue!r}, "max_length": 32}})
how = {{"epochs": 6, "batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}}
train = {{"finetune": how}}
cut = {{"prune_structured": {{"keep": 0.75, "rows": 32}}}}
for name, methods in (
    ("cut", [train, cut, {{"quantize_int8": {{"runtimes": {runtimes!r}}}}}]),
    ("stock", [train, {{"quantize_int8": {{"runtimes": ["onnxruntime"]}}}}]),
):
    recipe = bc.Recipe.parse(
        {{"model": {model!r}, "task": task, "methods": methods, "measure": {{"latency": False}}}}
    )
    bc.run(recipe, folder / name)
told([
    command("push", folder / "cut", {cut!r}, "--private"),
    command("push", folder / "stock", {stock!r}),
])
"""


@pytest.fixture(scope="session")
def runs(site: Site) -> Runs:
    """Make and push them, in one process that knows nothing but the server."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    both = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))
    folder, model = site.folder / "runs", site.id("tiny-bert")
    folder.mkdir()
    program = MAKE.format(
        folder=str(folder),
        model=model,
        glue=site.glue,
        glue_token=site.glue_token,
        runtimes=["onnxruntime", "openvino"] if both else ["onnxruntime"],
        cut=site.id("cut"),
        stock=site.id("stock"),
    )
    said = site.child(program, token=site.token)
    return Runs(folder / "cut", folder / "stock", model, said)


@dataclass(frozen=True)
class Pushed:
    """The same runs on the server, by their ids, and what the command said."""

    cut: str
    """Private."""
    stock: str
    """For everybody."""
    said: Done


@pytest.fixture(scope="session")
def pushed(site: Site, runs: Runs) -> Pushed:
    """Where they were pushed to."""
    return Pushed(site.id("cut"), site.id("stock"), runs.said)
