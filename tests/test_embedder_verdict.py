"""What a report says of an embedder that is far from its original: red, first, and no deploying."""

from __future__ import annotations

import json

import numpy as np
import pytest
from embedder_support import sentences, tiny_embedder, write_texts

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.heads.vectors import Vectors
from bertcompress.measure.scores import compare, score
from bertcompress.report.head import head
from bertcompress.task import Task

pytestmark = pytest.mark.usefixtures("without_figures")
ROWS, WIDTH = 200, 12


def vectors(seed, shift=2.0, rows=ROWS):
    """Vectors about a common direction, as those of embedders are."""
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)) + shift * np.eye(WIDTH)[0]


def judged(answers, original):
    """The scores and the comparison of answers with the original's, as a run makes them."""
    task = Task.from_texts(sentences(20)).resolved("vectors")
    rows = {row.metric: row for row in score(task, _Data, "validation", answers, original)}
    return rows, compare(task, answers, original, original)


class _Data:
    labels, order = (), None


def test_chance_is_the_best_single_vector_for_all_texts():
    original = vectors(0)
    chance = Vectors().original_chance(Vectors.metrics["cosine"], original, original)
    units = original / np.linalg.norm(original, axis=1, keepdims=True)
    constants = np.random.default_rng(1).normal(size=(500, WIDTH)) + 3 * np.eye(WIDTH)[0]
    best = np.concatenate([constants, units.mean(axis=0, keepdims=True)])
    best /= np.linalg.norm(best, axis=1, keepdims=True)
    found = (units @ best.T).mean(axis=0)
    assert found.argmax() == len(constants)
    assert chance == pytest.approx(found.max(), abs=1e-12)


def test_chance_of_neighbours_is_ten_of_the_others():
    metric = Vectors.metrics["neighbours"]
    original = vectors(0)
    assert Vectors().original_chance(metric, original, original) == 10 / (ROWS - 1)
    rows, _ = judged(np.random.default_rng(5).normal(size=original.shape), original)
    assert rows["neighbours"].value == pytest.approx(10 / (ROWS - 1), abs=0.01)
    assert not rows["neighbours"].standing.above
    assert Vectors().original_chance(metric, original[:3], original[:3]) == 1


def test_answers_of_one_vector_are_at_chance_however_high_their_cosine():
    original = vectors(0, shift=20.0)
    rows, against = judged(np.ones((ROWS, 1)) * original.mean(axis=0), original)
    cosine = rows["cosine"]
    assert cosine.value > 0.95
    assert not cosine.standing.above
    assert against.retention_chance_corrected == pytest.approx(0, abs=1e-3)
    near, against = judged(original + 0.01 * vectors(3), original)
    assert near["cosine"].standing.above
    assert against.retention_chance_corrected > 0.99


def test_the_original_stands_and_labels_judge_for_themselves():
    rows, _ = judged(vectors(0), vectors(0))
    assert all(row.standing.above and row.value == pytest.approx(1) for row in rows.values())
    assert set(Vectors.least_kept) == set(Vectors.metrics)


def test_vectors_of_other_dimensions_have_no_single_vector_in_common():
    chance = Vectors().original_chance(Vectors.metrics["cosine"], vectors(0)[:, :5], vectors(0))
    assert chance == 0


def recipe(tmp_path, *methods, **measure):
    task = Task.from_texts(
        write_texts(tmp_path / "train.jsonl", 60), write_texts(tmp_path / "test.jsonl", 40, 5)
    )
    folder = tiny_embedder(tmp_path / "m")
    given = {"latency": False, **measure}
    return bc.Recipe.parse(
        {"model": str(folder), "task": task, "methods": [*methods], "measure": given}
    )


def test_a_result_far_from_its_original_is_red_and_not_to_be_deployed(tmp_path):
    spoiled = recipe(tmp_path, {"prune_hidden": {"keep": 0.125}})
    done = bc.run(spoiled, tmp_path / "run")
    report = done.report
    red, last = report.verdict.red, report.last.deployments[0]
    assert "of 01-prune_hidden, is far from the original: " in " ".join(red)
    assert "Do not deploy it" in " ".join(red)
    assert "01-prune_hidden was the first to leave it" in " ".join(red)
    assert report.verdict.deploy == ()
    assert not any(tile.good for tile in head(report).tiles)
    texts = {
        "report": report.to_markdown(),
        "page": report.to_html(),
        "card": (done.folder / "model/README.md").read_text(),
        "terminal": str(report),
    }
    for name, text in texts.items():
        plain = " ".join(text.split())
        assert "it keeps" not in plain, name
        assert "Do not deploy it" in plain, name
        assert plain.index("far from the original") < plain.index("Stage by stage") or (
            name == "card"
        ), name
    kept = next(tile for tile in head(report).tiles if tile.name == "Score kept")
    assert f"{last.headline.value:.3f} cosine" in kept.detail


def test_a_result_that_is_its_original_is_not_red(tmp_path):
    done = bc.run(recipe(tmp_path, "trim_vocabulary"), tmp_path / "run")
    red = " ".join(done.report.verdict.red)
    row = done.report.last.deployments[0]
    near = row.headline.value > 0.99  # the test texts may hold a word that no training text does
    assert ("far from the original" in red) != near


def test_a_training_that_was_cut_off_names_the_setting_to_raise(tmp_path):
    short = {"max_epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"}
    done = bc.run(
        recipe(tmp_path, {"prune_hidden": {"keep": 0.25}}, {"distill": short}), tmp_path / "run"
    )
    red = done.report.verdict.red
    assert "Raise max_epochs of distill" in " ".join(red)
    assert "far from the original" in red[0] or "not above chance" in red[0]


@pytest.mark.slow
def test_the_command_says_it_last_and_recommends_nothing(tmp_path, capsys):
    spoiled = recipe(tmp_path, {"prune_hidden": {"keep": 0.125}})
    path = tmp_path / "recipe.yaml"
    path.write_text(spoiled.to_yaml())
    app(["run", str(path), "--out", str(tmp_path / "run")], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "far from the original" in shown[-3_000:]
    assert "deploy model" not in shown
    verdict = json.loads((tmp_path / "run/report.json").read_text())["verdict"]
    assert verdict["red"] and not verdict["deploy"]
