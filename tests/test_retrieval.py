"""Search: loss and scores against sentence-transformers, and runs from search to artefact."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from embedder_support import tiny_embedder
from search_support import parts, search_task, write_beir
from tests_support import tiny_tokenizer

import bertcompress as bc
from bertcompress.cli.models import bench as command_line
from bertcompress.data import load_data
from bertcompress.data.transfer import TransferText, read_transfer
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER
from bertcompress.errors import DataError, TaskError
from bertcompress.heads import HEADS, scoring
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.retrieval import QUERY, Retrieval
from bertcompress.measure.scores import predict, score, task_batches
from bertcompress.methods.distillation.snapshot import SnapshotLoss
from bertcompress.models.io import load
from bertcompress.runs.contests import controls_of
from bertcompress.runtimes.torch import TorchPredictor
from bertcompress.training import DelegatingObjective, LabelLoss, TrainSettings, fit
from bertcompress.training.rows import epoch_batches
from bertcompress.verbs.bench import search_words

pytestmark = pytest.mark.usefixtures("without_figures")
HEAD = HEADS["retrieval"]
EXACT = 1e-9
TRAIN = {"batch_size": 16, "learning_rate": 5e-3, "precision": "fp32", "epochs": 2}
ONNX = {"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": 1.0}}


@pytest.fixture
def folder(tmp_path):
    return tiny_embedder(tmp_path / "m")


@pytest.fixture(scope="module")
def search():
    return search_task(parts())


def batch(*labels, width=8, seed=0):
    """Vectors as a model gives them, and their labels padded."""
    wide = max(map(len, labels))
    rows = torch.tensor([[*each, *[-2] * wide][:wide] for each in labels])
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(labels), width, generator=generator, requires_grad=True)
    return vectors, {"labels": rows, "row_id": torch.arange(len(labels)) // 2}


def theirs(queries, documents):
    """The loss of sentence-transformers."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(
        [queries, *documents], torch.zeros(len(queries))
    )


def test_the_loss_is_that_of_sentence_transformers():
    labels = [each for i in range(5) for each in ([QUERY, i], [i])]
    vectors, given = batch(*labels)
    ours = HEAD.loss(vectors, given)
    torch.testing.assert_close(ours, theirs(vectors[0::2], [vectors[1::2]]))
    torch.testing.assert_close(HEAD.losses(vectors, given).sum() / 5, ours)
    assert HEAD.losses(vectors, given)[1::2].abs().sum() == 0
    # Rows of two documents are further negatives of all queries.
    vectors, given = batch(*labels, [7], [8])
    queries, documents = vectors[0:10:2], vectors[1:10:2]
    more = [vectors[10].expand(5, -1), vectors[11].expand(5, -1)]
    wanted = theirs(queries, [documents, more[0], more[1]])
    scores = (
        20
        * torch.nn.functional.normalize(queries, dim=-1)
        @ torch.nn.functional.normalize(torch.cat([documents, vectors[10:]]), dim=-1).T
    )
    plain = torch.nn.functional.cross_entropy(scores, torch.arange(5))
    torch.testing.assert_close(HEAD.loss(vectors, given), plain)
    assert wanted > plain  # which counts each of them five times


def test_other_relevant_documents_of_the_batch_are_no_negatives():
    # Two rows of one query, and a document that two queries share.
    labels = [[QUERY, 1, 2], [1], [QUERY, 1, 2], [2], [QUERY, 3], [3], [QUERY, 3], [3]]
    vectors, given = batch(*labels)
    units = torch.nn.functional.normalize(vectors, dim=-1)
    terms = []
    for query, own, negatives in ((0, 1, (5, 7)), (2, 3, (5, 7)), (4, 5, (1, 3)), (6, 7, (1, 3))):
        scores = torch.stack([20 * units[query] @ units[d] for d in (own, *negatives)])
        terms.append(torch.logsumexp(scores, dim=0) - scores[0])
    torch.testing.assert_close(HEAD.loss(vectors, given), torch.stack(terms).mean())
    assert HEAD.loss(vectors, given) < theirs(vectors[0::2], [vectors[1::2]])


def test_a_batch_without_a_pair_has_no_loss_and_a_gradient_of_zeros():
    vectors, given = batch([0], [1], [QUERY, 5], [2])
    loss = HEAD.loss(vectors, given)
    loss.backward()
    assert loss.detach() == 0 and not vectors.grad.any()
    assert not HEAD.losses(vectors, given).any()


def test_dimensions_that_stand_alone_are_trained_too():
    labels = [each for i in range(4) for each in ([QUERY, i], [i])]
    vectors, given = batch(*labels)
    whole, short = (HEAD.loss(vectors[:, :n], given) for n in (8, 3))
    both = Retrieval(dimensions=(8, 3)).loss(vectors, given)
    torch.testing.assert_close(both, (whole + short) / 2)


def test_vectors_of_a_teacher_are_targets_as_for_other_embedders():
    vectors, given = batch([QUERY, 0], [0])
    targets = {**given, "labels": torch.randn(2, 8)}
    wanted = HEADS["vectors"].losses(vectors, targets)
    torch.testing.assert_close(HEAD.losses(vectors, targets), wanted)
    torch.testing.assert_close(HEAD.loss(vectors, targets), wanted.mean())


def searched(seed, documents=60, queries=20):
    """Vectors of documents and queries in mixed order, their references, and the plain parts."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(documents + queries, 12))
    labels = [{"texts": [i], "relevant": [], "gains": []} for i in range(documents)]
    relevant = {}
    for query in range(documents, documents + queries):
        chosen = rng.choice(documents, rng.integers(1, 5), replace=False).tolist()
        relevant[query] = chosen
        vectors[query] = vectors[chosen[0]] + rng.normal(size=12)
        labels.append({"texts": [QUERY], "relevant": chosen, "gains": [1.0] * len(chosen)})
    order = rng.permutation(documents + queries)
    references = np.array([labels[i] for i in order], object)
    return vectors[order], references, vectors, relevant, documents


@pytest.mark.parametrize("seed", range(2))
def test_scores_are_those_of_sentence_transformers(seed):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from test_ranking import _model

    ours, references, vectors, relevant, documents = searched(seed)
    judge = InformationRetrievalEvaluator(
        {f"q{i}": str(i) for i in relevant},
        {f"d{i:04d}": str(i) for i in range(documents)},
        {f"q{i}": {f"d{d:04d}" for d in known} for i, known in relevant.items()},
        main_score_function="cosine",
    )
    found = judge(_model(vectors))
    got = scoring.compute(HEAD, ["ndcg", "mrr"], ours, references)
    assert got["ndcg"] == pytest.approx(found["cosine_ndcg@10"], abs=EXACT)
    assert got["mrr"] == pytest.approx(found["cosine_mrr@10"], abs=EXACT)


@pytest.mark.parametrize(
    "prompts", [{}, {"query": "cat ", "document": "dog "}], ids=["", "prompts"]
)
def test_an_embedder_is_judged_as_sentence_transformers_does(prompts, tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    folder, rows = tiny_embedder(tmp_path / "m", prompts=prompts), parts(test=30)
    queries = {each["_id"]: each["text"] for each in rows["queries"]}
    judge = InformationRetrievalEvaluator(
        {row["query-id"]: queries[row["query-id"]] for row in rows["test"]},
        {each["_id"]: f"{each['title']} {each['text']}" for each in rows["corpus"]},
        {row["query-id"]: {row["corpus-id"]} for row in rows["test"]},
        main_score_function="cosine",
    )
    theirs = judge(SentenceTransformer(str(folder), device="cpu"))
    ours = {row.metric: row.value for row in bc.evaluate(folder, search_task(rows))}
    assert ours["ndcg"] == pytest.approx(theirs["cosine_ndcg@10"], abs=1e-4)  # fp32
    assert ours["mrr"] == pytest.approx(theirs["cosine_mrr@10"], abs=1e-4)


def test_queries_are_resampled_not_documents():
    ours, references, *_ = searched(3)
    each = HEAD.statistics(HEAD.metrics["ndcg"], ours, references)
    assert each.shape == (20, 2) and HEAD.examples(references) == 20
    value, low, high = scoring.interval(HEAD, "ndcg", ours, references)
    draws = np.random.default_rng(0).choice(each[:, 0], (4_000, 20)).mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.03)
    assert value == pytest.approx(each[:, 0].mean())
    assert low < value < high


@pytest.mark.parametrize("metric", ["ndcg", "mrr"])
def test_vectors_that_are_all_alike_find_nothing_whatever_the_order(metric):
    _, references, *_ = searched(4)
    chance = HEAD.chance(references, HEAD.metrics[metric])
    relevant = {n for each in references for n in each["relevant"]}
    first = sorted(references, key=lambda each: each["texts"][0] not in relevant)
    for order in (first, first[::-1]):
        alike = scoring.compute(HEAD, [metric], np.ones((80, 4)), np.array(order, object))
        assert alike[metric] == 0 < chance < 0.3


@pytest.mark.parametrize("metric", ["ndcg", "mrr"])
def test_chance_is_the_mean_over_random_orders(metric):
    _, references, *_ = searched(5, documents=30, queries=3)
    rng = np.random.default_rng(0)
    found = [
        scoring.compute(HEAD, [metric], rng.normal(size=(33, 64)), references)[metric]
        for _ in range(500)
    ]
    chance = HEAD.chance(references, HEAD.metrics[metric])
    assert chance == pytest.approx(np.mean(found), abs=0.03)


def test_a_document_that_is_the_query_itself_is_left_out_of_the_ranking():
    ours, references, *_ = searched(6)
    queries = [i for i, each in enumerate(references) if QUERY in each["texts"]]
    query, known = queries[3], references[queries[3]]
    before = HEAD.statistics(HEAD.metrics["ndcg"], ours, references)[3, 0]
    others = [i for i, each in enumerate(references) if each["texts"][0] not in
              (QUERY, *known["relevant"])]  # fmt: skip
    ours[others[0]] = ours[query]  # nearer than any
    worse = HEAD.statistics(HEAD.metrics["ndcg"], ours, references)[3, 0]
    number = references[others[0]]["texts"][0]
    references[query] = {
        "texts": [QUERY],
        "relevant": [*known["relevant"], number],
        "gains": [*known["gains"], -1.0],
    }
    after = HEAD.statistics(HEAD.metrics["ndcg"], ours, references)[3, 0]
    assert worse < before <= after


def test_training_rows_are_scored_each_document_once():
    ours, references, vectors, relevant, documents = searched(7)
    pairs = [(q, d) for q, known in relevant.items() for d in known]
    spare = [(i, i) for i in range(documents) if i not in {d for _, d in pairs}]
    rows = np.empty(len(pairs) + len(spare), object)
    for place, (one, other) in enumerate(pairs):
        gains = [1.0] * len(relevant[one])
        rows[place] = {"texts": [QUERY, other], "relevant": relevant[one], "gains": gains}
    for place, pair in enumerate(spare, start=len(pairs)):
        rows[place] = {"texts": [*pair], "relevant": [], "gains": []}
    answers = np.stack([vectors[[*pair]] for pair in (*pairs, *spare)])
    metric = HEAD.metrics["ndcg"]
    each = HEAD.statistics(metric, answers, rows)[:, 0]
    order = [i for i, r in enumerate(references) if QUERY in r["texts"]]
    wanted = {tuple(references[i]["relevant"]): value for i, value in
              zip(order, HEAD.statistics(metric, ours, references)[:, 0], strict=True)}  # fmt: skip
    assert len(each) == len(pairs)
    for (query, _), value in zip(pairs, each, strict=True):
        assert value == pytest.approx(wanted[tuple(relevant[query])], abs=EXACT)
    assert HEAD.chance(rows, metric) > 0


def test_prompts_of_queries_and_documents(tmp_path, search):
    folder = tiny_embedder(tmp_path / "p", prompts={"query": "cat ", "passage": "dog "})
    product = load(folder)
    data = load_data(search.model_copy(update={"pooling": Pooling.of(product.model.config)}))
    for split in ("train", "validation"):
        encoded = data.encoded(product.tokenizer, split)
        for position in range(0, len(encoded.dataset), 7):
            feature = encoded.feature(position)
            words = product.tokenizer.convert_ids_to_tokens(feature["input_ids"])
            assert words[1] == ("cat" if feature["labels"][0] == QUERY else "dog")
    named = search.model_copy(
        update={"pooling": data.task.pooling, "prompts": ("document", "query")}
    )
    encoded = load_data(named).encoded(product.tokenizer, "train")
    words = product.tokenizer.convert_ids_to_tokens(encoded.feature(0)["input_ids"])
    assert words[1] == "dog"


LABELS_ALONE = {
    "finetune": LabelLoss,
    "the control of distill": partial(bc.Distill().controls()[WITHOUT_TEACHER].objective, None),
    "q8bert": partial(bc.Q8bert().objective, None),
    "snapshot": lambda head: SnapshotLoss(head, (2,), 1.0, 2.0),
}


@pytest.mark.parametrize("objective", LABELS_ALONE)
def test_a_training_on_labels_goes_over_pairs_alone(objective, search, folder, tmp_path):
    product = load(folder)
    data = load_data(search.model_copy(update={"pooling": Pooling(normalize=True)}))
    data = data.fitted(product.tokenizer)
    pairs = sum(row["texts"][0] == QUERY for row in data.train["label"][:])
    assert 0 < pairs < len(data.train)
    seen = []

    class Spied(DelegatingObjective):
        def __call__(self, model, batch, outputs, step):
            if model.training:
                seen.extend(batch["row_id"].tolist())
                assert (batch["labels"][0::2, 0] == QUERY).all()
                own = batch["labels"][0::2, 1:] == batch["labels"][1::2, :1]
                assert own.any(dim=1).all()
            return super().__call__(model, batch, outputs, step)

    settings = TrainSettings(**{**TRAIN, "epochs": 1})
    spied = Spied(LABELS_ALONE[objective](data.task.head))
    fit(product.model, spied, data, tokenizer=product.tokenizer, settings=settings,
        workdir=tmp_path / "w")  # fmt: skip
    assert sorted(seen) == sorted([*range(pairs), *range(pairs)])


def test_a_training_under_a_teacher_goes_over_all_documents(search, folder):
    product = load(folder)
    data = load_data(search).fitted(product.tokenizer)
    every, settings = len(data.encode(product.tokenizer, "train")), TrainSettings(batch_size=16)
    taught = bc.Distill().objective(lambda *_: None, data.task.head)
    counted = [
        epoch_batches(data, product.tokenizer, settings, each.learns_unlabelled)
        for each in (taught, LabelLoss(data.task.head))
    ]
    pairs = sum(row["texts"][0] == QUERY for row in data.train["label"][:])
    assert counted == [-(-every // 16), -(-2 * pairs // 16)]


def run(folder, task, methods, out):
    recipe = {"model": str(folder), "task": task, "methods": methods}
    return bc.run(bc.Recipe.parse({**recipe, "measure": {"latency": False}}), out)


def test_the_main_job(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    task = search_task(write_beir(tmp_path / "beir", parts()))
    before = {row.metric: row for row in bc.evaluate(folder, task)}
    train = {**TRAIN, "epochs": 6}
    cut = {"prune_structured": {"keep": 0.5, "rows": 16}}
    done = run(folder, task, [{"finetune": train}, cut, {"distill": TRAIN}, ONNX], tmp_path / "run")
    first = done.report.stages[0].deployments[0].headline
    assert (first.metric, first.n) == ("ndcg", before["ndcg"].n)
    assert first.value > before["ndcg"].value + 0.05
    assert first.ci_low < first.value < first.ci_high
    assert 0 < done.report.task["chance"] < 0.2
    rows = bc.evaluate(done.folder)
    assert [row.metric for row in rows] == ["ndcg", "mrr"]
    reported = [each.headline.value for each in done.report.last.deployments]
    assert any(rows[0].value == pytest.approx(value) for value in reported)
    assert all(row.passes for row in bc.verify(done.folder, seconds=0)[0])
    words = (done.folder / "report.md").read_text()
    assert "queries that are neither trained nor reported on" in words and "ndcg" in words
    card = (done.folder / "model" / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "ndcg" in card


def test_a_training_on_labels_is_counted_and_refused_before_anything_is_computed(folder, tmp_path):
    rows, said = parts(), []
    task = search_task(rows)
    pairs = sum(row["texts"][0] == QUERY for row in load_data(task).train["label"][:])
    cut = {"prune_structured": {"keep": 0.5, "rows": 16}}
    recipe = {"model": str(folder), "task": task, "measure": {"latency": False, "controls": False}}
    finetune = {"finetune": {**TRAIN, "epochs": 1}}
    bc.run(bc.Recipe.parse({**recipe, "methods": [finetune]}), tmp_path / "run", say=said.append)
    steps = -(-2 * pairs // 16)
    assert any(f"finetune: {steps} steps" in line for line in said)
    assert any(f"01-finetune: {steps} steps" in line for line in said)
    task = search_task({name: part for name, part in rows.items() if name != "train"})
    with pytest.raises(DataError, match="no training queries with relevant documents; distil from"):
        run(folder, task, [cut, {"distill": TRAIN}, {"finetune": TRAIN}], tmp_path / "no")
    assert not (tmp_path / "no" / "stages").exists()
    # Nor is there a control that would learn from labels: those of other kinds stay.
    data = load_data(task)
    assert not controls_of(bc.Distill(), data, True) and controls_of(
        bc.PruneStructured(keep=0.5), data, True
    )
    assert controls_of(bc.Distill(), load_data(search_task(rows)), True)


CUTS = [
    {"kprune": {"keep": 0.5, "rows": 16}},
    {"prune_hidden": {"keep": 0.5}},
    {"share_layers": {"groups": 1}},
    {"factorize_linear": {"keep": 0.6, "rows": 16}},
    {"factorize_embedding": {"size": 8}},
    {"flop": {**TRAIN, "rows": 16}},
    "trim_vocabulary",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cut", CUTS, ids=lambda cut: cut if isinstance(cut, str) else next(iter(cut))
)
def test_what_cuts_an_embedder_is_taught_without_any_label(cut, folder, tmp_path):
    rows = parts()
    rows.pop("train")  # judgements to report on alone
    done = run(folder, search_task(rows), [cut, {"distill": TRAIN}], tmp_path / "run")
    for stage in done.report.stages:
        assert [each.metric for each in stage.deployments[0].scores] == ["ndcg", "mrr"]
    assert any("no training judgements" in note for note in done.report.stages[0].notes)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["q8bert", "gradual_magnitude", "q_bert", "mode_connectivity"])
def test_methods_that_train_take_a_search(trained, folder, search, tmp_path):
    method = {trained: {**TRAIN, "epochs": 1}}
    done = run(folder, search, [{"finetune": TRAIN}, method], tmp_path / "run")
    kept = [stage for stage in done.report.stages if stage.deployments]  # a probe leaves no model
    assert kept and all(stage.deployments[0].headline.metric == "ndcg" for stage in kept)


@pytest.mark.slow
@pytest.mark.skipif("BERTCOMPRESS_LONG" not in os.environ, reason="minutes: BERTCOMPRESS_LONG=1")
def test_the_packaged_embedder_on_scifact(minilm):
    folder = Path(__file__).parents[2] / "shared" / "data" / "scifact"
    if not folder.is_dir():
        pytest.skip("no local copy of SciFact")
    rows = {row.metric: row for row in bc.evaluate(minilm, "scifact", data_dir=folder)}
    assert rows["ndcg"].n == 300
    assert rows["ndcg"].value == pytest.approx(0.6451, abs=2e-3)  # 64.51 in the table of MTEB


@pytest.mark.parametrize("key", ["similarity", "retrieval"])
def test_vectors_of_many_dimensions_are_not_taken_for_all_alike(key):
    vectors = np.random.default_rng(0).normal(size=(200, 384))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert units.std(axis=0).mean() < 0.06  # each has its share
    assert HEADS[key].spread([*units]) == pytest.approx(1, abs=0.01)
    assert HEADS[key].spread([*(vectors + 1_000)]) < 0.01
    assert HEADS["single_label"].spread([*units]) == pytest.approx(units.std(axis=0).mean())


def test_answers_of_a_model_are_scored_by_query(folder, search):
    product = load(folder)
    pooling = Pooling.of(product.model.config)
    data = load_data(search.model_copy(update={"pooling": pooling})).fitted(product.tokenizer)
    answers = predict(TorchPredictor(product.model), data, "validation", product.tokenizer)
    assert answers.shape == (len(data.validation), 16)
    rows = score(data.task, data, "validation", answers)
    alike = score(data.task, data, "validation", np.ones_like(answers))[0]
    assert f"and a random order scores {data.task.chance:.3f}" in alike.alarm
    assert {row.n for row in rows} == {data.task.head.examples(data.references("validation"))}
    metric = data.task.metric()
    told = metric.compute(predictions=answers, references=[*data.references("validation")])
    assert told["ndcg"] == pytest.approx(rows[0].value, abs=1e-6)
    tokenizer = tiny_tokenizer()
    batch = data.collator(tokenizer)([data.encode(tokenizer, "train")[i] for i in range(6)])
    assert batch["labels"].dtype == torch.int64 and batch["labels"].ndim == 2


def test_transfer_text_is_refused_of_a_search(search, tmp_path):
    """What is a query and what a document stands in the labels, which transfer text lacks."""
    (tmp_path / "more.txt").write_text("a cat sleeps\na dog runs\n", encoding="utf-8")
    asked = TransferText(source=str(tmp_path / "more.txt"))
    with pytest.raises(TaskError, match="of a retrieval task cannot be read without its labels"):
        read_transfer(asked, load_data(search))


@pytest.mark.slow
def test_queries_are_timed_one_by_one_and_passages_in_batches(folder, search, monkeypatch, capsys):
    tokenizer = load(folder).tokenizer
    data = load_data(search).fitted(tokenizer)
    made = task_batches(data, "validation", tokenizer)
    features = data.encode(tokenizer, "validation")
    texts = {tuple(ids): labels[0] == QUERY for ids, labels in
             zip(features["input_ids"][:], features["labels"][:], strict=True)}  # fmt: skip
    for size, batches in made.items():
        for batch in batches:
            rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
            asked = [tuple(ids[mask == 1].tolist()) for ids, mask in rows]
            assert len(asked) == size and {texts[each] for each in asked} == {size == 1}
    assert len(made[1]) == 15 and len(made[8]) == 60 // 8
    rows = bc.bench([folder], task=search, shapes=((1, 8),), seconds=0.1, threads=1)
    told = {(row.time.batch, row.time.length): row.time.texts for row in rows}
    assert told == {(1, 8): "texts", (1, "task"): "queries", (8, "task"): "passages"}
    assert [row.cells["tokens"] for row in rows] == ["8", "queries", "passages"]
    (line,) = search_words(rows)
    times = {row.time.texts: row.time for row in rows}
    assert f"a query {times['queries'].batch_ms:.2f} ms; a passage in batches of 8 " in line
    assert f"{times['passages'].throughput_per_s:,.0f} passages/s" in line
    assert line.startswith(f"{folder}, torch fp32: ")
    monkeypatch.setattr("bertcompress.verbs.bench.bench", lambda *_, **__: rows)
    command_line([str(folder)])
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_report_says_that_single_texts_are_queries(folder, search, tmp_path):
    timing = {"seconds": 0.1, "shapes": [[1, 8]], "threads": 1}
    recipe = {"model": str(folder), "task": search, "methods": [CUTS[0]], "measure": timing}
    done = bc.run(bc.Recipe.parse(recipe), tmp_path / "run")
    own = {t.batch: t.texts for t in done.report.last.main.latency if t.length == "task"}
    assert own == {1: "queries", 8: "passages"}
    page = done.layout.report_page.read_text(encoding="utf-8")
    assert "They are single queries and batches of 8 passages." in page
    assert "own lengths of queries" in page
