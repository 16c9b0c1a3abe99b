"""`serve.py` of a run and of `export`: executed where neither torch nor transformers is there."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from embedder_support import write_pairs
from tests_support import tiny_model, tiny_tokenizer
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.deployment import SERVE_FILE
from bertcompress.publish.serving import answers_of, serve_source, write_serving
from bertcompress.runtimes.buckets import bucket_lengths

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEXTS = ["the old cat sleeps", "a bird", "the dog likes the red house " * 30]
IDENTITY, SIGMOID = (
    {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{name}"}}
    for name in ("linear.Identity", "activation.Sigmoid")
)
PAIR = ("the cat", "a dog runs")
NAMES = {0: "no", 1: 'it\'s "so"', 2: "{% x %}"}
ALONE = """
import json, runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "bertcompress", "optimum"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
served = runpy.run_path(sys.argv[1])
asked = json.loads(sys.stdin.read())
for texts, batch in asked:
    texts = [tuple(text) if isinstance(text, list) else text for text in texts]
    more = {"batch": batch} if batch else {}
    print(json.dumps(served["answer"](texts, **more)))
assert not {"torch", "transformers", "bertcompress"} & set(sys.modules)
"""


def _alone(file, *asked):
    """What serve.py answers in a process of its own, to each (texts, batch)."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(file)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _expected(product, texts, kind, limit=40):
    """What torch answers to each text alone, cut as it says."""
    rows = []
    for text in texts:
        pair = text if isinstance(text, list | tuple) else (text,)
        batch = product.tokenizer(*pair, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            logits = product.model(**batch).logits[0]
        shares = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "number": logits}
        rows.append(shares[kind].tolist())
    return np.array(rows)


def _values(answers):
    return np.array([list(a.values()) if isinstance(a, dict) else [a] for a in answers])


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"id2label": NAMES, "num_labels": 3}, "softmax"),
        ({"id2label": NAMES, "num_labels": 3, "problem_type": "multi_label_classification"},
         "sigmoid"),
        ({"num_labels": 1, "problem_type": "regression"}, "number"),
    ],
    ids=["softmax", "sigmoid", "number"],
)  # fmt: skip
def test_export_writes_what_serves_without_torch(fields, kind, tmp_path):
    bc.save(tiny_model(**fields), tmp_path / "model", tiny_tokenizer())
    done = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    file = tmp_path / "onnx" / SERVE_FILE
    source = file.read_text()
    assert len(source.splitlines()) <= 65 and max(map(len, source.splitlines())) <= 100
    # In fp32, which answers as torch does to the last digit but one.
    exact = file.with_name("exact.py")
    exact.write_text(source.replace("model_quantized.onnx", "model.onnx"))
    asked = ([*TEXTS, PAIR], 1), ([*TEXTS, PAIR], 3)
    product = bc.load(tmp_path / "model")
    one, batched = map(_values, _alone(exact, *asked))
    np.testing.assert_allclose(one, _expected(product, [*TEXTS, PAIR], kind), atol=1e-4)
    np.testing.assert_allclose(batched, one, atol=1e-4)
    (rounded,) = _alone(file, (TEXTS, 1))
    if kind != "number":
        assert list(rounded[0]) == list(NAMES.values())
        np.testing.assert_allclose(_values(rounded), one[:3], atol=0.2)


def test_as_a_command_it_prints_one_line_a_text(tmp_path):
    bc.save(tiny_model(id2label=NAMES, num_labels=3), tmp_path / "model", tiny_tokenizer())
    bc.export(tmp_path / "model", tmp_path)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "onnx" / SERVE_FILE), *TEXTS],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path.parent,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    assert sum(rows[0]["answer"].values()) == pytest.approx(1)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
def test_two_classes_without_names_are_served(head, tmp_path):
    """transformers leaves LABEL_0 and LABEL_1 out of config.json, which serve.py and cards read."""
    bc.save(tiny_model(head=head, num_labels=2), tmp_path / "model", tiny_tokenizer())
    bc.export(tmp_path / "model", tmp_path)
    for folder in ("model", "onnx"):
        written = json.loads((tmp_path / folder / "config.json").read_text())
        assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
        assert written["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
    ((answer,),) = _alone(tmp_path / "onnx" / SERVE_FILE, (["the cat"], None))
    names = [word["tag"] for word in answer] if head.startswith("ForToken") else [*answer]
    assert {*names} <= {"LABEL_0", "LABEL_1"} and len(names) == 2


def _command(file, *arguments):
    """What serve.py prints as a command, a line each; a text: what it refuses them with."""
    command = [sys.executable, str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stderr if done.returncode else [*map(json.loads, done.stdout.splitlines())]


def test_pairs_come_two_by_two_and_an_empty_second_text_is_none(tmp_path):
    """Each was answered alone; beside an empty text one had a separator that no training has."""
    bc.save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    product, (plain, _) = bc.load(tmp_path / "model"), bc.export(tmp_path / "model", tmp_path)
    texts = [*PAIR, "a bird", ""]
    pairs = [PAIR, ("a bird",)]
    parts = (plain.path, plain.runtime, product.model.config, product.tokenizer, 40)
    for known, first in ((2, ()), (None, ("--pairs",))):
        file = write_serving(*parts, texts=known)
        found = _command(file, *first, *texts)
        assert [row["text"] for row in found] == [[*PAIR], ["a bird", ""]]
        answers = _values([row["answer"] for row in found])
        np.testing.assert_allclose(answers, _expected(product, pairs, "softmax"), atol=1e-4)
        assert "texts come in pairs, a first and a second: 3 given" in _command(
            file, *first, *texts[:3]
        )
    assert 'python serve.py --pairs "A first' in _command(file)
    assert [row["text"] for row in _command(file, *texts)] == texts
    assert "pair" not in write_serving(*parts, texts=1).read_text()


def test_openvino_serves_at_the_lengths_that_it_warmed(tmp_path):
    pytest.importorskip("openvino")
    bc.save(tiny_model(id2label=NAMES, num_labels=3), tmp_path / "model", tiny_tokenizer())
    bc.export(tmp_path / "model", tmp_path)
    product = bc.load(tmp_path / "model")
    file = tmp_path / "onnx" / "model.onnx"
    made = write_serving(file, "openvino", product.model.config, product.tokenizer, 24)
    assert made == file.with_name(SERVE_FILE)
    source = made.read_text()
    assert (
        f"LENGTHS = {list(bucket_lengths(24, 40))}  #" in source and "MAX_LENGTH = 24  #" in source
    )
    one, batched = map(_values, _alone(made, ([*TEXTS, PAIR], 1), ([*TEXTS, PAIR], 2)))
    np.testing.assert_allclose(one, _expected(product, [*TEXTS, PAIR], "softmax", 24), atol=0.02)
    np.testing.assert_allclose(batched, one, atol=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_run_serves_longer_texts_than_its_rows_in_pairs_as_these(tmp_path):
    bc.save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    files = [write_pairs(tmp_path / f"{name}.jsonl", 60, seed) for seed, name in enumerate("ab")]
    recipe = {
        "model": str(tmp_path / "model"),
        "task": bc.Task.from_files(*files, text=["a", "b"], problem="unlabelled"),
        "methods": [{"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": None, "rows": 20}}],
        "measure": {"latency": False, "controls": False},
    }
    run = bc.run(bc.Recipe.parse(recipe), tmp_path / "run")
    assert run.report.task["max_length"] <= 24
    source = (tmp_path / "run" / "onnx" / SERVE_FILE).read_text()
    card = (run.model / "README.md").read_text()
    assert "MAX_LENGTH = 40  #" in source and "enable_truncation(40)\n" in card
    exact = tmp_path / "run" / "onnx" / "exact.py"
    exact.write_text(source.replace("model_quantized.onnx", "model.onnx"))
    pairs = [PAIR, (TEXTS[0], TEXTS[2])]
    answers = _values([row["answer"] for row in _command(exact, *pairs[0], *pairs[1])])
    np.testing.assert_allclose(answers, _expected(bc.load(run.model), pairs, "softmax"), atol=1e-4)
    assert 'onnx/serve.py "A first text." "A second text."' in card


def test_what_a_gate_refused_is_not_served(tmp_path):
    bc.save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    made = bc.export(tmp_path / "model", tmp_path)[-1]
    product = bc.load(tmp_path / "model")
    parts = (made.path, made.runtime, product.model.config, product.tokenizer, 24)
    served = write_serving(*parts, allowed=False)
    assert served is not None and 'FILE = "model.onnx"' in served.read_text()
    served.unlink()
    (tmp_path / "onnx" / "model.onnx").unlink()
    assert write_serving(*parts, allowed=False) is None and not served.exists()


def test_names_of_classes_never_become_code():
    model = tiny_model(id2label={0: '"""\nimport os', 1: "x"}, num_labels=2)
    source = serve_source("onnxruntime", "model.onnx", model.config, tiny_tokenizer(), 24)
    assert "import os" not in source
    compile(source, SERVE_FILE, "exec")


@pytest.mark.parametrize(
    ("problem", "fields", "kind"),
    [
        ("regression", {"num_labels": 1}, "number"),
        ("multi_label", {"num_labels": 3}, "sigmoid"),
        ("unlabelled", {"num_labels": 3}, "softmax"),
        ("unlabelled", {"num_labels": 1}, "number"),
        (None, {"num_labels": 2, "problem_type": "multi_label_classification"}, "sigmoid"),
        (None, {"num_labels": 1, "problem_type": "regression"}, "number"),
        # A cross-encoder: as its config says, else a sigmoid where it is known as one.
        ("reranker", {"num_labels": 1}, "score"),
        ("reranker", {"num_labels": 1, **IDENTITY}, "number"),
        ("reranker", {"num_labels": 1, **SIGMOID}, "score"),
        ("regression", {"num_labels": 1, **SIGMOID}, "number"),
        (None, {"num_labels": 1, **SIGMOID}, "score"),
        (None, {"num_labels": 1, "sbert_ce_default_activation_function": "a.Identity"}, "number"),
    ],
)
def test_the_task_tells_what_becomes_of_the_outputs(problem, fields, kind):
    assert answers_of(tiny_model(**fields).config, problem) == kind
