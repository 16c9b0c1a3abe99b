"""Tags of words from the data to what ships: trained, cut, taught, in int8, scored, served."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from tags_support import MAX_LENGTH, NAMES, TRAIN, rows_of, tags_task
from tests_support import WORDS, first_fast, tiny_model, tiny_tokenizer
from transformers import Trainer, TrainingArguments
from typer.testing import CliRunner
from words_support import ODD, TOKENIZERS

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.data import load_data
from bertcompress.deployment import Product
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.errors import ModelError, TaskError
from bertcompress.heads import HEADS, head_of_labels, head_of_model
from bertcompress.heads.tokens import Tokens
from bertcompress.measure.scores import predict, score
from bertcompress.method import Context, Models
from bertcompress.methods import method_class
from bertcompress.publish.serving import write_serving
from bertcompress.runtimes import open_predictor
from bertcompress.runtimes.torch import TorchPredictor

pytestmark = pytest.mark.usefixtures("without_figures")

LABELS = {"id2label": dict(enumerate(NAMES)), "num_labels": len(NAMES)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_data(tags_task(tmp_path_factory.mktemp("rows")))


def tagger(**fields):
    return tiny_model("bert", "ForTokenClassification", **LABELS | fields)


def batch_of(data, count=8):
    tokenizer = tiny_tokenizer()
    rows = data.encode(tokenizer, "train")
    return data.collator(tokenizer)([rows[i] for i in range(count)])


def test_the_kind_of_task_follows_from_the_rows(data):
    assert (data.task.problem, data.labels) == ("tokens", NAMES)
    assert data.task.metrics == ("f1", "precision", "recall", "accuracy")
    assert data.task.headline == "f1" and 0 < data.task.chance < 0.4


def test_each_word_is_labelled_once_whatever_windows_its_row_has(data):
    encoded = data.encoded(tiny_tokenizer(), "train")
    assert len(encoded.row_of_feature) > encoded.rows and encoded.cut == 0
    assert max(encoded.dataset["length"][:]) == MAX_LENGTH
    labels, words = encoded.flat["labels"], encoded.flat["words"]
    assert ((labels >= 0) == (words >= 0)).all()
    owners = np.repeat(encoded.row_of_feature, np.diff(encoded.offsets))
    for row, tags in enumerate(data.train["label"][:]):
        mine = (owners == row) & (words >= 0)
        assert dict(zip(words[mine].tolist(), labels[mine].tolist(), strict=True)) == dict(
            enumerate(tags)
        )


def test_the_loss_is_that_of_the_stock_class(data):
    model, batch = tagger(), batch_of(data)
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "labels")}
    outputs = model(**inputs)
    head = data.task.head
    torch.testing.assert_close(head.loss(outputs.logits, batch), outputs.loss)
    each = head.losses(outputs.logits, batch).sum() / (batch["labels"] >= 0).sum()
    torch.testing.assert_close(each, outputs.loss)


def test_only_first_pieces_enter_a_loss(data):
    """Special tokens, other pieces, padding and words of another window do not."""
    head, batch = data.task.head, batch_of(data)
    shape = (*batch["labels"].shape, len(NAMES))
    ours, theirs = torch.randn(shape), torch.randn(shape)
    counts = (batch["labels"] >= 0)[..., None]
    noise = torch.where(counts, ours, 1e4 * torch.randn(shape))
    draw = [torch.Generator().manual_seed(3) for _ in range(2)]
    for a, b in (
        (head.loss(ours, batch), head.loss(noise, batch)),
        (head.losses(ours, batch), head.losses(noise, batch)),
        (head.divergence(ours, theirs, batch, 2.0), head.divergence(noise, theirs, batch, 2.0)),
        *[
            tuple(
                head.drawn_losses(each, theirs, batch, g)
                for each, g in zip((ours, noise), draw, strict=True)
            )
        ],
    ):
        torch.testing.assert_close(a, b)
    assert float(head.divergence(ours, ours, batch, 2.0)) == 0
    assert set(head.labels_of(ours, batch)[~counts[..., 0]].tolist()) == {-100}


def test_a_batch_without_labels_counts_first_pieces_too(data):
    head, batch = data.task.head, batch_of(data)
    rows = data.encode(tiny_tokenizer(), "train").remove_columns("labels")
    plain = data.collator(tiny_tokenizer())([rows[i] for i in range(8)])
    assert "labels" not in plain
    shape = (*batch["labels"].shape, len(NAMES))
    ours, theirs = torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(
        head.divergence(ours, theirs, plain, 1.0), head.divergence(ours, theirs, batch, 1.0)
    )


def test_a_batch_in_which_nothing_counts_has_no_loss(data):
    head = data.task.head
    batch = {"labels": torch.full((2, 3), -100)}
    outputs = torch.randn(2, 3, len(NAMES), requires_grad=True)
    loss = head.loss(outputs, batch)
    loss.backward()
    assert loss.item() == 0 and not outputs.grad.any()
    assert float(head.divergence(outputs.detach(), outputs.detach() ** 2, batch, 1.0)) == 0


def test_answers_are_of_each_word_in_its_best_window(data):
    model, tokenizer = tagger(), tiny_tokenizer()
    answers = predict(TorchPredictor(model), data, "validation", tokenizer)
    encoded = data.encoded(tokenizer, "validation")
    rows = data.validation["words"][:]
    assert answers.shape == (60, max(map(len, rows)), len(NAMES))
    for row, words in enumerate(rows):
        assert np.isfinite(answers[row, : len(words)]).all()
        assert np.isnan(answers[row, len(words) :]).all()
    position = int(np.bincount(encoded.row_of_feature).argmax())
    for feature in np.flatnonzero(encoded.row_of_feature == position).tolist():
        batch = data.collator(tokenizer)([encoded.feature(feature)])
        (outputs,) = TorchPredictor(model)(batch)
        words = encoded.feature(feature)["words"]
        for place in np.flatnonzero(words >= 0):
            np.testing.assert_allclose(answers[position, words[place]], outputs[place], atol=1e-5)


def test_an_invisible_word_is_outside_and_the_score_is_of_all_words(tmp_path):
    rows = [(["the", "cat", "\u200b", "sleeps"], ["O", "B-ANIMAL", "B-PLACE", "O"])] * 2
    rows += rows_of(160, 0)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"tokens": w, "ner_tags": t}) for w, t in rows))
    data = load_data(bc.Task.from_files(path))
    head, encoded = data.task.head, data.encoded(tiny_tokenizer(), "train")
    where = next(i for i, words in enumerate(data.train["words"][:]) if "\u200b" in words)
    sure = [np.eye(4)[[0] * len(encoded.feature(i)["input_ids"])] * 9
            for i in range(len(encoded.dataset))]  # fmt: skip
    answers = head.answers(sure, encoded)
    assert answers[where, 2].argmax() == NAMES.index("O")
    assert answers[where, 1].argmax() == 0
    truth = data.references("train")
    counted = head.statistics(head.metrics["accuracy"], answers, truth)
    assert counted[where].tolist() == [1, 4]  # the invisible one counts, as wrong


def test_scores_of_a_model_are_those_of_seqeval(data):
    seqeval = pytest.importorskip("seqeval.metrics")
    answers = predict(TorchPredictor(tagger(seed=3)), data, "validation", tiny_tokenizer())
    found = {s.metric: s.value for s in score(data.task, data, "validation", answers)}
    tags = [
        [NAMES[t] for t in row[: len(words)].argmax(-1)]
        for row, words in zip(answers, data.validation["words"][:], strict=True)
    ]
    given = [[NAMES[t] for t in row] for row in data.validation["label"][:]]
    assert found["f1"] == pytest.approx(seqeval.f1_score(given, tags), abs=1e-12)
    assert found["precision"] == pytest.approx(seqeval.precision_score(given, tags), abs=1e-12)
    assert found["recall"] == pytest.approx(seqeval.recall_score(given, tags), abs=1e-12)
    assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(given, tags), abs=1e-12)
    parts = data.task.head.parts(answers, data.references("validation"))
    report = seqeval.classification_report(given, tags, output_dict=True, zero_division=0)
    for name, (value, count) in parts.items():
        assert value == pytest.approx(report[name]["f1-score"], abs=1e-12)
        assert count == report[name]["support"]


def test_nan_of_a_model_is_told_and_padding_is_not(data):
    class Broken:
        def __call__(self, batch):
            out = np.ones((*batch["input_ids"].shape, 4), np.float32)
            out[0, 2] = np.nan
            return out

    answers = predict(Broken(), data, "validation", tiny_tokenizer(), batch_size=60)
    assert not data.task.head.all_finite(answers)
    with pytest.raises(ModelError, match=r"NaN or infinity for \d+ of 60 rows"):
        score(data.task, data, "validation", answers)
    fine = predict(TorchPredictor(tagger()), data, "validation", tiny_tokenizer())
    assert np.isnan(fine).any() and data.task.head.all_finite(fine)


def test_a_model_numbers_its_tags_otherwise(tmp_path):
    """Tags are matched by name: the same model in another order has the same score."""
    task = tags_task(tmp_path)
    order = [3, 1, 0, 2]
    model, other = tagger(seed=3), tagger(seed=3)
    with torch.no_grad():
        other.classifier.weight.copy_(model.classifier.weight[order])
        other.classifier.bias.copy_(model.classifier.bias[order])
    names = {i: NAMES[j] for i, j in enumerate(order)}
    plain, moved = load_data(task), load_data(task, model_labels=names)
    assert moved.labels == tuple(names.values()) and moved.order is None
    scores = [
        score(
            d.task, d, "validation", predict(TorchPredictor(m), d, "validation", tiny_tokenizer())
        )
        for d, m in ((plain, model), (moved, other))
    ]
    assert [s.value for s in scores[0]] == [s.value for s in scores[1]]


def test_the_head_of_a_tagger_and_of_its_labels():
    assert head_of_model(tagger()).key == "tokens"
    assert head_of_model(tiny_model()).key == "single_label"
    assert head_of_labels(torch.zeros(2, 3, dtype=torch.long)).key == "tokens"


def test_parts_of_speech_are_judged_by_words():
    head = Tokens(("NOUN", "VERB", "ADJ"))
    assert head.usual_for(3)[0] == "accuracy"
    assert HEADS["tokens"].named(("O", "B-X")).usual_for(2)[0] == "f1"


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_answers_token_by_token(data, tmp_path, cached):
    live = LiveTeacher(tagger(), tiny_tokenizer(), data)
    teacher = CachedTeacher(live, tmp_path) if cached else live
    batch = batch_of(data, 12)
    part = batch.get("part")
    found = teacher(batch["row_id"], parts=part).logits
    wanted = live.answer(batch).logits
    shown = batch["attention_mask"].bool()
    torch.testing.assert_close(found[shown], wanted[shown], atol=1e-5, rtol=0)


METHODS = [
    {"finetune": {**TRAIN, "epochs": 1}},
    {"prune_structured": {"keep": 0.5, "rows": 16}},
    {"kprune": {"keep": 0.5, "rows": 16}},
    {"prune_hidden": {"keep": 0.5}},
    {"share_layers": {}},
    {"student": {"layers": 2}},
    {"factorize_linear": {"keep": 0.7, "rows": 16, "metric": "fisher"}},
    {"factorize_embedding": {"size": 8}},
    {"trim_vocabulary": {}},
    {"flop": {**TRAIN, "epochs": 1, "keep": 0.7, "rows": 16}},
    {"q8bert": {**TRAIN, "epochs": 1}},
    {"q_bert": {**TRAIN, "high_share": 0.4, "shards": 1, "group": 16, "epochs": 1}},
    {"gradual_magnitude": {**TRAIN, "epochs": 1}},
    {"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": 0.0}},
]


@pytest.mark.parametrize("method", first_fast(METHODS, 4), ids=lambda method: next(iter(method)))
def test_every_method_takes_a_tagger(data, tmp_path, method):
    product = Product(tagger(), tiny_tokenizer())
    teacher = LiveTeacher(tagger(seed=1), tiny_tokenizer(), data)
    ctx = Context(data.task, data, Models(teacher), torch.device("cpu"), 0, tmp_path)
    (step,) = bc.Recipe.parse({"model": "x", "task": data.task, "methods": [method]}).methods
    done = step.apply(product, ctx)
    answers = predict(TorchPredictor(done.model), data, "validation", done.tokenizer)
    assert data.task.head.all_finite(answers)
    assert type(done.model).__name__.endswith("ForTokenClassification")


TAUGHT = {
    "distill": {"hidden_weight": 0.5},
    "pkd": {},
    "tinybert": {"inside_epochs": 1},
    "minilm": {"inside_epochs": 1},
    "ted": {},
    "theseus": {"layers": 1},
    "sequence_level": {},
    "born_again": {},
    "snapshot": {},
}


@pytest.mark.parametrize("key", first_fast(TAUGHT, 2))
def test_every_way_of_teaching_takes_a_tagger(data, tmp_path, key):
    product = Product(tagger(), tiny_tokenizer())
    teacher = LiveTeacher(tagger(seed=1), tiny_tokenizer(), data)
    models = Models(teacher, lambda: Product(tagger(seed=5), tiny_tokenizer()))
    ctx = Context(data.task, data, models, torch.device("cpu"), 0, tmp_path)
    step = method_class(key)(**{**TRAIN, "epochs": 1, **TAUGHT[key]})
    done = step.apply(product, ctx)
    answers = predict(TorchPredictor(done.model), data, "validation", done.tokenizer)
    assert data.task.head.all_finite(answers)


def test_an_albert_tagger_keeps_its_answers_in_int8(tmp_path, data):
    """Its layers share weights, which dynamic int8 would round once for each."""
    model = tiny_model("albert", "ForTokenClassification", **LABELS)
    bc.save(model, tmp_path / "model", tiny_tokenizer())
    bc.export(tmp_path / "model", tmp_path)
    ours = predict(TorchPredictor(model), data, "validation", tiny_tokenizer())
    onnx = open_predictor(tmp_path / "onnx", "onnxruntime", None, "int8")
    theirs = predict(onnx, data, "validation", tiny_tokenizer())
    assert data.task.head.changed(theirs, ours).mean() < 0.1


def test_the_stock_pipeline_tags_alike(tmp_path, data):
    product = Product(tagger(seed=2), tiny_tokenizer())
    pipe = transformers.pipeline(
        "token-classification", model=product.model, tokenizer=product.tokenizer
    )
    answers = predict(TorchPredictor(product.model), data, "validation", product.tokenizer)
    rows = [i for i, words in enumerate(data.validation["words"][:]) if len(words) < 9]
    for row in rows[:10]:
        text = data.validation["text"][row]
        found = [each["entity"] for each in pipe(text, ignore_labels=[])]
        count = len(data.validation["words"][row])
        assert found == [NAMES[i] for i in answers[row, :count].argmax(-1)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The main job of a tagger."""
    place = tmp_path_factory.mktemp("run")
    tiny_model("bert", "Model").save_pretrained(place / "bert")
    tiny_tokenizer().save_pretrained(place / "bert")
    recipe = bc.Recipe.parse(
        {
            "model": str(place / "bert"),
            "task": tags_task(place),
            "methods": [
                {"finetune": {**TRAIN, "epochs": 8}},
                {"prune_structured": {"keep": 0.6, "rows": 32}},
                {"distill": {**TRAIN, "epochs": 4}},
                {"quantize_int8": {"runtimes": ["onnxruntime"]}},
            ],
            "measure": {"latency": False},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_HOME", str(place / "home"))
        return bc.run(recipe, place / "out")


def test_the_main_job(run):
    first, *_, last = run.report.stages
    fitted = first.deployments[0].headline
    assert (fitted.metric, fitted.n) == ("f1", 60)
    assert fitted.ci_low > run.report.task["chance"] + 0.2
    assert {row.headline.metric for row in last.deployments} == {"f1"}
    with np.load(run.folder / "stages" / "01-finetune" / "logits.npz") as stored:
        assert {stored[name].shape[2:] for name in stored.files} == {(4,)}


def test_the_report_shows_each_type(run):
    text = run.report.to_markdown()
    _, _, table = text.partition("F1 of each type of entity")
    assert "| ANIMAL |" in table and "| PLACE |" in table
    rows = {part.name: part for part in run.report.stages[0].deployments[0].parts}
    assert set(rows) == {"ANIMAL", "PLACE"}
    given = [tag for _, tags in rows_of(60, 1) for tag in tags]
    assert rows["ANIMAL"].n == given.count("B-ANIMAL")
    assert "F1 of each type of entity" in run.report.to_html()


def test_a_second_run_takes_its_stages_from_the_store(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BERTCOMPRESS_HOME", str(run.folder.parent / "home"))
    again = bc.run(bc.Recipe.load(run.folder / "recipe.yaml"), tmp_path / "again")
    assert all(stage.cost.reused for stage in again.report.stages if stage.cost)
    pairs = zip(run.report.stages, again.report.stages, strict=True)
    assert all(a.main.scores == b.main.scores and a.main.parts == b.main.parts for a, b in pairs)


def test_evaluate_gives_the_scores_of_the_report(run):
    wanted = {s.metric: s.value for s in run.report.stages[-1].deployments[-1].scores}
    for runtime in ("torch", "onnxruntime"):
        found = {s.metric: s.value for s in bc.evaluate(run.folder, runtime=runtime)}
        assert set(found) == {"f1", "precision", "recall", "accuracy"}
    assert found == pytest.approx(wanted, abs=1e-9)


def test_a_file_of_rows_is_judged_alone(run, tmp_path):
    from tags_support import write_conll

    path = write_conll(tmp_path / "test.iob", rows_of(30, 7), separator=" ")
    scores = bc.evaluate(run.folder, test=path)
    assert {s.split for s in scores} == {"test"} and scores[0].n == 30


@pytest.mark.slow
def test_what_shipped_is_timed(run):
    rows = bc.bench([run.folder], shapes=((1, 16),), seconds=0.1, threads=1)
    assert rows


def test_the_command_line_takes_a_file_of_tags(tmp_path):
    tags_task(tmp_path, train=60, validation=20)
    tagger().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    files = ("--train", tmp_path / "train.conll", "--validation", tmp_path / "validation.conll")
    words = ["evaluate", tmp_path / "model", *files, "--json"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert '"metric": "f1"' in done.output


def test_what_shipped_is_verified(run):
    rows, _ = bc.verify(run.folder, seconds=0)
    assert rows and all(row.passes for row in rows)


def test_the_model_names_its_tags(run):
    model = bc.load(run.folder).model
    assert tuple(model.config.id2label.values()) == NAMES


def test_the_card_says_what_it_is_for_and_its_code_runs(run, monkeypatch):
    card = (run.folder / "model" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "AutoModelForTokenClassification" in card
    assert ", ".join(NAMES) in card
    codes = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    code = next(each for each in codes if "onnxruntime" in each)
    clone = run.folder / "clone"
    clone.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "config.json"):
        (clone / name).write_text((run.folder / "model" / name).read_text())
    (clone / "onnx").mkdir(exist_ok=True)
    for file in (run.folder / "onnx").iterdir():
        (clone / "onnx" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(clone)
    names: dict[str, object] = {}
    exec(compile(code, "card", "exec"), names)
    assert names["logits"].shape[0] == 1 and names["logits"].shape[2] == len(NAMES)
    assert [piece for piece, _ in names["tagged"]] == ["a", "[UNK]", "."]
    assert {tag for _, tag in names["tagged"]} <= set(NAMES)


ALONE = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("serve", sys.argv[1])
serve = importlib.util.module_from_spec(spec)
spec.loader.exec_module(serve)
print(json.dumps(serve.answer(json.load(sys.stdin))))
assert not {"torch", "transformers", "bertcompress"} & set(sys.modules)
"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_serve_py_tags_as_the_model_was_scored(data, tmp_path, runtime):
    """Long texts too, window by window, and words of which the tokenizer leaves nothing."""
    pytest.importorskip(runtime)
    bc.save(tagger(seed=2), tmp_path / "model", tiny_tokenizer())
    bc.export(tmp_path / "model", tmp_path)
    product = bc.load(tmp_path / "model")
    file = tmp_path / "onnx" / "model.onnx"
    config = product.model.config
    served = write_serving(file, runtime, config, product.tokenizer, MAX_LENGTH, problem="tokens")
    compile(served.read_text(), "serve.py", "exec")
    texts = [" ".join(words) for words in data.validation["words"][:]]
    texts += [["the", "\u200b", "cat"]]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(served)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *rows, odd = json.loads(done.stdout)
    answers = predict(TorchPredictor(product.model), data, "validation", product.tokenizer)
    told, doubt = 0, 0.0 if runtime == "onnxruntime" else 0.05
    for found, answer, words in zip(rows, answers, data.validation["words"][:], strict=True):
        assert [each["word"] for each in found] == words
        shares = torch.tensor(answer[: len(words)]).softmax(-1)
        scores = [each["score"] for each in found]
        # OpenVINO computes in bf16 where it can.
        np.testing.assert_allclose(scores, shares.max(-1).values, atol=0.05)
        top = shares.topk(2).values
        sure = (top[:, 0] - top[:, 1] > doubt).tolist()
        tags = [NAMES[i] for i in shares.argmax(-1)]
        told += sum(sure)
        assert [e["tag"] for e, s in zip(found, sure, strict=True) if s] == [
            tag for tag, s in zip(tags, sure, strict=True) if s
        ]
    assert told > 250
    assert odd[1] == {"word": "\u200b", "tag": "O", "score": 1.0}


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "unigram"])
def test_serve_py_finds_odd_words_by_their_characters(tmp_path, kind):
    """Emoji, blanks within a word, empty words, what looks like a special token."""
    tokenizer = TOKENIZERS[kind]()
    model = tagger(seed=2, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    bc.save(model, tmp_path / "model", tokenizer)
    bc.export(tmp_path / "model", tmp_path)
    product = bc.load(tmp_path / "model")
    rows = [["the", *ODD[i : i + 9]] for i in range(24, len(ODD), 9)]
    others = [["the", "cat", word] for word in WORDS]
    splits = {
        name: Dataset.from_dict({"tokens": part, "tags": [["O"] * len(row) for row in part]})
        for name, part in (("train", others), ("validation", rows))
    }
    data = load_data(bc.Task.from_dataset(splits, max_length=MAX_LENGTH, labels=NAMES))
    file = tmp_path / "onnx" / "model.onnx"
    parts = (file, "onnxruntime", product.model.config, product.tokenizer, MAX_LENGTH)
    served = write_serving(*parts, problem="tokens")
    words = data.validation["words"][:]
    answers = predict(TorchPredictor(product.model), data, "validation", product.tokenizer)
    spec = importlib.util.spec_from_file_location("served_odd", served)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for found, answer, row in zip(module.answer(words), answers, words, strict=True):
        assert [each["word"] for each in found] == row
        assert [each["tag"] for each in found] == [NAMES[i] for i in answer[: len(row)].argmax(-1)]


def test_export_writes_what_serves_a_tagger(tmp_path):
    bc.save(tagger(), tmp_path / "model", tiny_tokenizer())
    bc.export(tmp_path / "model", tmp_path)
    source = (tmp_path / "onnx" / "serve.py").read_text()
    assert "Tags the words of texts" in source
    spec = importlib.util.spec_from_file_location("served_tags", tmp_path / "onnx" / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for count in (1, 5, 22, 90):
        for room in (1, 4, 9):
            parts = list(module.windows(count, room))
            assert parts[0][2][0] == 0 and parts[-1][2][1] == count
            assert all(a[2][1] == b[2][0] for a, b in pairwise(parts))
            assert all(s <= low and high <= e for s, e, (low, high) in parts)


def test_a_stock_trainer_trains_and_scores_a_tagger(data, tmp_path):
    tokenizer = tiny_tokenizer()
    train, judged = (data.encode(tokenizer, name) for name in ("train", "validation"))
    metric = data.task.metric()

    def scores(found):
        return metric.compute(predictions=found.predictions, references=found.label_ids)

    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=4, learning_rate=1e-2, per_device_train_batch_size=8,
        report_to=[], disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    columns = ["input_ids", "attention_mask", "labels"]
    collate = data.collator(tokenizer)

    def plain(features):
        return {k: v for k, v in collate(features).items() if k in columns}

    trainer = Trainer(
        tagger(), arguments, data_collator=plain, train_dataset=train, eval_dataset=judged,
        compute_metrics=scores,
    )  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_accuracy"] > before["eval_accuracy"]
    assert 0 <= after["eval_f1"] <= 1


def test_a_metric_of_other_heads_does_not_fit(tmp_path):
    with pytest.raises(TaskError, match="metric 'matthews' does not fit a tokens task"):
        tags_task(tmp_path, metrics=["matthews"])
