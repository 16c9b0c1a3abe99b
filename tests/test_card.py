"""The model card: valid metadata, code that runs, nothing local and nothing secret."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from report_support import baseline, deployment, quantized, sample_report

from bertcompress.errors import NotFound, OutputError
from bertcompress.publish import CardFacts, push, render, write_card
from bertcompress.publish.card import Rung
from bertcompress.publish.scrubbing import scrub, scrub_config
from bertcompress.report import Report
from bertcompress.report.rows import Reading

RECIPE = "model: embedded:minilm-l6\ntask: glue/sst2\nmethods:\n- quantize_int8: {}\n"
RECORD = {"layers": {"kept": [0]}}
BASE = "sentence-transformers/all-MiniLM-L6-v2"


def _card(report: Report | None = None, rung: Rung = 2, recipe: str = RECIPE, **fields: Any) -> str:
    return render(CardFacts(report or sample_report(), recipe, rung, **fields))


def _snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.S)


def test_the_metadata_are_what_the_hub_reads() -> None:
    known = {"base_model": BASE, "license_id": "apache-2.0", "language": ("en",)}
    card = _card(sample_report(), repo_id="me/small", **known)
    data = ModelCard(card).data
    assert (data.base_model, data.license, data.language) == (BASE, "apache-2.0", ["en"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert data.datasets == ["nyu-mll/glue"] and data.metrics == ["accuracy", "f1"]
    assert data.base_model_relation == "finetune"
    assert {"bertcompress", "pruned", "distilled", "int8", "onnx", "openvino"} <= set(data.tags)
    front = yaml.safe_load(card.split("---")[1])
    (result,) = front["model-index"][0]["results"]
    assert front["model-index"][0]["name"] == "small"
    assert result["dataset"] == {
        "name": "glue/sst2",
        "type": "nyu-mll/glue",
        "config": "sst2",
        "split": "validation",
    }
    assert result["metrics"][0] == {
        "type": "accuracy",
        "value": 0.858,
        "name": "accuracy (openvino int8)",
        "args": {"ci_low": 0.837, "ci_high": 0.879, "rows": 872},
    }


def test_models_beside_the_result_are_named_without_folders(tmp_path: Path) -> None:
    against = ["acme/l3", "../elsewhere/l4", str(tmp_path)]
    recipe = yaml.safe_dump({**yaml.safe_load(RECIPE), "measure": {"against": against}})
    card = _card(recipe=recipe)
    assert f"  against:\n  - acme/l3\n  - l4\n  - {tmp_path.name}\n" in card
    assert "elsewhere" not in card


def test_what_is_not_known_is_left_out_of_the_metadata(tmp_path: Path) -> None:
    data = yaml.safe_load(_card().split("---")[1])
    assert not {"license", "base_model", "base_model_relation", "language"} & set(data)
    local = sample_report().model_copy(
        update={"recipe": {"model": str(tmp_path)}, "task": {"name": "x", "dataset": "csv"}}
    )
    card = _card(local)
    data = yaml.safe_load(card.split("---")[1])
    assert not {"base_model", "datasets"} & set(data) and str(tmp_path) not in card
    assert data["model-index"][0]["results"][0]["dataset"] == {
        "name": "x",
        "type": "private",
        "split": "validation",
    }


def test_only_changed_precision_is_a_quantised_model() -> None:
    original = baseline().model_copy(update={"method": "original"})
    data = ModelCard(_card(sample_report((original, quantized())), base_model=BASE)).data
    assert data.base_model_relation == "quantized"


def test_a_base_model_is_a_repository_and_not_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = sample_report().model_copy(update={"recipe": {"model": "runs/mine"}})
    assert ModelCard(_card(report)).data.base_model == "runs/mine"
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert ModelCard(_card(report)).data.base_model is None


@pytest.mark.parametrize(
    ("rung", "has", "has_not"),
    [
        (1, ["plain `transformers` loads it"], ["trust_remote_code", "bertcompress.load"]),
        (2, ["trust_remote_code=True", "bertcompress.auto", 'bertcompress.load("me/x")'], []),
        (3, ["onnxruntime.InferenceSession", "openvino.compile_model"], ["from_pretrained"]),
    ],
)
def test_each_rung_says_how_it_loads(rung: Rung, has: list[str], has_not: list[str]) -> None:
    card = _card(rung=rung, repo_id="me/x", auto_class="AutoModelForSequenceClassification")
    assert all(text in card for text in has)
    assert not any(text in card for text in has_not)
    for snippet in _snippets(card):
        ast.parse(snippet)


def test_the_story_is_told() -> None:
    card = _card(papers={"distill": "Hinton et al. 2015, arXiv 1503.02531"})
    for text in (
        "it keeps 98.9 % of the baseline, 95 % interval 97.2 % to 100.4 %",
        "| compressed | openvino int8 | 0.858 | 16.2 | 3.5 ms (2.11x) |",
        "| 3 | 5 of 12 | 576 of 1536 |",
        "Cost: 18.9 min, of which 6.9 min reused",
        "- One seed: the interval is over examples",
        "in order: negative, positive.",
        "arXiv 1503.02531",
        "Intel Xeon Processor (model 207), 2 threads",
    ):
        assert text in card, text
    assert "\n\n\n" not in card and "{{" not in card and "{%" not in card


def test_usage_is_first_and_the_card_has_a_picture() -> None:
    card = _card(repo_id="me/small")
    places = ["**5.6x**", "deploy openvino/", "## How to use it", "## Against the baseline"]
    assert [card.index(place) for place in places] == sorted(card.index(p) for p in places)
    assert "](figures/score_vs_latency.png)" in card and "onnx/serve.py" in card
    assert "](../figures/score_vs_latency.png)" in _card()  # in the run's own folder
    untimed = quantized().deployments[0].model_copy(update={"latency": (), "scores": ()})
    bare = baseline().model_copy(update={"deployments": (untimed,)})
    assert "figures/where_bytes_are.png" in _card(sample_report((bare,)))


def test_simulated_precision_is_called_so() -> None:
    assert "Simulated" not in _card()
    fake = deployment("torch", "int4", size_mb=1.0, simulated=True)
    last = quantized().model_copy(update={"deployments": (fake, *quantized().deployments)})
    assert "**Simulated:** torch int4 is imitated in fp32" in _card(
        sample_report((baseline(), last))
    )


SECRET = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "value",
    [
        "/home/ann/my models/bert",
        "~/models/bert",
        "C:\\Users\\ann\\bert",
        "\\\\server\\ann\\bert",
        "file:///home/ann/bert",
        f"https://ann:{SECRET}@example.org/x",
        SECRET,
    ],
)
def test_nothing_local_and_no_token_gets_in(value: str) -> None:
    recipe = yaml.safe_dump({"model": value, "task": "glue/sst2", "methods": [{"x": {"y": value}}]})
    stage = quantized().model_copy(update={"notes": (f"read {value.replace(' ', '-')} twice",)})
    report = sample_report((baseline(), stage)).model_copy(update={"recipe": {"model": value}})
    card = _card(report, recipe=recipe)
    assert "ann" not in re.sub(r"cannot|channel|annot", "", card)
    assert SECRET not in card and "task: glue/sst2" in card
    ModelCard(card)


@pytest.mark.parametrize(
    "text",
    [
        "1,200 texts/s on glue/sst2",
        "[x](https://huggingface.co/a/b) </details> a / b",
        "and/or, 1/2, `onnx/model.onnx`, ./here/x, ../x/y",
    ],
)
def test_scrubbing_leaves_harmless_text_alone(text: str) -> None:
    assert scrub(text) == text


def test_the_onnx_snippet_runs_in_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[UNK]": 0, "A": 1, "text": 2, ".": 3}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["product"]),
            helper.make_node("Cast", ["product"], ["logits"], to=kind.FLOAT),
        ],
        "tiny",
        [
            helper.make_tensor_value_info(name, kind.INT64, ["batch", "length"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", kind.FLOAT, ["batch", "length"])],
    )
    (tmp_path / "onnx").mkdir()
    opset = [helper.make_opsetid("", 18)]
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=9),
        str(tmp_path / "onnx" / "model_quantized.onnx"),
    )
    snippet = next(s for s in _snippets(_card()) if "onnxruntime" in s)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(snippet, "card", "exec"), names)
    np.testing.assert_array_equal(names["logits"], [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("max_length", "limit", "lengths"),
    [(72, 512, [16, 32, 64, 128]), (72, 80, [16, 32, 64, 80]), (128, 40, [16, 32, 40])],
)
@pytest.mark.parametrize("words", [1, 70, 400])
def test_the_openvino_snippet_pads_to_what_it_warmed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_length: int,
    limit: int,
    lengths: list[int],
    words: int,
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[UNK]": 0, "A": 1, "[PAD]": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=7)  # as some files say
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    fed: list[dict[str, Any]] = []

    def compiled(feed: dict[str, Any]) -> list[Any]:
        fed.append(feed)
        return [feed["input_ids"]]

    compiled.inputs = [  # type: ignore[attr-defined]
        SimpleNamespace(any_name=name) for name in ("input_ids", "attention_mask")
    ]
    fake = SimpleNamespace(compile_model=lambda *_: compiled)
    monkeypatch.setitem(sys.modules, "openvino", fake)
    report = sample_report().model_copy(update={"data": Reading(asked_length=max_length)})
    code = next(s for s in _snippets(_card(report, limit=limit, pad_id=2)) if "openvino" in s)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('"A text."', repr("A " * words)), "card", "exec"), {})
    *warmed, last = [feed["input_ids"] for feed in fed]
    assert [ids.shape[1] for ids in warmed] == lengths
    assert last.shape[1] in lengths and max(lengths) <= limit
    kept = min(words, max_length, limit)
    assert last.tolist() == [[1] * kept + [2] * (last.shape[1] - kept)]
    assert fed[-1]["attention_mask"].sum() == kept


@pytest.mark.parametrize(
    ("model_type", "built", "says"),
    [
        ("bert", "BertForSequenceClassification", "plain `transformers` loads it"),
        ("bertcompress-bert", "CompressedBertForMaskedLM", "trust_remote_code=True"),
        ("bert", "BertModel", "AutoModel.from_pretrained"),
    ],
)
def test_the_folder_tells_how_it_loads(
    tmp_path: Path, model_type: str, built: str, says: str
) -> None:
    config = {"model_type": model_type, "architectures": [built], "bertcompress": RECORD}
    (tmp_path / "config.json").write_text(json.dumps(config))
    method = SimpleNamespace(key="distill", paper="arXiv 1503.02531")
    recipe: Any = SimpleNamespace(to_yaml=lambda: RECIPE, methods=(method,))
    report = sample_report().model_copy(update={"task": {"name": "x", "language": "de"}})
    card = write_card(report, recipe, tmp_path, license_id="mit").read_text()
    data = ModelCard(card).data
    assert says in card and "- distill: arXiv 1503.02531" in card
    # The language of the base model's card or none: a task's is a default more often than not.
    assert (data.language, data.license) == (None, "mit")
    tags = {"BertModel": "feature-extraction", "CompressedBertForMaskedLM": "fill-mask"}
    assert data.pipeline_tag == tags.get(built, "text-classification")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json"]


@pytest.mark.parametrize("asked", [None, 24])
def test_texts_are_cut_only_where_the_task_asks_for_it(asked: int | None) -> None:
    """What `max_length` came to is what the longest row needs: nothing was cut there."""
    report = sample_report()
    settled = {"task": {**report.task, "max_length": 16}, "data": Reading(asked_length=asked)}
    card = _card(report.model_copy(update=settled), limit=40)
    assert set(re.findall(r"enable_truncation\((\d+)\)", card)) == {str(asked or 40)}
    assert ("as it was measured" in card) is (asked is not None)


def test_pairs_are_encoded_as_pairs() -> None:
    task = {**sample_report().task, "text": ["premise", "hypothesis"]}
    card = _card(sample_report().model_copy(update={"task": task}))
    assert 'tokenizer.encode("A first text.", "A second text.")' in card


# -- to the Hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run in which a path and a token got everywhere that they can get."""
    folder, local = tmp_path / "home of ann" / "runs" / "x", str(tmp_path / "home of ann")
    model = f"{local}/bert"
    notes = (f"read {model} twice", f"from https://ann:{SECRET}@example.org/x")
    stage = quantized().model_copy(update={"notes": notes, "facts": {"corpus": model}})
    report = sample_report((baseline(), stage)).model_copy(update={"recipe": {"model": model}})
    report = report.model_copy(update={"environment": {"token": SECRET, "cache": f"{local}/c"}})
    texts = {
        "report.md": report.to_markdown(),
        "report.html": report.to_html(),
        "recipe.yaml": yaml.safe_dump(
            {"model": model, "task": "glue/sst2", "methods": ["quantize_int8"]}
        ),
        "environment.json": json.dumps({"token": SECRET, "seconds": {"total": 1.5}}),
        "model/config.json": json.dumps(
            {
                "model_type": "bertcompress-bert",
                "architectures": ["CompressedBertForSequenceClassification"],
                "bertcompress": RECORD,
                "_name_or_path": model,
                "id2label": {"0": "/r/cats", "1": "~"},
            }
        ),
        "model/tokenizer_config.json": json.dumps({"vocab_file": f"{local}/vocab.txt"}),
        "model/vocab.txt": "[UNK]\n/home\n~\n",
        "model/README.md": "---\nlicense: mit\nbase_model: google/bert\n---\nold",
        "onnx/config.json": json.dumps({"_name_or_path": model}),
        "stages/00-original/stage.json": json.dumps({"source": model}),
        "baseline/onnx/config.json": "{}",
        "figures/score_vs_size.svg": "<svg xmlns='http://www.w3.org/2000/svg'><g/></svg>",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "model" / "model.safetensors").write_bytes(b"\x00/home of ann\xff")
    report.save(folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Stands in for the Hub: what a commit put where."""
    import huggingface_hub

    there: dict[str, bytes] = {}
    monkeypatch.setenv("HF_TOKEN", SECRET)

    class Api:
        def whoami(self) -> dict[str, Any]:
            return {"name": "me", "auth": {"accessToken": {"role": "fineGrained"}}}

        def preupload_lfs_files(self, *_: Any, **__: Any) -> None:
            """All files are small."""

        def create_repo(self, name: str, **_: Any) -> None:
            if not name.startswith("me/"):
                raise OSError("no such owner")

        def repo_info(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(sha="0" * 40, private=False)

        def list_repo_files(self, *_: Any, **__: Any) -> list[str]:
            return list(there)

        def create_commit(self, _: str, operations: Any, **__: Any) -> Any:
            for each in operations:
                with each.as_file() as stream:
                    there[each.path_in_repo] = stream.read()
            url = "https://huggingface.co/me/small/commit/1"
            return SimpleNamespace(commit_url=url, pr_url=None, oid="1" * 40)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return there


def test_what_goes_up_is_neither_local_nor_secret(run: Path, hub: dict[str, bytes]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert push(run, "me/small").endswith("commit/1")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {"README.md", "config.json", "model.safetensors", "onnx/config.json"} <= set(hub)
    assert not [name for name in hub if name.startswith(("stages", "baseline", "model/"))]
    texts = {name: data.decode() for name, data in hub.items() if name != "model.safetensors"}
    for name, text in texts.items():
        assert SECRET not in text, name
        assert "of ann" not in text and "ann:" not in text, name
    # The figures of the page are still figures, and the numbers are still there.
    report = json.loads(texts["report.json"])
    assert report["stages"][1]["deployments"][1]["retention"] == 0.9885
    assert "data:image/svg+xml;base64," in texts["report.html"]
    assert json.loads(texts["environment.json"])["seconds"] == {"total": 1.5}


@pytest.mark.slow
def test_what_a_model_needs_goes_up_as_it_is(run: Path, hub: dict[str, bytes]) -> None:
    push(run, "me/small")
    config = json.loads(hub["config.json"])
    assert config["id2label"] == {"0": "/r/cats", "1": "~"}
    assert config["_name_or_path"] == "(local)"
    assert hub["vocab.txt"] == (run / "model" / "vocab.txt").read_bytes()
    assert hub["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    untouched = '{"a": 1,\n "_name_or_path": "google/bert"}'
    assert scrub_config(untouched) == untouched


@pytest.mark.slow
def test_the_card_on_the_hub_names_its_repository(run: Path, hub: dict[str, bytes]) -> None:
    push(run, "me/small")
    card = hub["README.md"].decode()
    assert 'bertcompress.load("me/small")' in card and "path/to/this/folder" not in card
    data = ModelCard(card).data
    assert (data.license, data.base_model, data.model_name) == ("mit", "google/bert", "small")


def test_a_push_that_cannot_work_says_why(run: Path, hub: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not the folder of a finished run"):
        push(tmp_path, "me/small")
    with pytest.raises(OutputError, match="nobody/small: nothing was committed"):
        push(run, "nobody/small")
    assert hub == {}
