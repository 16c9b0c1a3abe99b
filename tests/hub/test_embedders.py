"""An embedder that was pushed: the card's metadata, and the same vectors wherever it is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedder_support import tiny_embedder, write_pairs

import bertcompress as bc
from bertcompress.heads.pooling import Pooling
from bertcompress.runtimes.torch import TorchPredictor
from hub.cards import front_matter, problems
from hub.support import Site

TEXTS = ["the cat sees the old house", "a dog", "good"]

PLAIN = """
from hub.stories import block
from hub.support import told
block("bertcompress")
from huggingface_hub import model_info
from sentence_transformers import SentenceTransformer
embedder = SentenceTransformer({name!r}, trust_remote_code=True, device="cpu")
there = model_info({name!r})
told({{"vectors": embedder.encode({texts!r}).tolist(), "prompts": dict(embedder.prompts),
       "query": embedder.encode_query({texts!r}).tolist(), "pipeline": there.pipeline_tag,
       "library": there.library_name, "files": [each.rfilename for each in there.siblings]}})
"""

OURS = """
from pathlib import Path
import bertcompress as bc
from hub.stories import command
from hub.support import told
place, task = {place!r}, bc.Task.from_files(*{files!r}, text=["a", "b"], label="score",
                                            problem="vectors", prompts=["query", "document"])
def values(model, **options):
    return [[row.metric, row.value] for row in bc.evaluate(model, task, **options)]
seen = {{"id": values({name!r}), "pull": command("pull", {name!r}, place)}}
seen["folder"] = values(place)
seen["int8"] = values(Path(place) / "onnx" / "model_quantized.onnx")
seen["verified"] = [row.passes for row in bc.verify(place, seconds=0)[0]]
timed = bc.bench([place], shapes=[(1, 8)], seconds=0.2, threads=1)
seen["bench"] = [[row.runtime, row.precision, row.time.p50_ms] for row in timed]
told(seen)
"""


def pushed(site: Site, folder: Path) -> tuple[bc.Run, str, list[str]]:
    """Return a run of an embedder with prompts, its name on the Hub, and its files of pairs."""
    files = [str(write_pairs(folder / "train.jsonl", 80)),
             str(write_pairs(folder / "test.jsonl", 40, 5))]  # fmt: skip
    model = tiny_embedder(folder / "m", prompts={"query": "the cat ", "document": ""})
    task = bc.Task.from_files(
        *files, text=["a", "b"], label="score", problem="vectors", prompts=["query", "document"]
    )
    methods = [
        {"prune_structured": {"keep": 0.5, "rows": 16}},
        {"quantize_int8": {"runtimes": ["onnxruntime"]}},
    ]
    recipe = {"model": str(model), "task": task, "methods": methods, "measure": {"latency": False}}
    run = bc.run(bc.Recipe.parse(recipe), folder / "out")
    name = site.id("vectors")
    assert site.command("push", run.folder, name, token=site.token).code == 0
    return run, name, files


def vectors(run: bc.Run, prefix: str = "") -> Any:
    """Return what the model of the run answers here."""
    product = bc.load(run.folder)
    pooling = Pooling.of(product.model.config)
    assert pooling is not None
    texts = [prefix + text for text in TEXTS]
    answer = TorchPredictor(product.model)
    return np.stack(
        [
            pooling.vector(answer(dict(product.tokenizer([text], return_tensors="np")))[0])
            for text in texts
        ]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_pushed_embedder_answers_alike_everywhere(site: Site, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    run, name, files = pushed(site, tmp_path)
    plain = site.child(PLAIN.format(name=name, texts=TEXTS), token=site.token).told
    np.testing.assert_allclose(plain["vectors"], vectors(run), atol=1e-5)
    np.testing.assert_allclose(plain["query"], vectors(run, "the cat "), atol=1e-5)
    card = (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert problems(card) == []
    tags = {"sentence-transformers", "feature-extraction"}
    assert tags <= set(front_matter(card)["tags"])
    if site.local is None:  # our server does not read the card
        assert plain["pipeline"] == "sentence-similarity"
        assert plain["library"] == "sentence-transformers"
    assert {"modules.json", "1_Pooling/config.json", "onnx/modules.json"} <= set(plain["files"])
    assert not [file for file in plain["files"] if file.startswith("static/")]

    place = str(site.folder / "pulled-embedder")
    program = OURS.format(name=name, files=files, place=place)
    ours = site.child(program, token=site.token).told
    stages = run.report.last.deployments
    wanted = {row.precision: [[s.metric, s.value] for s in row.scores] for row in stages}
    close = {"abs": 1e-5}
    for got, expected in ((ours["id"], wanted["fp32"]), (ours["folder"], ours["id"])):
        for one, other in zip(got, expected, strict=True):
            assert one == [other[0], pytest.approx(other[1], **close)]
    assert ours["pull"]["code"] == 0 and all(ours["verified"]) and ours["verified"]
    for one, other in zip(ours["int8"], wanted["int8"], strict=True):
        assert one == [other[0], pytest.approx(other[1], **close)]
    assert ours["bench"] and all(ms > 0 and math.isfinite(ms) for *_, ms in ours["bench"])
