"""A pushed model in another process: the same answers on every rung, by id and from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertcompress as bc
from hub.conftest import Pushed, Runs
from hub.support import Site

TEXTS = [["the red cat sleeps", "a cat runs"], ["good bird", "the old dog never sings"]]

PLAIN = """
from hub.stories import block
from hub.support import told
block("bertcompress")
import numpy as np
import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForSequenceClassification as Auto
from transformers import AutoTokenizer

@torch.no_grad()
def logits(name, **options):
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    model = Auto.from_pretrained(name, **options).eval()
    batch = tokenizer(*zip(*{texts!r}), padding=True, return_tensors="pt")
    return model(**batch).logits.tolist()

def onnx(folder):
    import onnxruntime
    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(f"{{folder}}/model_quantized.onnx")
    batch = tokenizer(*zip(*{texts!r}), padding=True, return_tensors="np")
    feed = {{each.name: batch[each.name] for each in session.get_inputs()}}
    return session.run(None, feed)[0].tolist()

seen = {{"stock": logits({stock!r}), "remote code": logits({cut!r}, trust_remote_code=True)}}
seen["onnx"] = onnx(snapshot_download({cut!r}) + "/onnx")
try:
    logits({cut!r}, trust_remote_code=False)
except ValueError as error:
    seen["refused"] = str(error)
told(seen)
"""


def logits(place: Path, **options: Any) -> Any:
    """Return what a run's own files answer to the texts."""
    predictor = bc.open_predictor(place, **options)
    tokenizer = bc.load(place if place.name == "model" else place.parent / "model").tokenizer
    batch = tokenizer(*map(list, zip(*TEXTS, strict=True)), padding=True, return_tensors="np")
    return predictor(dict(batch))


@pytest.mark.filterwarnings("ignore")
def test_without_bertcompress_every_rung_answers_alike(
    site: Site, runs: Runs, pushed: Pushed
) -> None:
    program = PLAIN.format(texts=TEXTS, stock=pushed.stock, cut=pushed.cut)
    seen = site.child(program, token=site.token).told
    for name, place in (
        ("stock", runs.stock / "model"),
        ("remote code", runs.cut / "model"),
        ("onnx", runs.cut / "onnx"),
    ):
        np.testing.assert_allclose(seen[name], logits(place), atol=1e-5, err_msg=name)
    assert "trust_remote_code" in seen["refused"]


OURS = """
import json
from pathlib import Path
from hub.stories import as_user, command
from hub.support import told
import bertcompress as bc

cut, stock, place = {cut!r}, {stock!r}, Path({place!r})
task = bc.Task.load("glue/mrpc").model_copy(update={{"dataset": {glue!r}, "max_length": 32}})

def score(model, **options):
    said = []
    rows = bc.evaluate(model, task, say=said.append, **options)
    return {{"scores": [row.value for row in rows], "said": said}}

def files():
    seen = [path for path in Path({cache!r}).rglob("*") if path.is_file()]
    return sorted({{path.name for path in seen if path.suffix in (".onnx", ".safetensors")}})

seen = {{}}
with as_user({other!r}):
    seen["other"] = command("pull", cut, place / "other")
with as_user(None):
    seen["nobody"] = command("pull", cut, place / "nobody")
    seen["wrong"] = command("pull", stock, place / "wrong", "--revision", "no-such-branch")
seen["int8"] = score(cut, runtime="onnxruntime")
seen["large"] = files()
seen["id"] = score(cut)
for precision in ("fp32", "int8"):
    seen[precision + " stock"] = score(stock, runtime="onnxruntime", precision=precision)
seen["pull"] = command("pull", cut, place / "cut")
seen["folder"] = score(place / "cut")
seen["inside"] = score(place / "cut" / "onnx" / "model_quantized.onnx")
seen["tokens"] = len(bc.load(cut).tokenizer)
seen["first"] = command("pull", cut, place / "cut")
seen["files"] = sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())
with as_user(None):
    seen["public"] = command("pull", stock, place / "public")
seen["missing"] = command("evaluate", stock + "-not", "--task", "glue/mrpc")
seen["left"] = sorted(path.name for path in place.iterdir())
timing = {{"shapes": [(1, 8)], "seconds": 0.2, "threads": 1}}
seen["bench"] = [[r.model, r.runtime, r.precision] for r in bc.bench([cut], **timing)]
both = bc.bench([place / "cut", stock], runtime="onnxruntime", **timing)
seen["both"] = [row.runtime for row in both]
told(seen)
"""


@pytest.fixture(scope="module")
def cache(site: Site) -> Path:
    """The cache that the two processes below share."""
    return site.cache()


@pytest.fixture(scope="module")
def ours(site: Site, pushed: Pushed, cache: Path) -> dict[str, Any]:
    """What a process with bertcompress sees that starts with an empty cache."""
    program = OURS.format(
        cut=pushed.cut,
        stock=pushed.stock,
        place=str(site.folder / "pulled"),
        glue=site.glue,
        cache=str(cache / "hub"),
        other=site.other,
    )
    (site.folder / "pulled").mkdir()
    return site.child(program, token=site.token, cache=cache).told  # type: ignore[no-any-return]


def reported(run: Path) -> dict[tuple[str, str], list[float]]:
    """Return the scores in a run's report, by runtime and precision."""
    return {
        (row.runtime, row.precision): [score.value for score in row.scores]
        for row in bc.Report.load(run).last.deployments
    }


@pytest.mark.slow
def test_ids_and_folders_are_judged_alike(ours: dict[str, Any], runs: Runs) -> None:
    report, scores = bc.Report.load(runs.cut), reported(runs.cut)
    judged = scores[report.verdict.runtime, report.verdict.precision]
    assert ours["id"]["scores"] == ours["folder"]["scores"] == judged
    assert "its verdict is about" in ours["id"]["said"][0]
    int8 = scores["onnxruntime", "int8"]
    assert ours["int8"]["scores"] == ours["inside"]["scores"] == int8
    for precision in ("fp32", "int8"):
        found = ours[f"{precision} stock"]["scores"]
        assert found == reported(runs.stock)["onnxruntime", precision]
    # For one runtime no other large file was downloaded.
    assert ours["large"] == ["model_quantized.onnx"]


def test_a_pull_is_whole_or_not_at_all(ours: dict[str, Any], site: Site, runs: Runs) -> None:
    assert ours["pull"]["code"] == 0, ours["pull"]["err"]
    assert ours["public"]["code"] == 0, ours["public"]["err"]
    folder = site.folder / "pulled" / "cut"
    sent = (runs.cut / "model" / "model.safetensors").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == sent
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert "not empty" in ours["first"]["err"]
    assert ours["left"] == ["cut", "public"]
    assert ours["tokens"] == json.loads((folder / "config.json").read_text())["vocab_size"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("other", "private and this token may not see it"),
        ("nobody", "private and no token is set"),
        ("wrong", "this revision does not"),
        ("missing", "no such repository"),
    ],
)
def test_what_may_not_be_seen_is_not_there(ours: dict[str, Any], what: str, words: str) -> None:
    assert ours[what]["code"] == 2
    assert words in ours[what]["err"]
    assert "Traceback" not in ours[what]["err"]


def test_ids_are_timed_too(ours: dict[str, Any], pushed: Pushed, runs: Runs) -> None:
    shipped = [(r.runtime, r.precision) for r in bc.Report.load(runs.cut).last.deployments]
    assert ours["bench"] == [[pushed.cut, *each] for each in shipped]
    assert ours["both"] == ["onnxruntime", "onnxruntime"]


OFFLINE = """
from pathlib import Path
from hub.stories import command
from hub.support import told
import bertcompress as bc
task = bc.Task.load("glue/mrpc").model_copy(update={{"dataset": {glue!r}, "max_length": 32}})
told({{
    "scores": [row.value for row in bc.evaluate({cut!r}, task)],
    "pull": command("pull", {cut!r}, {place!r}),
    "part": command("pull", {part!r}, {place!r} + "-part"),
    "never": command("pull", "me/never-seen", {place!r} + "-never"),
    "push": command("push", {run!r}, {cut!r}),
}})
"""


@pytest.mark.slow
def test_a_warm_cache_is_enough(
    ours: dict[str, Any], site: Site, runs: Runs, pushed: Pushed, cache: Path
) -> None:
    place = site.folder / "offline"
    program = OFFLINE.format(
        glue=site.glue, cut=pushed.cut, part=runs.model, place=str(place), run=str(runs.cut)
    )
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    seen = site.child(program, token=site.token, cache=cache, **offline).told
    assert seen["scores"] == ours["id"]["scores"]
    assert seen["pull"]["code"] == 0, seen["pull"]["err"]
    assert (place / "onnx" / "model.onnx").is_file()
    for what in ("part", "never", "push"):
        assert seen[what]["code"] == 2
        assert "HF_HUB_OFFLINE is set" in seen[what]["err"], what


DOWN = """
from hub.stories import command
from hub.support import told
told(command("pull", "me/model", {place!r}))
"""


def test_a_server_that_is_down_is_named(site: Site) -> None:
    address = "http://user:secret@127.0.0.1:9"
    program = DOWN.format(place=str(site.folder / "down"))
    seen = site.child(program, token=site.token, HF_ENDPOINT=address).told
    assert seen["code"] == 2
    assert "cannot be reached" in seen["err"]
    assert "127.0.0.1:9" in seen["err"]
    assert "secret" not in seen["err"]
