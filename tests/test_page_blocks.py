"""Every Python block of the pages runs, in its own page's order, on a tiny model.

A block finds the files and the names that its page speaks of: a model of six layers in the place of
the one from the Hub, rows in `train.csv`, a run in `runs/x`. What needs a Hub or an optional
package says so here.
"""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from test_docs import CODE
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc

pytestmark = pytest.mark.usefixtures("without_figures")
MAIN_JOB = "README.md-0"
STOCK = "loading.md-0"
"""Rung 1 of the page: a model of a stock class."""
NEEDS_HUB = {"hub.md-0", "hub.md-1"}
"""They run against a server in tests/hub/test_page_blocks.py."""
PATTERNS = {"CONTRIBUTING.md-0"}
"""A class to be written, with names that are not there yet."""
PACKAGES = {"loading.md-5": "openvino", "loading.md-6": "optimum.onnxruntime"}
BLOCKS = {str(param.id): param.values[0] for param in CODE}


def quick(recipe, out, real=bc.run, runtimes=("onnxruntime",), **options):
    """The run of a page, on few rows and for two steps of each training."""
    less = {
        "weights": {"max_steps": 2, "epochs": None},
        "files": {"runtimes": runtimes, "rows": 16},
    }
    methods = [
        method.model_copy(update=less.get(method.leaves, {"rows": 16})) for method in recipe.methods
    ]
    measure = recipe.measure.model_copy(update={"latency": False, "controls": False})
    few = {"methods": tuple(methods), "measure": measure, "limit": 64}
    return real(recipe.model_copy(update=few), out, progress=False, **options)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages speak of, and the run of the README's main job."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("google-bert/bert-base-uncased", "my-finetuned-model"):
            tiny_model(num_labels=2, max_position_embeddings=512).save_pretrained(name)
            tiny_tokenizer().save_pretrained(name)
        for split, rows in (("train", 120), ("validation", 60)):
            write_rows(folder / f"{split}.csv", rows, 0, yes="yes", no="no")
            text = (folder / f"{split}.csv").read_text(encoding="utf-8")
            header, _, lines = text.partition("\n")
            header = header.replace("text", "comment").replace("label", "topic")
            (folder / f"{split}.csv").write_text(f"{header}\n{lines}", encoding="utf-8")
        task = bc.Task.from_files("train.csv", "validation.csv", text="comment", label="topic")
        patch.setattr(bc, "run", partial(quick, runtimes=()), raising=False)
        patch.setattr("bertcompress.report.plots.figure_names", lambda report: ())
        sent = []
        patch.setattr("bertcompress.runs.run.Run.push_to_hub", lambda run, to: sent.append(to))
        code = BLOCKS[MAIN_JOB]
        assert 'task="glue/sst2"' in code
        exec(code.replace('"glue/sst2"', "task"), {"task": task})
        assert sent == ["me/bert-sst2-small"]
        for name in ("x", "small", "no-training"):
            shutil.copytree("runs/sst2-small", f"runs/{name}")
        yield folder


def names(block):
    """What a block uses and its page leaves to the reader."""
    words = [f"word{n}" for n in range(1000)]
    tokenizer = tiny_tokenizer(*words)
    shape = {"num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": len(tokenizer)}
    if block.startswith("albert.md"):
        shape |= {"hidden_size": 192}
    texts = [f"the cat sees {words[n]} and {words[-n]} ." for n in range(512)]
    batch = dict(tokenizer(texts[:8], padding=True, return_tensors="pt"))
    ids = np.asarray(batch["input_ids"] % 20)
    return {
        **{"model": tiny_model(**shape), "teacher": tiny_model(**shape), "tokenizer": tokenizer},
        **{"texts": texts, "batches": [batch]},
        "loader": [{**batch, "input_ids": batch["input_ids"] % 20, "labels": torch.arange(8) % 2}],
        **{"ids": ids, "mask": np.ones_like(ids), "types": np.zeros_like(ids)},
        "Trainer": transformers.Trainer,
        "args": transformers.TrainingArguments("trainer", report_to="none", use_cpu=True),
    }


def test_every_exception_is_a_block():
    assert {MAIN_JOB, STOCK, *NEEDS_HUB, *PATTERNS, *PACKAGES} <= set(BLOCKS)


@pytest.mark.parametrize("block", sorted(set(BLOCKS) - NEEDS_HUB - PATTERNS - {MAIN_JOB}))
def test_a_block_runs(block, workplace, monkeypatch):
    package = PACKAGES.get(block)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(bc, "run", quick, raising=False)
    if block == STOCK:
        shutil.rmtree("runs/x/model")
        shutil.copytree("my-finetuned-model", "runs/x/model")
    exec(BLOCKS[block], names(block))
