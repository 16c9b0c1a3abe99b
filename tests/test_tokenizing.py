"""Tokenizers of models: there or refused, bounded by the model, shipped as they came."""

from __future__ import annotations

import json

import pytest
import torch
from models_support import change_json, command, saved
from tests_support import WORDS, tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.errors import ModelError, Notice
from bertcompress.models.io import max_tokens
from bertcompress.models.tokenizers import longest_text

pytestmark = pytest.mark.usefixtures("without_figures")

NAMES = {"num_labels": 2, "id2label": {0: "0", 1: "1"}, "label2id": {"0": 0, "1": 1}}
CUT = {"prune_structured": {"keep": 0.5, "rows": 8}}
FEW_ROWS = 40


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A task whose texts are longer than the models here read."""
    place = tmp_path_factory.mktemp("rows")
    for name, seed in (("train", 0), ("validation", 1)):
        write_rows(place / f"{name}.csv", FEW_ROWS, seed)
        text = (place / f"{name}.csv").read_text()
        (place / f"{name}.csv").write_text(text.replace(",", f" {' '.join(WORDS * 5)},"))
        head, _, rest = (place / f"{name}.csv").read_text().partition("\n")
        assert head.endswith("label")
        (place / f"{name}.csv").write_text(f"text,label\n{rest}")
    return place


def task(place, **fields):
    files = (place / "train.csv", place / "validation.csv")
    return bc.Task.from_files(*files, text="text", label="label", **fields)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_folder_without_a_tokenizer(tmp_path, rows):
    folder = saved(tmp_path / "m", **NAMES)
    (folder / "tokenizer.json").unlink()
    says = "no tokenizer in the folder .*save the one that the model was trained with"
    recipe = bc.Recipe.parse({"model": str(folder), "task": task(rows), "methods": [CUT]})
    for door in (
        lambda: bc.load(folder),
        lambda: bc.evaluate(folder, task(rows)),
        lambda: bc.export(folder, tmp_path / "out"),
        lambda: bc.run(recipe, tmp_path / "run"),
    ):
        with pytest.raises(ModelError, match=says):
            door()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_vocabulary_of_special_tokens_alone(tmp_path):
    folder = saved(tmp_path / "m")
    written = read(folder / "tokenizer.json")
    special = {t["content"]: t["id"] for t in written["added_tokens"]}
    written["model"]["vocab"] = special
    (folder / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(ModelError, match="special tokens alone"):
        bc.load(folder)


def test_a_tokenizer_of_code_of_its_own(tmp_path):
    folder = saved(tmp_path / "m")
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "mine.Fast"]})
    with pytest.raises(ModelError, match="no tokenizer that can be loaded: its config names code"):
        bc.load(folder)


def test_a_vocabulary_that_knows_few_of_the_words(tmp_path):
    folder = saved(tmp_path / "m", **NAMES)
    for name in ("train", "validation"):
        lines = [f"das ist {name} {i} im haus,{i % 2}" for i in range(FEW_ROWS)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    says = r"answers \[UNK\] to \d+ % of the tokens of these texts"
    with pytest.raises(ModelError, match=says):
        bc.evaluate(folder, task(tmp_path))
    recipe = bc.Recipe.parse(
        {"model": str(folder), "task": task(tmp_path, max_length=24), "methods": [CUT]}
    )
    with pytest.raises(ModelError, match=says):
        bc.run(recipe, tmp_path / "run")
    assert not list(tmp_path.glob("*run*"))


@pytest.mark.parametrize(
    ("family", "pad", "longest"),
    [("bert", 0, 40), ("roberta", 0, 39), ("roberta", 1, 38), ("distilbert", 0, 40)],
)
def test_the_longest_text_comes_from_the_family(tmp_path, rows, family, pad, longest):
    folder = saved(tmp_path / "m", family, pad_token_id=pad, **NAMES)
    product = bc.load(folder)
    assert product.tokenizer.model_max_length == longest
    assert max_tokens(product.model) == max_tokens(product.model, product.tokenizer) == longest
    (score, *_) = bc.evaluate(folder, task(rows), limit=16)
    assert score.n == 16
    product.model(input_ids=torch.full((1, longest), 7))
    with pytest.raises((IndexError, RuntimeError)):
        product.model(input_ids=torch.full((1, longest + 1), 7))


def test_the_smaller_limit_holds(tmp_path, rows):
    folder = saved(tmp_path / "m", **NAMES)
    change_json(folder / "tokenizer_config.json", model_max_length=12)
    product = bc.load(folder)
    assert max_tokens(product.model, product.tokenizer) == longest_text(folder, "m") == 12
    data = bc.load_data(task(rows))
    assert max(data.encode(product.tokenizer, "validation")["length"]) == 12
    change_json(folder / "tokenizer_config.json", model_max_length=512)
    assert bc.load(folder).tokenizer.model_max_length == 40


@pytest.mark.slow
def test_export_and_bench_stay_within_the_positions(tmp_path, rows, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    doors = {"capsys": capsys, "monkeypatch": monkeypatch}
    folder = saved(tmp_path / "m", "roberta", pad_token_id=1, **NAMES)
    assert command("export", folder, "--out", tmp_path / "out", **doors)[0] == 0
    file = tmp_path / "out" / "onnx" / "model.onnx"
    written = read(file.parent / "tokenizer_config.json")
    assert written["model_max_length"] == 38
    status, said = command("bench", folder, file, "--seconds", 0.05, "--length", 64, **doors)
    assert status == 0
    assert "takes texts of at most 38 tokens: longer ones are timed at that length" in said
    assert " 38 " in said
    (score, *_) = bc.evaluate(file, task(rows), limit=16)
    assert score.n == 16


def test_a_tokenizer_is_written_for_older_transformers(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[red]"]})
    model = tiny_model(vocab_size=len(tokenizer))
    bc.save(model, tmp_path / "m", tokenizer)
    written = read(tmp_path / "m" / "tokenizer_config.json")
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(written.get("extra_special_tokens"), list)
    assert not {"is_local", "local_files_only", "name_or_path"} & set(written)
    again = bc.load(tmp_path / "m").tokenizer
    assert again.convert_tokens_to_ids("[red]") in again.all_special_ids
    assert again.tokenize("the [red] cat") == ["the", "[red]", "cat"]


@pytest.fixture
def particular(tmp_path):
    """A model whose tokenizer pads, truncates and states a maximum in its own way."""
    folder = saved(tmp_path / "m", **NAMES)
    state = read(folder / "tokenizer.json")
    state["truncation"] = {
        "direction": "Left", "max_length": 18, "strategy": "LongestFirst", "stride": 1
    }  # fmt: skip
    state["padding"] = {
        "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(state))
    change_json(
        folder / "tokenizer_config.json",
        padding_side="left",
        truncation_side="left",
        model_max_length=30,
    )
    return folder, state


def is_particular(folder, state):
    written = read(folder / "tokenizer_config.json")
    assert written["padding_side"] == written["truncation_side"] == "left"
    assert written["model_max_length"] == 30
    now = read(folder / "tokenizer.json")
    assert (now["truncation"], now["padding"]) == (state["truncation"], state["padding"])


@pytest.mark.slow
def test_settings_survive_into_everything_that_ships(tmp_path, particular, rows):
    for package in ("onnxruntime", "openvino", "nncf"):
        pytest.importorskip(package)
    folder, state = particular
    recipe = {
        "model": str(folder),
        "task": task(rows, max_length=24),
        "methods": [CUT, {"quantize_int8": {"rows": 8, "max_drop": None}}],
        "measure": {"latency": False},
    }
    with pytest.warns(Notice, match="pads on the left"):
        run = bc.run(bc.Recipe.parse(recipe), tmp_path / "run")
    for shipped in (run.model, run.onnx, run.openvino):
        is_particular(shipped, state)


def test_settings_survive_the_smaller_vocabulary(tmp_path, particular):
    folder, state = particular
    with pytest.warns(Notice, match="pads on the left"):
        product = bc.load(folder)
    product.tokenizer(["the cat sleeps"] * 2, padding=True, truncation=True, max_length=5)
    smaller = bc.trim_vocabulary(product.model, product.tokenizer, ["the cat"], reserve=0)
    assert len(smaller) < len(product.tokenizer)
    bc.save(product.model, tmp_path / "small", smaller)
    is_particular(tmp_path / "small", state)
