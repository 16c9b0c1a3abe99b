"""What an embedder reads of a text, and that everything that counts or times texts reads the same.

Prompts, lower case, the longest text and pooling are the folder's, whoever asks.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from embedder_support import tiny_embedder, write_pairs, write_texts
from tests_support import tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.errors import ModelError
from bertcompress.heads.pooling import Pooling
from bertcompress.models.io import save
from bertcompress.models.recognising import left_out_layers
from bertcompress.models.sentence import read_pooling
from bertcompress.verbs.bench import bench

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """A cased embedder whose prompts have words that no text has, and its texts."""
    place = tmp_path_factory.mktemp("prompted")
    tokenizer = tiny_tokenizer("query", "passage", "Good")
    tokenizer.model_max_length = 32
    model = tiny_model("bert", "Model", vocab_size=len(tokenizer))
    prompts = {"query": "query ", "passage": "passage "}
    Pooling(normalize=True, prompts=prompts, default_prompt="query").keep(model.config)
    save(model, place / "model", tokenizer)
    write_texts(place / "train.jsonl", 60)
    write_texts(place / "test.jsonl", 20, 5)
    return place


def test_trimming_keeps_the_words_of_every_prompt(prompted, tmp_path):
    task = bc.Task.from_texts(prompted / "train.jsonl", prompted / "test.jsonl")
    methods = [{"trim_vocabulary": {"reserve": 0}}]
    recipe = {"model": str(prompted / "model"), "task": task, "methods": methods}
    still = {"latency": False, "controls": False}
    run = bc.run(bc.Recipe.parse({**recipe, "measure": still}), tmp_path / "run")
    trimmed = bc.load(run.model).tokenizer
    assert len(trimmed) < len(bc.load(prompted / "model").tokenizer)
    assert trimmed.tokenize("query passage") == ["query", "passage"]
    cosine = next(s for s in run.report.last.deployments[0].scores if s.metric == "cosine")
    assert cosine.value == pytest.approx(1.0, abs=1e-6)


def test_the_function_keeps_the_words_of_every_prompt(prompted):
    product = bc.load(prompted / "model")
    smaller = bc.trim_vocabulary(product.model, product.tokenizer, ["good film"], reserve=0)
    assert smaller.tokenize("query passage good") == ["query", "passage", "good"]


def test_texts_are_read_behind_their_prompt_and_in_the_case_of_the_folder():
    pooling = Pooling(prompts={"passage": "Passage: "}, lowercase=True)
    assert pooling.read(["A Text"]) == ["a text"]
    assert pooling.read(["A Text"], "document") == ["passage: a text"]
    assert pooling.named_prompts == {"document": "Passage: ", "passage": "Passage: "}
    with pytest.raises(ModelError, match="queries"):
        pooling.read(["A Text"], "queries")


def test_a_shipped_folder_names_the_prompt_that_documents_are_read_with(prompted):
    written = json.loads((prompted / "model" / "config_sentence_transformers.json").read_text())
    assert written["prompts"] == {"query": "query ", "passage": "passage ", "document": "passage "}
    kept = Pooling.of(bc.load(prompted / "model").model.config)
    assert kept is not None and kept.prompt("document") == "passage "
    given = Pooling(prompts={"query": "query ", "passage": "passage "}, default_prompt="query")
    assert kept.reads_like(given)


def test_documents_are_encoded_as_sentence_transformers_does(prompted):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(prompted / "model"), device="cpu")
    if not hasattr(model, "encode_document"):
        pytest.skip("of a release before encode_document")
    ours = model.encode("passage good film", prompt="")
    assert np.allclose(model.encode_document("good film"), ours, atol=1e-6)


def test_what_the_folder_says_of_pooling_goes_before_what_its_config_kept(tmp_path):
    folder, pairs = tiny_embedder(tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl", 60)
    task = bc.Task.from_files(pairs, pairs, text=["a", "b"], label="score", problem="similarity")
    mean = bc.evaluate(folder, task, test=pairs)[0].value
    told = json.loads((folder / "1_Pooling" / "config.json").read_text())
    told |= {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
    first = bc.evaluate(folder, task, test=pairs)[0].value
    config = json.loads((folder / "config.json").read_text())
    del config["sentence_embedding"]
    (folder / "config.json").write_text(json.dumps(config))
    assert first == bc.evaluate(folder, task, test=pairs)[0].value != mean


@pytest.mark.slow
def test_texts_are_timed_as_the_model_reads_them(prompted, tmp_path):
    """Of a folder that takes 8 tokens, and the same with what it takes in the tokenizer."""
    given = tiny_embedder(tmp_path / "given", max_length=8)
    fields = json.loads((given / "tokenizer_config.json").read_text())
    fields["model_max_length"] = 32
    (given / "tokenizer_config.json").write_text(json.dumps(fields))
    again = bc.load(given)
    assert again.tokenizer.model_max_length == 8
    save(again.model, tmp_path / "again", again.tokenizer)
    task = bc.Task.from_texts(prompted / "train.jsonl", prompted / "test.jsonl")
    lines: list[str] = []
    rows = bench([given, tmp_path / "again"], task=task, shapes=[], seconds=0.1, say=lines.append)
    assert len({(row.time.batch, row.time.length) for row in rows}) == 2  # batch sizes alone
    assert not any("not all models are timed on the same part" in line for line in lines)
    prompts = task.model_copy(update={"prompts": ("query",)})
    assert bench([prompted / "model"], task=prompts, shapes=[], seconds=0.1, say=lines.append)


def sentence_modules(folder, *modules):
    tiny_model(head="ForMaskedLM").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_" if i else "",
            "type": f"sentence_transformers.{t}",
        }
        for i, t in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


@pytest.mark.parametrize(
    "modules",
    [
        ("sparse_encoder.models.MLMTransformer", "sparse_encoder.models.SpladePooling"),
        ("models.Transformer", "models.WeightedLayerPooling", "models.Pooling"),
        ("models.Transformer", "models.Pooling", "models.Dense"),
    ],
)
def test_modules_that_are_like_others_by_name_are_not_taken_for_them(tmp_path, modules):
    folder = sentence_modules(tmp_path, *modules)
    assert left_out_layers(folder)
    with pytest.raises(ModelError, match="trained layers lie behind its encoder"):
        read_pooling(folder, "other")
    assert bc.load(folder, head="Model").model.config.to_dict().get("sentence_embedding") is None


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder"])
def test_a_folder_that_says_it_is_no_embedder_is_none(tmp_path, kind):
    folder = sentence_modules(tmp_path, "models.Transformer", "models.Pooling")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelError, match=f"a {kind} of sentence-transformers"):
        read_pooling(folder, "other")
