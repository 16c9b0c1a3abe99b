"""A tagger that was pushed: the card's metadata, and the same tags wherever it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tags_support import NAMES, TRAIN, tags_task
from tests_support import tiny_model, tiny_tokenizer

import bertcompress as bc
from hub.support import Site

TEXT = "the cat sees the old house ."

PLAIN = """
from hub.stories import block
from hub.support import told
block("bertcompress")
import transformers
from huggingface_hub import model_info
tagger = transformers.pipeline("token-classification", model={name!r}, trust_remote_code=True)
told({{"tags": [each["entity"] for each in tagger({text!r}, ignore_labels=[])],
       "pipeline": model_info({name!r}).pipeline_tag}})
"""

OURS = """
import torch
import bertcompress as bc
from hub.support import told
product = bc.load({name!r})
batch = product.tokenizer({text!r}, return_tensors="pt")
with torch.no_grad():
    numbers = product.model(**batch).logits[0].argmax(-1)[1:-1].tolist()
told([product.model.config.id2label[number] for number in numbers])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_pushed_tagger_tags_alike_everywhere(site: Site, tmp_path: Path) -> None:
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": tags_task(tmp_path),
            "methods": [
                {"finetune": {**TRAIN, "epochs": 6}},
                {"prune_structured": {"keep": 0.6, "rows": 32}},
            ],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "out")
    name = site.id("tags")
    assert site.command("push", run.folder, name, token=site.token).code == 0
    plain = site.child(PLAIN.format(name=name, text=TEXT), token=site.token).told
    ours = site.child(OURS.format(name=name, text=TEXT), token=site.token).told
    assert plain["tags"] == ours and set(ours) <= set(NAMES) and len(ours) == 7
    card = (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
