"""Sentence embedders: the head, its losses, and runs with labels, without, and from plain texts."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from embedder_support import sentences, tiny_embedder, write_pairs, write_texts
from report_support import sample_report
from tests_support import first_fast, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.errors import DataError, InputError, ModelError, TaskError
from bertcompress.heads import HEADS
from bertcompress.heads.pooling import Pooling, cosines
from bertcompress.heads.vectors import Similarity, Vectors
from bertcompress.measure.scores import predict, score
from bertcompress.models.io import load, save
from bertcompress.publish import CardFacts, render
from bertcompress.runtimes import open_predictor
from bertcompress.runtimes.torch import TorchPredictor
from bertcompress.training import LabelLoss, TrainSettings, fit
from bertcompress.training.steps import LengthGrouped

pytestmark = pytest.mark.usefixtures("without_figures")
TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32", "epochs": 1}
ONNX = {"quantize_int8": {"runtimes": ["onnxruntime"]}}


@pytest.fixture
def folder(tmp_path):
    return tiny_embedder(tmp_path / "m")


@pytest.fixture
def texts(tmp_path):
    files = write_texts(tmp_path / "train.jsonl", 120), write_texts(tmp_path / "test.jsonl", 40, 5)
    return bc.Task.from_texts(*files)


@pytest.fixture
def pairs(tmp_path):
    files = write_pairs(tmp_path / "train.jsonl", 120), write_pairs(tmp_path / "test.jsonl", 40, 5)
    return bc.Task.from_files(*files, text=["a", "b"], label="score", problem="vectors")


def run(folder, task, methods, out, **measure):
    recipe = {"model": str(folder), "task": task, "methods": methods}
    measure = {"latency": False, **measure}
    return bc.run(bc.Recipe.parse({**recipe, "measure": measure}), out)


def batch_of(rows=6, pairs=False):
    tokenizer = tiny_tokenizer()
    batch = dict(tokenizer(sentences(rows), padding=True, return_tensors="pt"))
    if pairs:
        batch["row_id"] = torch.arange(rows) // 2
        batch["part"] = torch.arange(rows) % 2
        batch["labels"] = torch.linspace(0, 5, rows // 2).repeat_interleave(2)
    return batch


def test_a_column_of_labels_makes_it_a_task_of_pairs(pairs, texts):
    assert (pairs.problem, pairs.head.auto_class, texts.problem) == ("similarity", None, "vectors")
    with pytest.raises(TaskError, match="a similarity task has 2 text columns, 1 given"):
        bc.Task.from_files("x.csv", text="a", label="b", problem="vectors")
    with pytest.raises(TaskError, match="prompts: name one for each text column"):
        bc.Task.from_files("x.csv", text="a", problem="vectors", prompts=["query", "document"])


@pytest.mark.parametrize("head", [Vectors(), Similarity()], ids=lambda head: head.key)
@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_padding_changes_nothing(head, mode):
    head = type(head)(Pooling(mode=mode, normalize=True))
    model, tokenizer = tiny_model("bert", "Model"), tiny_tokenizer()
    short, long = tokenizer(["the cat"], return_tensors="pt"), batch_of()
    padded = tokenizer(["the cat", "the " * 12], padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = head.labels_of(model(**short).last_hidden_state, short)
        among = head.labels_of(model(**padded).last_hidden_state, padded)[:1]
        states = model(**long).last_hidden_state
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=0)
    vectors = head.feature_outputs(states.numpy(), long["attention_mask"].numpy())
    expected = head.taught(states, long).numpy()
    np.testing.assert_allclose(np.stack(vectors), expected, atol=1e-5)
    assert head.feature_outputs(expected, None)[0].tolist() == expected[0].tolist()


def test_distance_to_a_teacher_is_nothing_between_equals_and_one_minus_cosine():
    head, rng = Vectors(), torch.Generator().manual_seed(0)
    one, other = (torch.randn(5, 8, generator=rng) for _ in range(2))
    assert head.divergence(one, one, {}, 1.0) == 0
    assert head.divergence(one, 3 * one, {}, 1.0) < 1e-12  # lengths do not count
    ours, theirs = (torch.nn.functional.normalize(each, dim=-1) for each in (one, other))
    apart = ~torch.eye(5, dtype=torch.bool)
    among = (ours @ ours.T - theirs @ theirs.T)[apart].pow(2).mean()
    expected = (1 - (ours * theirs).sum(-1)).mean() + among
    torch.testing.assert_close(head.divergence(one, other, {}, 1.0), expected)
    # Between other widths only how texts stand to each other can be compared.
    turned = one @ torch.linalg.qr(torch.randn(12, 12, generator=rng))[0][:8]
    assert head.divergence(one, turned, {}, 1.0) < 1e-10
    cut = Vectors(dimensions=[8, 3])
    terms = [head.divergence(one[:, :n], other[:, :n], {}, 1.0) for n in (8, 3)]
    torch.testing.assert_close(cut.divergence(one, other, {}, 1.0), sum(terms) / 2)


def test_the_loss_of_pairs_is_that_of_sentence_transformers():
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    batch, vectors = batch_of(10, pairs=True), torch.randn(10, 8)
    batch["labels"][4:6] = batch["labels"][0]  # a tie is no order
    theirs = CoSENTLoss(None).compute_loss_from_embeddings(
        [vectors[0::2], vectors[1::2]], batch["labels"][0::2]
    )
    torch.testing.assert_close(Similarity().loss(vectors, batch), theirs)


def test_a_pair_that_is_not_whole_in_a_batch_is_left_out():
    batch, vectors = batch_of(10, pairs=True), torch.randn(10, 8)
    fewer = {name: each[1:] for name, each in batch.items()}  # the first text of the first pair
    whole = {name: each[2:] for name, each in batch.items()}
    head = Similarity()
    assert head.loss(vectors[1:], fewer) == head.loss(vectors[2:], whole)
    assert head.losses(vectors[1:], fewer)[0] == 0
    assert head.losses(vectors, batch)[1::2].abs().sum() == 0


def test_both_texts_of_a_pair_stay_in_one_batch():
    lengths = np.random.default_rng(0).integers(3, 40, 60)
    order = list(LengthGrouped(lengths, 8, 0, together=2))
    assert sorted(order) == list(range(60))
    assert all(b == a + 1 and a % 2 == 0 for a, b in zip(order[::2], order[1::2], strict=True))
    plain = list(LengthGrouped(lengths, 8, 0))
    assert plain != sorted(plain)


def test_pairs_are_not_split_over_processes(folder, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 2)
    product = load(folder)
    data = load_data(pairs).fitted(product.tokenizer)
    settings = TrainSettings(batch_size=6, precision="fp32", learning_rate=1e-3)
    with pytest.raises(InputError, match="6 texts over 2 processes are 3 each, which splits a pai"):
        fit(product.model, LabelLoss(data.task.head), data, tokenizer=product.tokenizer,
            settings=settings, workdir=tmp_path, progress=False)  # fmt: skip


def test_drawn_losses_have_the_curvature_of_the_distance():
    head, generator = Vectors(), torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(400, 8), dim=-1)
    losses = head.drawn_losses(vectors, vectors, {}, generator)
    assert float(losses.mean()) == pytest.approx(4, rel=0.1)  # half of D squares of variance 1


def test_scores_are_those_of_sentence_transformers(folder, pairs):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    lines = Path(pairs.files["validation"]).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    judge = EmbeddingSimilarityEvaluator(*([r[n] for r in rows] for n in ("a", "b", "score")))
    theirs = judge(SentenceTransformer(str(folder), device="cpu"))
    ours = {row.metric: row.value for row in bc.evaluate(folder, pairs)}
    assert ours["spearman"] == pytest.approx(theirs["spearman_cosine"], abs=1e-3)  # fp32 ties
    assert ours["pearson"] == pytest.approx(theirs["pearson_cosine"], abs=1e-6)


def test_prompts_of_the_task_are_read_and_lengths_count_them(tmp_path, pairs):
    folder = tiny_embedder(tmp_path / "p", prompts={"query": "the cat ", "document": "a dog "})
    product = load(folder)
    fields = {"pooling": Pooling.of(product.model.config)}
    plain = load_data(pairs.model_copy(update=fields)).fitted(product.tokenizer)
    named = pairs.model_copy(update={**fields, "prompts": ("query", "document")})
    data = load_data(named).fitted(product.tokenizer)
    encoded = data.encoded(product.tokenizer, "validation")
    words = product.tokenizer.convert_ids_to_tokens(encoded.feature(0)["input_ids"])
    other = product.tokenizer.convert_ids_to_tokens(encoded.feature(1)["input_ids"])
    assert (words[1:3], other[1:3]) == (["the", "cat"], ["a", "dog"])
    assert encoded.longest == plain.encoded(product.tokenizer, "validation").longest + 2
    assert data.fingerprint != plain.fingerprint
    answers = predict(TorchPredictor(product.model), data, "validation", product.tokenizer)
    row = data.validation[0]
    alone = [
        TorchPredictor(product.model)(dict(product.tokenizer([text], return_tensors="np")))[0]
        for text in ("the cat " + row["text"], "a dog " + row["text_pair"])
    ]
    pooled = [fields["pooling"].vector(states) for states in alone]
    np.testing.assert_allclose(answers[0], pooled, atol=1e-5)


def test_a_teacher_pools_as_its_own_folder_says(tmp_path, texts):
    teacher = load(tiny_embedder(tmp_path / "t", mode="cls"))
    data = load_data(texts.model_copy(update={"pooling": Pooling()})).fitted(teacher.tokenizer)
    live = LiveTeacher(teacher.model, teacher.tokenizer, data)
    ids = torch.as_tensor(data.train["row_id"][:5])
    answer = live(ids).logits
    kept = CachedTeacher(live, tmp_path / "cache")(ids).logits
    batch = data.collator(teacher.tokenizer)(data.rows(ids.tolist(), teacher.tokenizer))
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        first = teacher.model(**inputs).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(first, dim=-1)
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=0)


CUTS = [
    {"prune_structured": {"keep": 0.5, "rows": 16}},
    {"kprune": {"keep": 0.5, "rows": 16}},
    {"prune_hidden": {"keep": 0.5}},
    {"factorize_embedding": {"size": 8}},
    {"share_layers": {"groups": 1}},
    {"factorize_linear": {"keep": 0.6, "rows": 16}},
    {"flop": {**TRAIN, "rows": 16}},
    "trim_vocabulary",
]


@pytest.mark.parametrize(
    "cut", first_fast(CUTS, 2), ids=lambda cut: cut if isinstance(cut, str) else next(iter(cut))
)
def test_what_cuts_a_classifier_cuts_an_embedder_without_labels(cut, folder, texts, tmp_path):
    slow = {**TRAIN, "learning_rate": 1e-3, "epochs": 2}
    done = run(folder, texts, [cut, {"distill": slow}], tmp_path / "run")
    first, after, last = (stage.deployments[0] for stage in done.report.stages)
    assert (first.headline.metric, first.headline.value) == ("cosine", pytest.approx(1))
    assert [each.metric for each in last.scores] == ["cosine", "neighbours"]
    if cut != "trim_vocabulary":  # whose model is the same on these texts
        assert last.headline.value > min(after.headline.value, 0.9)
    product = bc.load(done.folder)
    assert Pooling.of(product.model.config) == Pooling.of(load(folder).model.config)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["q8bert", "gradual_magnitude", "q_bert"])
def test_methods_that_train_on_labels_train_on_pairs(trained, folder, pairs, tmp_path):
    done = run(folder, pairs, [{"finetune": TRAIN}, {trained: TRAIN}], tmp_path / "run")
    assert [stage.deployments[0].headline.metric for stage in done.report.stages] == [
        "spearman"
    ] * 2


@pytest.mark.slow
def test_training_on_pairs_learns_and_its_run_is_served_and_replayed(folder, pairs, tmp_path):
    train = {**TRAIN, "epochs": 4}
    methods = [{"finetune": train}, CUTS[0], {"distill": train}, ONNX]
    before = {row.metric: row.value for row in bc.evaluate(folder, pairs)}["spearman"]
    done = run(folder, pairs, methods, tmp_path / "run")
    assert done.report.stages[0].deployments[0].headline.value > before + 0.1
    assert {row.metric: row.value for row in bc.evaluate(done.folder)}["spearman"] > before
    assert all(row.passes for row in bc.verify(done.folder, seconds=0)[0])
    served(done)


def served(done):
    """serve.py, the card's code and sentence-transformers give the vectors of the model."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["the cat sleeps", "a dog"]
    model = done.folder / "model"
    embedder = sentence_transformers.SentenceTransformer(
        str(model), device="cpu", trust_remote_code=True
    )
    vectors = embedder.encode(texts)
    out = subprocess.run(
        [sys.executable, done.folder / "onnx/serve.py", *texts],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = [json.loads(line)["answer"] for line in out.splitlines()]
    assert cosines(np.array(found), vectors).min() > 0.98  # int8
    card = (model / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "pipeline_tag: sentence-similarity" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    spaces = [{"__name__": "card"} for _ in code]
    for block, space in zip(code, spaces, strict=True):
        block = block.replace("path/to/this/folder", str(model))
        exec(block.replace('"onnx"', f'"{done.folder}/onnx"'), space)
    sys.modules.pop("serve")
    sys.path.remove(f"{done.folder}/onnx")
    np.testing.assert_allclose(spaces[0]["similarities"].diagonal(), 1, atol=1e-5)
    expected = embedder.encode(["A first text.", "A second text."])
    assert cosines(np.array(spaces[-1]["vectors"]), expected).min() > 0.98


def test_the_code_on_the_card_gives_the_vectors_of_the_model(tmp_path, monkeypatch):
    """It left out default prompt, lower case, dimensions and side of truncation."""
    pooling = {"default_prompt": "query", "dimensions": 8, "lowercase": True}
    bare = tiny_embedder(tmp_path / "m", prompts={"query": "never red "}, **pooling)
    made = bc.export(bare, tmp_path / "copy")
    (tmp_path / "copy/onnx/serve.py").write_text(
        (tmp_path / "copy/onnx/serve.py").read_text().replace(made[-1].path.name, "model.onnx")
    )
    product = load(bare)
    kept = Pooling.of(product.model.config)
    card = render(CardFacts(sample_report(), "model: m", 1, pooling=kept, limit=32))
    code = [each for each in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "serve" in each]
    assert len(code) == 1 and 'prompt="query"' in card and "openvino/serve.py` does" in card
    monkeypatch.setattr(sys, "path", [*sys.path])
    space, place = {}, f'"{tmp_path}/copy/onnx"'
    exec(code[0].replace("A first text.", "THE Cat").replace('"onnx"', place), space)
    sys.modules.pop("serve")
    ids = product.tokenizer(["never red the cat"], return_tensors="np")
    expected = kept.vector(TorchPredictor(product.model)(dict(ids))[0])
    assert expected.shape == (8,)
    np.testing.assert_allclose(space["vectors"][0], expected, atol=1e-4)


@pytest.mark.parametrize("mode", first_fast(["mean", "cls", "max"]))
def test_export_with_the_pooling_inside(mode, tmp_path):
    folder = tiny_embedder(tmp_path / "m", mode=mode, normalize=mode != "max", dimensions=7)
    files = bc.export(folder, tmp_path / "out", pooled=True)
    product = load(folder)
    batch = product.tokenizer(sentences(9), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = product.model(**batch).last_hidden_state
    pooling = Pooling.of(product.model.config)
    wanted = pooling.vectors(states, batch["attention_mask"]).numpy()
    for each in files:
        for runtime in ("onnxruntime", "openvino"):
            pytest.importorskip(runtime)
            found = open_predictor(each.path, runtime)({k: v.numpy() for k, v in batch.items()})
            assert found.shape == (9, 7)
            least = 1 - 1e-5 if each.precision == "fp32" else 0.98
            assert cosines(found, wanted).min() > least
    assert all(row.passes for row in bc.verify(tmp_path / "out", seconds=0)[0])
    serve = [sys.executable, tmp_path / "out/onnx/serve.py", "the cat"]
    out = subprocess.run(serve, capture_output=True, text=True, check=True).stdout
    assert len(json.loads(out)["answer"]) == 7


def served_by(folder, file="model.onnx"):
    """The serve.py of an export as a module; `file`: what it opens."""
    path = folder / "onnx/serve.py"
    path.write_text(path.read_text().replace("model_quantized.onnx", file))
    spec = importlib.util.spec_from_file_location("served_vectors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "prompts", [{}, {"query": "red ", "passage": "blue "}, {"corpus": "old ", "document": "new "}]
)
def test_serve_py_takes_the_prompts_of_the_model_and_no_others(prompts, tmp_path):
    """A misspelt name gave the vector without a prompt, and `document` not that of `passage`."""
    folder = tiny_embedder(
        tmp_path / "m", prompts=prompts, default_prompt=next(iter(prompts), None)
    )
    bc.export(folder, tmp_path / "out")
    product, serve = load(folder), served_by(tmp_path / "out")
    pooling = Pooling.of(product.model.config)
    for name in (None, "query", "document", *prompts):
        ids = product.tokenizer([pooling.prompt(name) + "the cat"], return_tensors="np")
        expected = pooling.vector(TorchPredictor(product.model)(dict(ids))[0])
        np.testing.assert_allclose(serve.answer(["the cat"], prompt=name)[0], expected, atol=1e-4)
    names = ", ".join({"query": "", "document": "", **prompts})
    with pytest.raises(ValueError, match=f"no prompt is called 'queries'; there are {names}"):
        serve.answer(["the cat"], prompt="queries")


def test_a_pooled_file_is_scored_as_the_model_is(folder, pairs, tmp_path):
    bc.export(folder, tmp_path / "out", pooled=True)
    ours, file = bc.evaluate(folder, pairs), tmp_path / "out/onnx/model.onnx"
    for one, other in zip(ours, bc.evaluate(file, pairs), strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-3)


def test_only_encoders_are_pooled(tmp_path):
    folder = save(tiny_model(), tmp_path / "m", tiny_tokenizer())
    with pytest.raises(ModelError, match="answers for whole texts; only an encoder without a head"):
        bc.export(folder, tmp_path / "out", pooled=True)


def test_texts_in_a_file_of_lines(tmp_path, folder):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join([*sentences(60), "", "  "]) + "\n", encoding="utf-8")
    task = bc.Task.from_texts(path)
    data = load_data(task)
    assert (task.name, task.dataset, len(data.train) + len(data.selection)) == (
        "corpus",
        "text",
        48,
    )
    assert "split off" in data.notes[0]
    with pytest.raises(DataError, match="holds one text a line, and task 'corpus' needs"):
        load_data(bc.Task.from_texts(path, text=["a", "b"]))
    path.write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"corpus.txt:2: not UTF-8 \(byte 0xff\)"):
        load_data(task)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="no line with a text"):
        load_data(task)


def test_texts_in_memory_and_from_a_table(tmp_path):
    assert len(load_data(bc.Task.from_texts(sentences(40))).validation) == 8
    table = bc.Task.from_texts(write_texts(tmp_path / "a.jsonl", 40), text="text")
    assert (table.dataset, table.problem) == ("json", "vectors")


@pytest.mark.slow
def test_dimensions_of_the_task_are_trained_to_stand_alone(tmp_path, folder, texts):
    task = texts.model_copy(update={"dimensions": (16, 4)})
    train = {**TRAIN, "epochs": 3, "hidden_weight": 0}
    scores = []
    for name, judged in (("plain", texts), ("cut", task)):
        done = run(folder, judged, [CUTS[0], {"distill": train}], tmp_path / name)
        product, original = bc.load(done.folder), load(folder)
        found = []
        for each in (product, original):
            batch = original.tokenizer(sentences(60, 9), padding=True, return_tensors="pt")
            with torch.no_grad():
                states = each.model(**batch).last_hidden_state
            found.append(Pooling().vectors(states, batch["attention_mask"]).numpy()[:, :4])
        scores.append(float(cosines(*found).mean()))
    assert scores[1] > scores[0]


def test_a_model_that_cannot_be_pooled_is_refused_before_anything_is_computed(tmp_path, texts):
    folder = tiny_embedder(tmp_path / "m2")
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    with pytest.raises(ModelError, match="trained layers lie behind its encoder"):
        run(folder, texts, [CUTS[0]], tmp_path / "run")


def test_an_encoder_of_no_embedder_is_pooled_by_the_mean_and_the_report_says_so(tmp_path, texts):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 32
    folder = save(tiny_model("bert", "ForMaskedLM"), tmp_path / "mlm", tokenizer)
    done = run(folder, texts, [CUTS[0]], tmp_path / "run")
    assert any("the mean of the tokens is taken" in note for note in done.report.stages[0].notes)


def test_unlabelled_scores_of_the_original_are_perfect(folder, texts):
    product = load(folder)
    data = load_data(texts).fitted(product.tokenizer)
    data.task.resolved("vectors")
    answers = predict(TorchPredictor(product.model), data, "validation", product.tokenizer)
    rows = score(data.task, data, "validation", answers, answers)
    assert [(r.metric, r.value) for r in rows] == [
        ("cosine", pytest.approx(1)), ("neighbours", 1.0),
    ]  # fmt: skip
    assert all(row.standing.above and 0 < row.standing.chance < 1 for row in rows)
    bad = answers.copy()
    bad[3] = np.nan
    with pytest.raises(ModelError, match="NaN or infinity for 1 of 40 rows"):
        score(data.task, data, "validation", bad, answers)
    assert HEADS["vectors"].movement(answers, answers) == 0
