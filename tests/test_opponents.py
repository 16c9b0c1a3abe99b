"""Static word vectors beside an embedder: a row of the report, and the verdict where they do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from embedder_support import tiny_embedder, write_pairs, write_texts
from report_support import distilled, quantized
from test_report import _with

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.deployment import Layout
from bertcompress.errors import ModelError
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.scoring import paired_difference
from bertcompress.measure.chance import Standing
from bertcompress.measure.scores import Score, predict
from bertcompress.models.io import load
from bertcompress.publish.manifest import own_files
from bertcompress.report import Report
from bertcompress.report.rows import Margin, Opponent
from bertcompress.runs import opponents as beside
from bertcompress.runtimes.torch import TorchPredictor

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def folder(tmp_path):
    return tiny_embedder(tmp_path / "m")


def run(folder, task, methods, out, **measure):
    recipe = {"model": str(folder), "task": task, "methods": methods}
    return bc.run(bc.Recipe.parse({**recipe, "measure": {"latency": False, **measure}}), out)


def texts(tmp_path):
    files = write_texts(tmp_path / "train.jsonl", 60), write_texts(tmp_path / "test.jsonl", 40, 5)
    return bc.Task.from_texts(*files)


def static_answers(done, task, tokenizer):
    """What the folder of static vectors answers, read from its files alone."""
    from safetensors.numpy import load_file

    (file,) = (done.folder / "static").rglob("*.safetensors")
    table = load_file(file)["embedding.weight"].astype(float)
    rows = load_data(task).split("validation")
    names = [name for name in ("text", "text_pair") if name in rows.column_names]
    sides = [
        np.stack([table[tokenizer(t, add_special_tokens=False)["input_ids"]].mean(0) for t in rows])
        for rows in (rows[name][:] for name in names)
    ]
    return sides[0] if len(sides) == 1 else np.stack(sides, axis=1)


def test_an_embedder_stands_beside_static_word_vectors_on_the_same_rows(folder, tmp_path):
    task = texts(tmp_path)
    done = run(folder, task, ["trim_vocabulary", {"prune_hidden": {"keep": 0.5}}], tmp_path / "run")
    (row,) = done.report.opponents
    product, original = bc.load(done.folder), load(folder)
    assert row.metric == "neighbours" and [s.metric for s in row.scores] == ["cosine", "neighbours"]
    # The tokens of the tokenizer that ships, and its bytes as they lie there.
    assert row.tokens == len(product.tokenizer) - len(set(product.tokenizer.all_special_ids))
    (file,) = (done.folder / row.path).rglob("*.safetensors")
    assert row.size_mb == file.stat().st_size / 1e6
    # Scored again, from the files.
    data = load_data(task).fitted(product.tokenizer)
    data.task.resolved("vectors")
    answers = static_answers(done, task, product.tokenizer)
    ours, theirs = (
        predict(TorchPredictor(p.model), data, "validation", p.tokenizer)
        for p in (product, original)
    )
    head = task.head.of_model(product.model.config)
    value, low, high, _ = paired_difference(head, "neighbours", ours, answers, theirs)
    (margin,) = row.margins
    found = (margin.difference, margin.difference_low, margin.difference_high)
    np.testing.assert_allclose(found, (value, low, high), atol=0.02)
    text = done.report.to_markdown()
    assert "## What could be taken instead" in text and "static word vectors" in text
    # Theirs to try, and nobody's to publish.
    assert Layout().static in Layout().kept_here
    assert not any(str(name).startswith("static/") for name in own_files(done.folder))


def test_a_student_of_another_vocabulary_stands_beside_a_whole_table():
    """Tokens that the original lacks have no vector: its own tokenizer is the opponent's."""
    original, trimmed, other = (
        SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda tokens=tokens: tokens))
        for tokens in ({"a": 0, "b": 1}, {"b": 0}, {"b": 0, "c": 1})
    )
    assert beside._tokenizer(trimmed, original) is trimmed.tokenizer
    assert beside._tokenizer(other, original) is original.tokenizer


def test_pairs_are_compared_by_what_their_labels_say(folder, tmp_path):
    files = write_pairs(tmp_path / "train.jsonl", 60), write_pairs(tmp_path / "test.jsonl", 40, 5)
    task = bc.Task.from_files(*files, text=["a", "b"], label="score", problem="vectors")
    done = run(folder, task, [{"prune_hidden": {"keep": 0.5}}], tmp_path / "run")
    (row,) = done.report.opponents
    assert row.metric == "spearman"
    answers = static_answers(done, task, bc.load(done.folder).tokenizer)
    data = load_data(task)
    sides = answers / np.linalg.norm(answers, axis=-1, keepdims=True)
    from scipy.stats import spearmanr

    wanted = spearmanr((sides[:, 0] * sides[:, 1]).sum(-1), data.references("validation"))[0]
    assert row.score.value == pytest.approx(wanted, abs=0.01)


def test_no_controls_and_no_classifier_have_none(folder, tmp_path):
    done = run(folder, texts(tmp_path), ["trim_vocabulary"], tmp_path / "run", controls=False)
    assert done.report.opponents == () and not (done.folder / "static").exists()


def test_a_tokenizer_that_nothing_else_reads_costs_the_comparison_and_not_the_run(
    folder, tmp_path, monkeypatch
):
    def refuse(*_):
        raise ModelError("no tokenizer.json")

    monkeypatch.setattr(beside, "write_static", refuse)
    done = run(folder, texts(tmp_path), ["trim_vocabulary"], tmp_path / "run")
    assert done.report.opponents == ()
    told = "no static word vectors to compare with: no tokenizer.json"
    assert any(told in note for note in done.report.notes)


def test_sentence_transformers_opens_what_stands_there(folder, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    task = texts(tmp_path)
    done = run(folder, task, ["trim_vocabulary"], tmp_path / "run")
    opened = sentence_transformers.SentenceTransformer(str(done.folder / "static"), device="cpu")
    rows = load_data(task).split("validation")["text"][:]
    ours = static_answers(done, task, bc.load(done.folder).tokenizer)
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(opened.encode(rows), float), ours, atol=2e-3)
    assert Pooling.of(bc.load(done.folder).model.config).normalize


# -- in words


def scored(value, metric="neighbours"):
    return Score(
        metric=metric, value=value, ci_low=value - 0.02, ci_high=value + 0.02, n=500,
        headline=False, split="validation", standing=Standing(chance=0.02, above=True, below=False),
    )  # fmt: skip


def reported(value, low):
    """A report of an embedder whose result is so far above static vectors of that score."""
    stages = (distilled(), quantized())
    first = _with(stages[0], baseline=True)
    paths = [row.path for row in stages[1].deployments]
    margins = [
        Margin(path=path, difference=low + 0.03, difference_low=low, difference_high=low + 0.06)
        for path in paths
    ]
    opponent = Opponent(
        name="static word vectors", path="static", size_mb=3.14, dimensions=256, tokens=6_000,
        scores=(scored(0.9, "cosine"), scored(value)), metric="neighbours", margins=tuple(margins),
    )  # fmt: skip
    return Report.of(
        (first, stages[1]),
        recipe={},
        task={"problem": "vectors"},
        environment={},
        opponents=[opponent],
    )


def test_what_is_no_better_than_a_table_is_red():
    report = reported(0.4, -0.01)
    (line,) = [line for line in report.verdict.red if "tatic word vectors" in line]
    assert line.startswith(
        "Static word vectors of 3.1 MB from the same model do as well: 0.400 neighbours against "
        "0.420 of openvino int8."
    )
    assert "take static instead" in line
    assert line in report.to_markdown().replace("\\", "")


def test_what_is_better_says_by_how_much_and_whether_the_table_is_near_enough():
    report = reported(0.4, 0.1)
    words = "Static word vectors of 3.1 MB from the same model have 0.400 neighbours"
    assert any(line.startswith(words) for line in report.verdict.sentences)
    assert not any("tatic" in line for line in (*report.verdict.red, *report.verdict.warnings))
    near = reported(0.6, 0.1)
    assert any("may be enough: 0.600 neighbours" in line for line in near.verdict.warnings)
    assert not any("tatic" in line for line in near.verdict.red)


def test_a_report_without_any_is_read_as_before():
    report = reported(0.4, 0.1)
    plain = report.model_dump(mode="json")
    del plain["opponents"]
    assert Report.model_validate(plain).opponents == ()
