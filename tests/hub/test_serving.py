"""The code of a pushed card, executed: on each rung, and where only a runtime is installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertcompress as bc
from hub.cards import front_matter, problems
from hub.conftest import Pushed, Runs
from hub.stories import snippets
from hub.support import Site

CARDS = """
from huggingface_hub import hf_hub_download, snapshot_download
from hub.support import told
names = {names!r}
told({{
    "folder": snapshot_download({cut!r}, local_dir={folder!r}),
    "cards": [open(hf_hub_download(name, "README.md"), encoding="utf-8").read() for name in names],
}})
"""


@pytest.fixture(scope="module")
def cards(site: Site, pushed: Pushed) -> dict[str, Any]:
    """The two cards, and a copy of the repository of the first, as the card says to get one."""
    names, folder = [pushed.cut, pushed.stock], str(site.folder / "copy")
    program = CARDS.format(names=names, cut=pushed.cut, folder=folder)
    return site.child(program, token=site.token).told  # type: ignore[no-any-return]


def test_the_metadata_are_accepted_and_say_what_it_is(
    cards: dict[str, Any], runs: Runs, site: Site
) -> None:
    cut, stock = cards["cards"]
    assert problems(cut) == problems(stock) == []
    for card, relation in ((cut, "finetune"), (stock, "finetune")):
        data = front_matter(card)
        assert data["base_model"] == runs.model
        assert data["base_model_relation"] == relation
        # Both are the base model's own.
        assert (data["license"], data["language"]) == ("apache-2.0", ["en"])
        assert data["datasets"] == [site.glue]
        assert (data["library_name"], data["pipeline_tag"]) == (
            "transformers",
            "text-classification",
        )
        (result,) = data["model-index"][0]["results"]
        metric = result["metrics"][0]
        assert metric["args"]["ci_low"] <= metric["value"] <= metric["args"]["ci_high"]
    assert "| 1 | 3 of 4 | 18 of 24 |" in cut


LOADS = """
from hub.support import told
import torch
seen = []
for code in {codes!r}:
    names = {{}}
    exec(compile(code, "card", "exec"), names)
    batch = names["tokenizer"]("the cat", "a dog", return_tensors="pt")
    with torch.no_grad():
        seen.append(names["model"].eval()(**batch).logits.tolist())
told(seen)
"""


def test_the_code_of_each_rung_loads_the_same_model(
    cards: dict[str, Any], site: Site, runs: Runs
) -> None:
    cut, stock = ([s for s in snippets(c) if "session" not in s] for c in cards["cards"])
    cut = [code for code in cut if "openvino" not in code]
    assert len(cut) == 3, "by bertcompress, by the Auto classes, by the code beside the weights"
    assert len(stock) == 1
    assert "trust_remote_code" not in stock[0]
    program = LOADS.format(codes=[*cut, *stock])
    *first, last = site.child(program, token=site.token).told
    for answer in first:
        np.testing.assert_allclose(answer, logits(runs.cut), atol=1e-5)
    np.testing.assert_allclose(last, logits(runs.stock), atol=1e-5)


def logits(place: Path) -> Any:
    """Return what a run's own files answer to one pair of texts."""
    model = next(folder for folder in (place, *place.parents) if (folder / "model").is_dir())
    batch = bc.load(model).tokenizer("the cat", "a dog", return_tensors="np")
    return bc.open_predictor(place)(dict(batch))


SERVE = """
from hub.stories import block
from hub.support import told
block("torch", "transformers", "bertcompress", "huggingface_hub", "datasets", "onnx")
seen = []
for code in {codes!r}:
    code = code.replace("A first text.", "the cat").replace("A second text.", "a dog")
    names = {{}}
    exec(compile(code, "card", "exec"), names)
    seen.append(names["logits"].tolist())
told(seen)
"""


def test_it_is_served_without_torch_and_transformers(
    cards: dict[str, Any], site: Site, runs: Runs
) -> None:
    codes = [code for code in snippets(cards["cards"][0]) if "Tokenizer.from_file" in code]
    files = [re.search(r'"(\w+/[\w.]+\.onnx)"', code)[1] for code in codes]  # type: ignore[index]
    assert [Path(file).parts[0] for file in files] == [
        name for name in ("onnx", "openvino") if (runs.cut / name).is_dir()
    ]
    program = f"import os; os.chdir({cards['folder']!r})\n" + SERVE.format(codes=codes)
    for file, answer in zip(files, site.child(program).told, strict=True):
        # OpenVINO is served padded: the same, but where an activation is rounded the other way.
        near = 0.05 if file.startswith("openvino") else 1e-5
        np.testing.assert_allclose(answer, logits(runs.cut / file), atol=near, err_msg=file)


def test_optimum_opens_the_folder(cards: dict[str, Any], runs: Runs) -> None:
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    model = optimum.ORTModelForSequenceClassification.from_pretrained(
        Path(cards["folder"]) / "onnx", file_name="model_quantized.onnx"
    )
    batch = bc.load(runs.cut / "model").tokenizer("the cat", "a dog", return_tensors="pt")
    answer = model(**batch).logits.numpy()
    np.testing.assert_allclose(
        answer, logits(runs.cut / "onnx" / "model_quantized.onnx"), atol=1e-4
    )
