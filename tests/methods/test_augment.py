"""Methods that make texts of their training rows: what joins, what is left out, what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tags_support import TRAIN as TAG_TRAIN
from tags_support import tags_task
from test_starting import TRAIN, recipe, task
from tests_support import WORDS, tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.data.rows import text_digest
from bertcompress.data.transfer import Augmentation, TransferText, read_transfer, with_transfer
from bertcompress.engines.distillation import augmentation
from bertcompress.engines.distillation.augmentation import made_texts, with_augmented
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.errors import DataError, InputError, ModelError, RecipeError, TaskError
from bertcompress.method import Context, Models
from bertcompress.runs.contests import trained_alike
from bertcompress.runs.outlook import outlook
from bertcompress.runs.prepare import prepare
from bertcompress.training.pacing import Pace

pytestmark = pytest.mark.usefixtures("without_figures")

LOGITS = {"hidden_weight": 0.0}
NAMES = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Few labelled rows, further texts, a model with a head for the task, and one with none."""
    place = tmp_path_factory.mktemp("augment")
    for name, rows, seed in (("train", 60, 0), ("validation", 40, 1), ("more", 40, 2)):
        write_rows(place / f"{name}.csv", rows, seed, yes="yes", no="no")
    bc.save(tiny_model(num_labels=2, **NAMES), place / "tuned", tiny_tokenizer())
    tiny_model("bert", "ForMaskedLM").save_pretrained(place / "pretrained")
    tiny_tokenizer().save_pretrained(place / "pretrained")
    return place


@pytest.fixture(scope="module")
def data(place):
    return load_data(task(place))


def context(data, workdir, seed=0, head=None):
    teacher = LiveTeacher(tiny_model(num_labels=2, seed=3), tiny_tokenizer(), data)
    models = Models(teacher, open_masked_lm=lambda: head)
    return Context(data.task, data, models, torch.device("cpu"), seed, workdir)


def extended(asked, ctx):
    return with_augmented(asked, ctx, ctx.models.teacher)


# What joins. -------------------------------------------------------------------------------------


def test_the_texts_join_as_transfer_text(data, tmp_path):
    methods = data.without_validation()
    ctx, made = extended(Augmentation(copies=2), context(methods, tmp_path))
    rows = ctx.data.transfer
    assert rows.column_names == ["row_id", "text"] and len(rows) == len(made.rows.rows)
    assert 1.5 * len(data.train) < len(rows) <= 2 * len(data.train)
    assert min(rows["row_id"][:]) > max(data.validation["row_id"][:])
    assert ctx.data.fingerprint != methods.fingerprint
    assert made.seconds > 0 and f"augmented text: {len(rows)} rows made of" in made.rows.words
    cached = CachedTeacher(ctx.models.teacher, tmp_path / "cache")
    ids = torch.as_tensor(rows["row_id"][:5])
    torch.testing.assert_close(cached(ids).logits, ctx.models.teacher(ids).logits)
    assert "labels" not in ctx.data.encode(tiny_tokenizer(), "transfer").column_names


def test_without_the_setting_nothing_is_made(data, tmp_path):
    ctx = context(data, tmp_path)
    assert with_augmented(None, ctx, ctx.models.teacher) == (ctx, None)
    assert not list(tmp_path.iterdir())


def test_they_join_behind_the_transfer_text_that_is_named(place, data, tmp_path):
    named = read_transfer(TransferText(source=str(place / "more.csv")), data)
    both = with_transfer(data.without_validation(), named)
    ctx, made = extended(Augmentation(copies=3), context(both, tmp_path))
    texts = ctx.data.transfer["text"][:]
    assert texts[: len(named.rows)] == named.rows["text"][:]
    assert len(texts) == len(named.rows) + len(made.rows.rows)
    digests = [text_digest([text]) for text in texts]
    assert len({*digests}) == len(digests)
    ids = ctx.data.transfer["row_id"][:]
    assert len({*ids}) == len(ids)


@pytest.fixture
def close(tmp_path):
    """Rows so short that copies of some are other rows: reported, selection and transfer text."""
    words = [word for word in WORDS if word != "."]
    lines = {"train": words[:12], "validation": words[12:17], "more": words[17:]}
    for name, some in lines.items():
        rows = [f"the {word},{'yes' if i % 2 else 'no'}" for i, word in enumerate(some)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return tmp_path


def test_no_reported_selection_or_training_row_comes_back(close, tmp_path):
    """And no text twice; how many went and why is said."""
    data = load_data(task(close))
    named = read_transfer(TransferText(source=str(close / "more.csv")), data)
    methods = with_transfer(data.without_validation(), named)
    assert len(methods.validation) == 0 and methods.reported
    _, made = extended(Augmentation(copies=100, candidates=22), context(methods, tmp_path))
    fresh = [text_digest([text]) for text in made.rows.rows["text"][:]]
    splits = (data.train, data.selection, data.validation, named.rows)
    known = {text_digest([text]) for split in splits for text in split["text"][:]}
    assert len({*fresh}) == len(fresh) and not known & {*fresh}
    told = made.rows.words.partition("left out: ")[2].removesuffix(")").split(", ")
    counts = {what: int(n.replace(",", "")) for n, what in (part.split(" ", 1) for part in told)}
    wanted = {"training rows", "selection rows", "reported rows", "rows of transfer text",
              "texts that come again"}  # fmt: skip
    assert counts.keys() == wanted and min(counts.values()) > 0
    assert sum(counts.values()) + len(fresh) == 100 * len(data.train)


def test_digests_of_reported_rows_are_all_that_methods_have_of_them(data):
    methods = data.without_validation()
    assert methods.reported == {text_digest([text]) for text in data.validation["text"][:]}
    assert methods.without_validation().reported == methods.reported
    (upper,) = {text_digest([f" {data.validation['text'][0].upper()} "])} & methods.reported
    assert upper


def test_nothing_new_is_an_error(close, tmp_path):
    data = load_data(task(close))
    words = [word for word in WORDS if word != "."]
    every = [(f"{a} {b}",) for a in words for b in words]
    reported = frozenset(map(text_digest, every))
    with pytest.raises(DataError, match=r"none of \d+ texts made of the training rows"):
        extended(Augmentation(copies=1), context(replace(data, reported=reported), tmp_path))


# Made once. --------------------------------------------------------------------------------------


def test_the_seed_decides_and_what_was_made_is_read_again(data, tmp_path, monkeypatch):
    def texts(asked, seed, workdir):
        made = extended(asked, context(data, tmp_path / workdir, seed))[1]
        return made.rows.rows["text"][:], made.rows.fingerprint, made.seconds

    asked = Augmentation(copies=2)
    one, other = texts(asked, 0, "a"), texts(asked, 1, "b")
    assert one[:2] == texts(asked, 0, "c")[:2] != other[:2]
    assert texts(Augmentation(copies=2, probability=0.9), 0, "a")[0] != one[0], "made anew"
    texts(asked, 0, "a")

    def never(*_):
        raise AssertionError("made twice")

    monkeypatch.setattr(augmentation, "_make", never)
    assert texts(asked, 0, "c")[:2] == one[:2]


def test_an_error_while_they_are_made_is_that_of_every_process(data, tmp_path, monkeypatch):
    """Others wait for what the main process decides: they learn of an error too."""

    class Second:
        main = False

        def agree(self, value):
            assert value is None
            return "the table is damaged"

    monkeypatch.setattr(augmentation, "Ranks", Second)
    with pytest.raises(ModelError, match="the table is damaged"):
        extended(Augmentation(copies=2), context(data, tmp_path))


def test_a_teacher_of_answers_alone_is_refused(data, tmp_path):
    ctx = replace(context(data, tmp_path), models=Models(lambda *_: None))
    with pytest.raises(RecipeError, match="needs a teacher whose model is at hand"):
        extended(Augmentation(copies=2), ctx)


# Settings. ---------------------------------------------------------------------------------------


def test_a_number_is_the_number_of_copies():
    method = bc.Distill(augment=2)
    assert method.augmentation == Augmentation(copies=2, probability=0.4, candidates=15)
    assert bc.Distill(augment={"probability": 0.1}).augmentation.copies == 20
    assert bc.Distill().augmentation is None


@pytest.mark.parametrize("wrong", [0, True, 101, "2", 1.5, {"copies": 0}, {"probability": 0},
                                   {"copy": 2}])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(RecipeError, match="augment"):
        bc.Recipe.parse({"teacher": "x", "methods": [{"distill": {"augment": wrong}}]})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"augment": 0}, r"methods\[0\].distill: augment: Input should be greater than or equal"),
        ({"augment": {"probabilty": 1}}, r"distill.augment: .*'probabilty'.*probability"),
        ({"augment": {"probability": 2}}, r"distill.augment: probability: .*\(got 2\)"),
        ({"transfer": {"sorce": "x"}}, r"distill.transfer: .*'sorce'.*source"),
        ({"learning_rate": "fast"}, "distill: learning_rate: Input should be"),
    ],
)  # fmt: skip
def test_an_error_names_the_setting_and_not_its_types(given, words):
    with pytest.raises(RecipeError, match=words) as caught:
        bc.Recipe.parse({"teacher": "x", "methods": [{"distill": given}]})
    assert "constrained" not in str(caught.value) and ".str" not in str(caught.value)


def test_text_that_nobody_answers_is_refused():
    with pytest.raises(RecipeError, match="augment: these texts have no labels"):
        bc.Recipe.parse(
            {"teacher": "x", "methods": [
                {"distill": {"augment": 2, "logit_weight": 0, "hidden_weight": 0}}]}
        )  # fmt: skip


def test_with_a_loader_of_ones_own_there_are_no_rows():
    model = tiny_model(num_labels=2)
    with pytest.raises(InputError, match="augment: texts are read by a recipe"):
        bc.distill(model, model, [], augment=2)


def test_the_control_has_none_and_takes_as_many_steps():
    method = bc.Distill(augment=2, epochs=2)
    ((_, control),) = method.controls().items()
    assert control.augment is None and control.labels_only
    assert control.augmentation != method.augmentation  # so its steps are counted, not its epochs
    assert [c.augment for c in bc.SequenceLevel(augment=3).controls().values()] == [None, 3]
    assert trained_alike(control, None) is control


# Recipes. ----------------------------------------------------------------------------------------


def stages(run, name):
    """The records of a method's stage and of its control."""
    return [json.loads((run.folder / f"stages/{name}{end}/stage.json").read_text())
            for end in ("", "-control")]  # fmt: skip


FIRST = {"distill": 0, "tinybert": 1, "minilm": 1, "pkd": 0, "sequence_level": 0}
"""Epochs on what is inside the teacher, before the others."""
SLOW = [pytest.param(key, marks=pytest.mark.slow) for key in [*FIRST][1:]]


@pytest.mark.parametrize("key", ["distill", *SLOW])
def test_a_recipe_with_augmented_text(key, place, tmp_path, capsys):
    """Texts, those left out and seconds are told; the control has as many steps and no text."""
    knobs = {"inside_epochs": FIRST[key]} if key in ("tinybert", "minilm", "pkd") else {}
    knobs |= {"hidden_weight": 0.0} if key == "distill" else {}
    steps = [{"student": {"layers": 1}},
             {key: {**TRAIN, **knobs, "epochs": 1, "augment": 2}}]  # fmt: skip
    said: list[str] = []
    run = bc.run(recipe(place, steps, "tuned"), tmp_path / "run", say=said.append)
    ours = len(load_data(task(place)).train)
    method, control = stages(run, f"02-{key}")
    told = method["findings"]["free"]
    made = told["augmented_rows"]
    assert 1.5 * ours < made <= 2 * ours and "transfer_rows" not in told
    assert told["augment_seconds"] > 0 and told["teacher_seconds"] > 0
    epoch = -(-ours // 8) + -(-made // 8)
    # MiniLM's second training is on labels alone.
    last = -(-ours // 8) if key == "minilm" else epoch
    steps_taken = FIRST[key] * epoch + last
    assert [each["cost"]["steps"] for each in (method, control)] == [steps_taken] * 2
    assert not {"augmented_rows", "teacher_seconds"} & {*control["findings"]["free"]}
    (note,) = [each for each in method["findings"]["notes"] if each.startswith("augmented text")]
    assert f"{made} rows made of {ours} training rows, 2 of each" in note
    assert "by neighbours in the teacher's word table" in note and "making them took" in note
    assert "the checkpoint has no trained masked-LM head" in note
    (line,) = [each for each in said if "augment: words" in each]
    assert f"methods[1].{key}" in line and "the model has no trained masked-LM head" in line
    assert run.report.last.notes.count(note) == 1, "whichever of both goes on"


def test_a_pretrained_checkpoint_replaces_words_by_its_head(place, tmp_path):
    """The head of the recipe's checkpoint, though a classifier has been trained of it since."""
    steps = [{"finetune": {**TRAIN, "epochs": 1}}, {"student": {"layers": 1}},
             {"distill": {**TRAIN, **LOGITS, "epochs": 1, "augment": {"copies": 1}}}]  # fmt: skip
    said: list[str] = []
    bare = recipe(place, steps, "pretrained", measure={"latency": False, "controls": False})
    run = bc.run(bare, tmp_path / "run", say=said.append)
    assert any("words of one token are replaced by the masked-LM head" in line for line in said)
    (note,) = [each for each in run.report.last.notes if each.startswith("augmented text")]
    assert "by the masked-LM head" in note and "neighbours" not in note


def test_what_is_ahead_counts_the_texts_and_the_time_to_make_them(place):
    """A step is a second here, and so is an answer: words are masked one by one."""
    works = []
    for augment in (None, {"copies": 2, "probability": 0.5}):
        method = {**TRAIN, **LOGITS, "epochs": 2, "augment": augment}
        quiet = {"measure": {"latency": False, "controls": False}}
        asked = recipe(place, [{"student": {"layers": 1}}, {"distill": method}], "tuned", **quiet)
        start = prepare(asked, None, lambda line: None)
        works.append(outlook(asked, start, Pace(1.0, 1.0, 1.0, 1))[1])
    rows = start.data.encode(tiny_tokenizer(), "train")
    assert [work.steps for work in works] == [2 * -(-len(rows) * n // 8) for n in (1, 3)]
    tokens = 0.75 * sum(rows["length"][:])  # 1 - 0.5^2 of them in one copy at least
    assert works[1].high_s - works[0].high_s > tokens
    assert works[1].high_s > works[1].low_s > works[0].low_s


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_texts_that_it_made(place, tmp_path, monkeypatch):
    from bertcompress.methods.distillation import distill

    steps = [{"student": {"layers": 1}}, {"distill": {**TRAIN, **LOGITS, "epochs": 1,
                                                      "augment": 2}}]  # fmt: skip
    quiet = {"measure": {"latency": False, "controls": False}}
    asked = recipe(place, steps, "tuned", **quiet)
    calm = bc.run(asked, tmp_path / "calm", store=bc_store(tmp_path / "one"))
    with monkeypatch.context() as patch:
        patch.setattr(distill, "fit_stage", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bc.run(asked, tmp_path / "run", store=bc_store(tmp_path / "two"))
    monkeypatch.setattr(augmentation, "_make", interrupted)
    run = bc.run(asked, tmp_path / "run", resume=True, store=bc_store(tmp_path / "two"))
    both = [np.load(each.folder / "stages/02-distill/logits.npz") for each in (calm, run)]
    for name in both[0].files:
        np.testing.assert_array_equal(both[0][name], both[1][name])


def bc_store(folder):
    from bertcompress.runs.store import StageStore

    return StageStore(folder)


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_each_setting_is_another_stage(place, tmp_path):
    reused = []
    asked = [2, 3, {"copies": 2, "probability": 0.3}, {"copies": 2, "candidates": 5}, 2]
    for number, augment in enumerate(asked):
        method = {**TRAIN, **LOGITS, "max_steps": 4, "epochs": None, "augment": augment}
        steps = [{"student": {"layers": 1}}, {"distill": method}]
        quiet = {"measure": {"latency": False, "controls": False}}
        run = bc.run(recipe(place, steps, "tuned", **quiet), tmp_path / f"run{number}")
        reused.append(run.report.last.cost.reused)
    assert reused == [False, False, False, False, True]


@pytest.mark.slow
def test_both_kinds_of_text(place, tmp_path):
    knobs = {**TRAIN, **LOGITS, "epochs": 1, "augment": 2, "transfer": str(place / "more.csv")}
    steps = [{"student": {"layers": 1}}, {"distill": knobs}]
    run = bc.run(recipe(place, steps, "tuned"), tmp_path / "run")
    method, control = stages(run, "02-distill")
    told, ours = method["findings"]["free"], len(load_data(task(place)).train)
    assert told["transfer_rows"] > 20 and told["augmented_rows"] > 1.5 * ours
    epoch = -(-ours // 8) + -(-(told["transfer_rows"] + told["augmented_rows"]) // 8)
    assert [each["cost"]["steps"] for each in (method, control)] == [epoch] * 2


@pytest.mark.slow
def test_a_student_with_another_tokenizer(place, tmp_path):
    """Each model reads the texts by its own tokens; the words are those of the teacher."""
    other = tiny_tokenizer("further", "tokens")
    small = tiny_model(num_labels=2, vocab_size=len(other), num_hidden_layers=1, **NAMES)
    bc.save(small, tmp_path / "small", other)
    steps = [{"student": {"model": str(tmp_path / "small")}},
             {"distill": {**TRAIN, **LOGITS, "epochs": 1, "augment": 2}}]  # fmt: skip
    run = bc.run(recipe(place, steps, "tuned"), tmp_path / "run")
    method, control = stages(run, "02-distill")
    assert method["findings"]["free"]["augmented_rows"] > 60
    assert method["cost"]["steps"] == control["cost"]["steps"]


@pytest.mark.slow
def test_generations_learn_from_the_same_texts(place, tmp_path):
    steps = [{"born_again": {**TRAIN, "epochs": 1, "generations": 2, "augment": 2}}]
    run = bc.run(recipe(place, steps, "tuned"), tmp_path / "run")
    method = stages(run, "01-born_again")[0]
    ours, made = len(load_data(task(place)).train), method["findings"]["free"]["augmented_rows"]
    assert method["cost"]["steps"] == 2 * (-(-ours // 8) + -(-made // 8))


def test_a_trimmed_student_gets_words_that_it_knows(place, tmp_path, monkeypatch):
    """So that hidden states are still compared token by token."""
    unused = [f"fruit{letter}" for letter in "abcdefghijklmnop"]
    tokenizer = tiny_tokenizer(*unused)
    model = tiny_model(num_labels=2, vocab_size=len(tokenizer), **NAMES)
    bc.save(model, tmp_path / "tuned", tokenizer)
    texts: list[list[str]] = []

    def noting(*given):
        made = made_texts(*given)
        texts.append([text for (text,) in made.texts])
        return made

    monkeypatch.setattr(augmentation, "made_texts", noting)
    quiet = {"measure": {"latency": False, "controls": False}}
    method = {**TRAIN, "hidden_weight": 1.0, "epochs": 1, "augment": 2}
    for steps in ([{"student": {"layers": 1}}], [{"trim_vocabulary": {"reserve": 0}}]):
        asked = recipe(place, [*steps, {"distill": method}], "tuned", **quiet)
        asked = asked.model_copy(update={"model": str(tmp_path / "tuned")})
        bc.run(asked, tmp_path / f"run{len(texts)}")
    whole, trimmed = (" ".join(each) for each in texts)
    assert "fruit" in whole and "fruit" not in trimmed


def test_a_text_that_a_trimmed_vocabulary_cuts_otherwise_is_left_out():
    whole, trimmed = tiny_tokenizer("catdog", "##dog"), tiny_tokenizer("##dog")
    assert augmentation._is_trimmed(trimmed, whole)
    assert not augmentation._is_trimmed(whole, whole)
    texts = [("the cat", "catdog"), ("the cat", "dog"), ("catdog", "cat")]
    assert augmentation._cut_alike(trimmed, whole, texts) == [False, True, False]


@pytest.mark.slow
def test_taggers_are_taught_by_lists_of_words(tmp_path):
    tagged = tags_task(tmp_path, 100, 40)
    names = ("B-ANIMAL", "B-PLACE", "I-PLACE", "O")
    labels = {"num_labels": 4, "id2label": dict(enumerate(names)),
              "label2id": {name: i for i, name in enumerate(names)}}  # fmt: skip
    bc.save(tiny_model("bert", "ForTokenClassification", **labels), tmp_path / "m",
            tiny_tokenizer())  # fmt: skip
    method = {**TAG_TRAIN, **LOGITS, "epochs": 1, "augment": 2}
    asked = {"model": str(tmp_path / "m"), "task": tagged, "measure": {"latency": False},
             "methods": [{"student": {"layers": 1}}, {"distill": method}]}  # fmt: skip
    run = bc.run(bc.Recipe.parse(asked), tmp_path / "run")
    method, control = stages(run, "02-distill")
    assert method["findings"]["free"]["augmented_rows"] > 100
    assert method["cost"]["steps"] == control["cost"]["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True], ids=["texts", "pairs"])
def test_embedders_learn_from_them(labels, tmp_path):
    """Without labels too, and after trimming; of scored pairs both texts are replaced."""
    from embedder_support import tiny_embedder, write_pairs, write_texts

    tiny_embedder(tmp_path / "m")
    write = write_pairs if labels else write_texts
    files = [write(tmp_path / f"{seed}.jsonl", 60, 7 * seed) for seed in (0, 1)]
    if labels:
        rows = bc.Task.from_files(*files, text=("a", "b"), label="score", problem="vectors")
    else:
        rows = bc.Task.from_texts(*files)
    method = {**TRAIN, "epochs": 1, "augment": 2}
    asked = {"model": str(tmp_path / "m"), "task": rows, "measure": {"latency": False},
             "methods": ["trim_vocabulary", {"distill": method}]}  # fmt: skip
    run = bc.run(bc.Recipe.parse(asked), tmp_path / "run")
    record = json.loads((run.folder / "stages/02-distill/stage.json").read_text())
    assert record["findings"]["free"]["augmented_rows"] > 60


def test_question_answering_is_refused_at_the_start(tmp_path):
    from spans_support import save_encoder, span_task, write_questions

    questions = span_task(write_questions(tmp_path / "rows", rows=20))
    model = save_encoder(tmp_path / "m", "ForQuestionAnswering")
    asked = {"model": str(model), "task": questions, "methods": [
        {"finetune": TRAIN}, {"student": {"layers": 1}}, {"distill": {"augment": 2}}]}  # fmt: skip
    wanted = r"methods\[2\].distill: augment: the rows of a spans task cannot be read without"
    with pytest.raises(TaskError, match=wanted):
        bc.run(bc.Recipe.parse(asked), tmp_path / "run")


PROGRAM = """
import sys; sys.path[:0] = [{tests!r}, {tests!r} + "/methods"]
from pathlib import Path
import bertcompress as bc
from test_augment import asked_of
bc.run(asked_of(Path({place!r})), {out!r})
"""


def asked_of(place):
    method = {**TRAIN, **LOGITS, "epochs": 1, "augment": 2}
    quiet = {"measure": {"latency": False, "controls": False}}
    return recipe(place, [{"student": {"layers": 1}}, {"distill": method}], "tuned", **quiet)


@pytest.mark.slow
def test_two_processes_make_the_texts_of_one(place, tmp_path):
    tests, program = str(Path(__file__).parents[1]), tmp_path / "go.py"
    program.write_text(
        PROGRAM.format(tests=tests, place=str(place), out=str(tmp_path / "two")), encoding="utf-8"
    )
    environment = {**os.environ, "BERTCOMPRESS_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_machines", "1", "--num_processes", "2", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run([*command, str(program)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    bc.run(asked_of(place), tmp_path / "one")
    notes = []
    for out in ("one", "two"):
        record = json.loads((tmp_path / out / "stages/02-distill/stage.json").read_text())
        found = [n for n in record["findings"]["notes"] if n.startswith("augmented text")]
        notes += [note.partition("; making them took")[0] for note in found]
    assert len(notes) == 2 and notes[0] == notes[1]
