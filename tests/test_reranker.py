"""Cross-encoders: grades, rankings against scikit-learn, chance, and the main job."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from tests_support import WORDS, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.errors import DataError, TaskError
from bertcompress.heads import HEADS, scoring
from bertcompress.models.sentence import activation_of

pytestmark = pytest.mark.usefixtures("without_figures")
HEAD = HEADS["reranker"]


def rankings(seed, queries=30, documents=7, graded=True):
    """Scores (N, 1), and grades with the number of the query (N, 2), in mixed order."""
    rng = np.random.default_rng(seed)
    grades = rng.choice([0, 0, 0, 0.5, 1] if graded else [0, 0, 0, 1], queries * documents)
    of = np.repeat(np.arange(queries), documents)
    order = rng.permutation(len(of))
    references = np.stack([grades, of], axis=1).astype(float)[order]
    return rng.normal(size=(len(of), 1)), references


def by_query(scores, references):
    for query in np.unique(references[:, 1]):
        mine = references[:, 1] == query
        yield scores[mine, 0], references[mine, 0]


@pytest.mark.parametrize("seed", range(4))
def test_ndcg_is_scikit_learns(seed):
    scores, references = rankings(seed)
    each = [
        ndcg_score([grades], [found], k=10) if grades.any() else 0.0
        for found, grades in by_query(scores, references)
    ]
    value = scoring.compute(HEAD, ["ndcg"], scores, references)["ndcg"]
    assert value == pytest.approx(np.mean(each), abs=1e-9)


def test_mrr_is_one_over_the_first_relevant_rank():
    scores, references = rankings(1, documents=14)
    each = []
    for found, grades in by_query(scores, references):
        ranked = grades[np.argsort(-found)][:10]
        hits = np.flatnonzero(ranked > 0)
        each.append(1 / (hits[0] + 1) if len(hits) else 0.0)
    value = scoring.compute(HEAD, ["mrr"], scores, references)["mrr"]
    assert value == pytest.approx(np.mean(each), abs=1e-9)


@pytest.mark.parametrize("metric", ["ndcg", "mrr"])
def test_rows_may_come_in_any_order_and_queries_are_resampled(metric):
    scores, references = rankings(2)
    order = np.random.default_rng(0).permutation(len(scores))
    one, two = (
        scoring.compute(HEAD, [metric], a, b)[metric]
        for a, b in ((scores, references), (scores[order], references[order]))
    )
    assert one == pytest.approx(two, abs=1e-12)
    value, low, high = scoring.interval(HEAD, metric, scores, references)
    assert low < value < high


@pytest.mark.parametrize("metric", ["ndcg", "mrr"])
def test_a_model_that_answers_alike_owes_nothing_to_the_order(metric):
    grades = np.array([[1, 0], [0, 0], [0, 0], [0.5, 1], [0, 1]])  # relevant ones first
    alike = scoring.compute(HEAD, [metric], np.zeros((5, 1)), grades)[metric]
    assert alike < HEAD.chance(grades, HEAD.metrics[metric]) < 1


@pytest.mark.parametrize("metric", ["ndcg", "mrr"])
@pytest.mark.parametrize("grades", [[1, 0, 0, 0.5], [0, 0, 1], [1, 1], [0, 0], [1, 0, 1, 0, 0]])
def test_chance_is_the_mean_over_all_orders(metric, grades):
    references = np.stack([grades, np.zeros(len(grades))], axis=1)
    orders = [
        scoring.compute(HEAD, [metric], np.array(order, float)[:, None], references)[metric]
        for order in itertools.permutations(range(len(grades)))
    ]
    assert HEAD.chance(references, HEAD.metrics[metric]) == pytest.approx(np.mean(orders), abs=1e-4)


def test_losses_are_binary_cross_entropy_on_grades():
    outputs, labels = torch.tensor([[0.3], [-1.0]]), torch.tensor([1.0, 0.25])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs[:, 0], labels, reduction="none"
    )
    torch.testing.assert_close(HEAD.losses(outputs, {"labels": labels}), wanted)
    torch.testing.assert_close(HEAD.loss(outputs, {"labels": labels}), wanted.mean())
    assert float(HEAD.divergence(outputs, outputs, {}, 2.0)) == pytest.approx(0, abs=1e-7)
    assert float(HEAD.divergence(outputs, -outputs, {}, 2.0)) > 0


@pytest.fixture
def files(tmp_path):
    """Queries of one word; a document is relevant where the word is in it."""
    rng = np.random.default_rng(0)
    words = [word for word in WORDS if word.isalpha()]
    for name, queries in (("train", 80), ("validation", 30)):
        lines = []
        for i in range(queries):
            query = words[i % len(words)] + " " + words[(i * 7 + 3) % len(words)]
            for place in range(4):
                text = rng.choice(words, 4).tolist()
                if place == i % 4:
                    text[int(rng.integers(4))] = query.split()[0]
                grade = int(query.split()[0] in text)
                row = {"query": f"{query} {name[0]}{i}", "passage": " ".join(text), "label": grade}
                lines.append(json.dumps(row))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path / "train.jsonl", tmp_path / "validation.jsonl"


def task(files, **fields):
    given = {"text": ("query", "passage"), "label": "label", "problem": "reranker"}
    return bc.Task.from_files(*files, **given | fields)


def test_the_main_job(files, tmp_path):
    pytest.importorskip("onnxruntime")
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    train = {"batch_size": 8, "learning_rate": 2e-3, "precision": "fp32", "epochs": 1}
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": task(files, max_length=16),
            "methods": [
                {"finetune": train},
                {"prune_structured": {"keep": 0.5, "rows": 32}},
                {"kprune": {"keep": 0.8, "rows": 16}},
                {"distill": train},
                {"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": 1.0}},
            ],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "run")
    for stage in run.report.stages:
        for each in stage.deployments:
            assert each.headline.metric == "ndcg"
    assert 0.3 < run.report.task["chance"] < 0.9
    model = bc.load(run.folder / "stages" / "01-finetune" / "model").model
    assert model.config.num_labels == 1
    # An export of the folder alone serves probabilities, as the run does.
    assert (
        activation_of(model.config) == activation_of(bc.load(run.model).model.config) == "Sigmoid"
    )
    (score,) = [each for each in bc.evaluate(run.folder) if each.headline]
    reported = [each.headline.value for each in run.report.last.deployments]
    assert any(score.value == pytest.approx(value) for value in reported)


def test_documents_of_a_query_stay_together(files):
    from bertcompress.data import load_data

    data = load_data(task(files))
    assert not set(data.train["text"][:]) & set(data.selection["text"][:])
    assert data.references("validation").shape == (120, 2)


def test_bad_rows_are_named(files, tmp_path):
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    rows[2]["label"] = 3
    files[0].write_text("\n".join(map(json.dumps, rows)))
    from bertcompress.data import load_data

    with pytest.raises(DataError, match=r"row 3 has the grade 3; .*divide by the highest"):
        load_data(task(files))
    with pytest.raises(TaskError, match="2"):
        task(files, text="query")


def test_a_limit_keeps_the_documents_of_a_query_together(tmp_path):
    """Of 400 single rows, 2.3 a query are left, and every model orders those well."""

    def written(name, first):
        rows = [
            {"q": f"question {first + q}", "d": f"text {first + q} {i}", "g": float(i < 2)}
            for q in range(60)
            for i in range(10)
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return tmp_path / name

    files = written("train.jsonl", 0), written("test.jsonl", 1_000)
    task = bc.Task.from_files(*files, text=["q", "d"], label="g", problem="reranker")
    whole, some = load_data(task), load_data(task, limit=200)
    assert set(np.unique(some.references("validation")[:, 1], return_counts=True)[1]) == {10}
    assert len(some.validation) == 200
    assert some.task.chance == pytest.approx(whole.task.chance)


@pytest.mark.parametrize("queries", [3, 5, 30])
def test_intervals_are_over_queries_and_few_of_them_show_nothing(queries):
    """Resampled documents held no query at all now and then, and intervals were no numbers."""
    _, references = rankings(0, queries=queries, documents=20)
    perfect = references[:, :1]
    turned = -perfect
    value, low, high = scoring.interval(HEAD, "ndcg", perfect, references)
    assert value == low == high == 1.0
    difference, low, high, p = scoring.paired_difference(HEAD, "ndcg", perfect, turned, references)
    assert 0 < low <= difference <= high
    assert p >= 2.0 ** (1 - queries)
    assert (p < 0.05) is (queries > 5)
    assert HEAD.examples(references) == queries
