"""Transfer text: rows that the teacher alone answers, beside the labelled ones in each epoch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_starting import TRAIN, recipe, task
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.data.transfer import TransferText, _reading, read_transfer, with_transfer
from bertcompress.deployment import Trained
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.errors import DataError, InputError, RecipeError, TaskError
from bertcompress.runs.contests import trained_alike
from bertcompress.training import LabelLoss, TrainSettings, fit, to_target_units
from bertcompress.training.steps import LengthGrouped, WithTransfer, forward

pytestmark = pytest.mark.usefixtures("without_figures")

LOGITS = {"hidden_weight": 0.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Few labelled rows, more texts without labels in every form, and a teacher's checkpoint."""
    place = tmp_path_factory.mktemp("transfer")
    for name, rows, seed in (("train", 60, 0), ("validation", 40, 1), ("more", 120, 2)):
        write_rows(place / f"{name}.csv", rows, seed, yes="yes", no="no")
    texts = {name: texts_of(place / f"{name}.csv") for name in ("train", "validation", "more")}
    lines = [*texts["more"], texts["validation"][0].upper(), f" {texts['train'][0]}  "]
    (place / "more.txt").write_text("\n".join([*lines, texts["more"][0]]) + "\n")
    (place / "more.jsonl").write_text("".join(json.dumps({"said": t}) + "\n" for t in lines))
    tiny_model("bert", "Model").save_pretrained(place / "bare")
    tiny_tokenizer().save_pretrained(place / "bare")
    return place


def texts_of(path) -> list[str]:
    return [line.rsplit(",", 1)[0].strip('" ') for line in path.read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def data(place):
    return load_data(task(place))


@pytest.fixture(scope="module")
def joined(place, data):
    return with_transfer(data, read_transfer(TransferText(source=str(place / "more.txt")), data))


# Reading. ----------------------------------------------------------------------------------------


def test_texts_that_are_judged_or_known_are_left_out_and_counted(place, data):
    read = read_transfer(TransferText(source=str(place / "more.txt")), data)
    known = [*data.validation["text"][:], *data.selection["text"][:], *data.train["text"][:]]
    plain = {" ".join(text.casefold().split()) for text in known}
    fresh = read.rows["text"][:]
    assert not plain & {" ".join(text.casefold().split()) for text in fresh}
    assert len(set(fresh)) == len(fresh) and read.rows.column_names == ["row_id", "text"]
    more = Counter(texts_of(place / "more.csv"))
    assert set(fresh) == {text for text in more if " ".join(text.split()) not in plain}
    told = read.words.partition("left out: ")[2].removesuffix(")").split(", ")
    counts = {what: int(count) for count, what in (part.split(" ", 1) for part in told)}
    assert counts["reported rows"] >= 1 and counts["texts that come again"] >= 1
    left = counts["training rows"] + counts.get("selection rows", 0)
    assert left >= 1
    lines = (place / "more.txt").read_text().splitlines()
    assert sum(counts.values()) + len(fresh) == len(lines)
    ids = [*data.train["row_id"][:], *data.selection["row_id"][:], *data.validation["row_id"][:]]
    assert min(read.rows["row_id"][:]) > max(ids)


def test_every_form_is_read(place, data):
    lines = read_transfer(TransferText(source=str(place / "more.txt")), data)
    table = read_transfer(TransferText(source=str(place / "more.csv")), data)
    said = read_transfer(TransferText(source=str(place / "more.jsonl"), text=("said",)), data)
    (place / "other.yaml").write_text(
        "name: other\ndataset: csv\nfiles: {train: more.csv, validation: validation.csv}\n"
        "text: text\nlabel: label\n"
    )
    other = read_transfer(TransferText(source=str(place / "other.yaml")), data)
    found = [
        [text.strip() for text in read.rows["text"][:]] for read in (lines, table, said, other)
    ]
    assert found[0] == found[1] == found[2] == found[3]
    few = [read_transfer(TransferText(source=str(place / "more.txt"), rows=5), data, seed=s).rows
           for s in (0, 0, 1)]  # fmt: skip
    assert len(few[0]) == 5 and few[0]["text"][:] == few[1]["text"][:] != few[2]["text"][:]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"source": "more.csv", "text": ("body",)}, DataError, "column 'body'"),
        ({"source": "more.csv", "text": ("text", "label")}, TaskError, "2 text columns"),
        ({"source": "train.csv"}, DataError, "none of 60 texts is new"),
        ({"source": "gone.csv"}, DataError, "no such file"),
        ({"source": "more.xlsx"}, TaskError, "save the sheet as CSV"),
        ({"source": "more.csv", "config": "en"}, TaskError, "config: 'en': the file .* has none"),
        ({"source": "more.txt", "config": "en"}, TaskError, "config: 'en': the file .* has none"),
    ],
)
def test_what_cannot_be_read_is_refused(asked, error, words, place, data):
    with pytest.raises(error, match=words):
        read_transfer(TransferText(**{**asked, "source": str(place / asked["source"])}), data)


@pytest.mark.parametrize(
    ("asked", "config"),
    [({}, "first"), ({"split": "test"}, "other"), ({"config": "third", "split": "test"}, "third")],
)
def test_a_task_is_read_in_the_configuration_of_its_split(asked, config, place, data):
    """What GLUE's `ax` is judged on was looked for in `mnli`, which it is trained on."""
    (place / "ax.yaml").write_text(
        "name: ax\ndataset: me/glue\nconfig: other\ntrain_config: first\nvalidation: test\n"
        "text: text\nlabel: label\n"
    )
    found, split = _reading(TransferText(source=str(place / "ax.yaml"), **asked), data.task)
    assert (found.config, found.train_config) == (config, None)
    assert split == asked.get("split", "train")


def test_pairs_need_two_columns(place, data):
    pairs = replace(data, task=data.task.model_copy(update={"text": ("text", "label")}))
    with pytest.raises(TaskError, match=r"1 text column \(text\), and task .* has 2; name as many"):
        read_transfer(TransferText(source=str(place / "more.csv"), text=("text",)), pairs)


# Batches and losses. -----------------------------------------------------------------------------


@pytest.mark.parametrize(("labelled", "others"), [(20, 9), (16, 8), (5, 2), (3, 17)])
def test_no_batch_holds_both_and_every_row_comes_in_each_epoch(labelled, others):
    sampler = WithTransfer(np.arange(labelled), np.arange(others), 4, seed=0)
    orders = []
    for epoch in range(2):
        sampler.epoch = epoch
        order = list(sampler)
        assert len(order) == len(sampler)
        batches = [order[i : i + 4] for i in range(0, len(order), 4)]
        assert all(len({place < labelled for place in batch}) == 1 for batch in batches)
        assert order[0] < labelled or labelled < 4, "other processes fill the last batch from here"
        counted = Counter(order)
        assert all(counted[place] == 1 for place in range(labelled))
        assert set(counted) == set(range(labelled + others))
        orders.append(order)
    assert orders[0] != orders[1] or labelled < 10


def test_the_labelled_rows_keep_the_order_inside_their_batches():
    plain, mixed = (
        LengthGrouped(np.arange(16), 4, 0),
        WithTransfer(np.arange(16), np.arange(8), 4, 0),
    )
    alone, both = list(plain), [i for i in mixed if i < 16]
    batches = [{*order[i : i + 4]} for order in (alone, both) for i in range(0, 16, 4)]
    assert sorted(map(sorted, batches[:4])) == sorted(map(sorted, batches[4:]))


def test_the_labels_count_for_labelled_batches_alone(joined, tmp_path):
    tokenizer = tiny_tokenizer()
    teacher = LiveTeacher(tiny_model(num_labels=2, seed=1), tokenizer, joined)
    model = tiny_model(num_labels=2)
    losses = {}
    for split in ("train", "transfer"):
        features = joined.encode(tokenizer, split)
        batch = joined.collator(tokenizer)([features[i] for i in range(4)])
        assert ("labels" in batch) is (split == "train")
        for weight in (0.0, 1.0):
            objective = Distillation(teacher, problem="single_label", label_weight=weight,
                                     logit_weight=0.5, hidden_weight=0.0)  # fmt: skip
            losses[split, weight] = objective(model, batch, forward(model, batch), 0)
    assert torch.equal(losses["transfer", 0.0], losses["transfer", 1.0])
    assert not torch.equal(losses["train", 0.0], losses["train", 1.0])


def test_a_cached_teacher_answers_transfer_text_as_a_live_one(joined, tmp_path):
    tokenizer = tiny_tokenizer()
    live = LiveTeacher(tiny_model(num_labels=2), tokenizer, joined)
    cached = CachedTeacher(live, tmp_path)
    assert live.seconds > 0
    ids = torch.as_tensor(joined.transfer["row_id"][:5])
    torch.testing.assert_close(cached(ids).logits, live(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("objective", "uses"), [("labels", False), ("teacher", True)])
def test_only_a_teacher_makes_use_of_it(objective, uses, joined, tmp_path):
    tokenizer = tiny_tokenizer()
    teacher = LiveTeacher(tiny_model(num_labels=2, seed=1), tokenizer, joined)
    asked: list[int] = []

    def answering(row_ids, needs=frozenset(), parts=None):
        asked.extend(row_ids.tolist())
        return teacher(row_ids, needs, parts)

    loss = LabelLoss() if objective == "labels" else Distillation(
        answering, problem="single_label", hidden_weight=0.0)  # fmt: skip
    settings = TrainSettings(epochs=1, batch_size=8, precision="fp32", learning_rate=1e-3)
    done = fit(tiny_model(num_labels=2), loss, joined, tokenizer=tokenizer, settings=settings,
               workdir=tmp_path)  # fmt: skip
    ours, more = len(joined.train), len(joined.transfer)
    assert done.steps == -(-ours // 8) + (-(-more // 8) if uses else 0)
    if uses:
        assert set(joined.transfer["row_id"][:]) <= set(asked)
        assert not set(joined.validation["row_id"][:]) & set(asked)


def test_without_transfer_text_a_training_is_what_it_was(data, joined, tmp_path):
    """To the bit: labels alone read none of it."""
    tokenizer, states = tiny_tokenizer(), []
    settings = TrainSettings(epochs=1, batch_size=8, precision="fp32", learning_rate=1e-3)
    for number, rows in enumerate((data, joined)):
        model = tiny_model(num_labels=2)
        fit(model, LabelLoss(), rows, tokenizer=tokenizer, settings=settings,
            workdir=tmp_path / str(number))  # fmt: skip
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_regression_learns_from_text_without_targets(place, tmp_path):
    for name, seed in (("train", 0), ("validation", 1)):
        write_rows(tmp_path / f"{name}.csv", 60, seed, yes="101", no="99")
    files = (tmp_path / "train.csv", tmp_path / "validation.csv")
    numbers = load_data(
        bc.Task.from_files(*files, text="text", label="label", problem="regression", max_length=24)
    )
    rows = with_transfer(
        numbers, read_transfer(TransferText(source=str(place / "more.txt")), numbers)
    )
    tokenizer = tiny_tokenizer()
    teacher = tiny_model(num_labels=1, seed=1)
    with torch.no_grad():
        teacher.classifier.bias.fill_(100.0)
    objective = Distillation(LiveTeacher(teacher, tokenizer, rows), problem="regression",
                             hidden_weight=0.0)  # fmt: skip
    settings = TrainSettings(epochs=2, batch_size=8, precision="fp32", learning_rate=1e-2)
    model = to_target_units(tiny_model(num_labels=1), rows)
    done = fit(
        model, objective, rows, tokenizer=tokenizer, settings=settings, workdir=tmp_path / "w"
    )
    assert all(row["loss"] < 10 for row in done.history), "in standard deviations, not units"


# Recipes. ----------------------------------------------------------------------------------------


def test_text_that_nobody_answers_is_refused():
    with pytest.raises(RecipeError, match="no weight of a teacher's answers is above 0"):
        bc.Recipe.parse(
            {"teacher": "x", "methods": [
                {"distill": {"transfer": "a.txt", "logit_weight": 0, "hidden_weight": 0}}]}
        )  # fmt: skip


def test_a_loader_of_ones_own_may_hold_batches_without_labels():
    """They have no label term; texts by name are for recipes."""
    rows = [{"input_ids": torch.randint(5, 20, (4, 8)), "attention_mask": torch.ones(4, 8).long()}
            for _ in range(4)]  # fmt: skip
    labelled = [{**batch, "labels": torch.tensor([0, 1, 0, 1])} for batch in rows[:2]]
    teacher = tiny_model(num_labels=2, seed=1)
    small = bc.student(teacher, 1)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    trained = bc.distill(small, teacher, [*labelled, *rows[2:]], epochs=1, precision="fp32")
    assert any(not torch.equal(before[name], each) for name, each in trained.state_dict().items())
    with pytest.raises(InputError, match="let it yield batches without labels too"):
        bc.distill(small, teacher, labelled, transfer="more.txt")


def test_the_control_has_none_and_takes_as_many_steps():
    method = bc.Distill(transfer="more.txt", epochs=2)
    ((_, control),) = method.controls().items()
    assert control.transfer is None and control.labels_only
    trained = Trained(steps=77, learning_rate=1e-4, precision="fp32", evaluation_steps=9)
    alike = trained_alike(control, trained, other_rows=True)
    assert (alike.max_steps, alike.epochs) == (77, None)
    assert trained_alike(control, trained) is control, "where both read the same rows"
    kept = bc.SequenceLevel(transfer="more.txt").controls()
    assert [each.transfer for each in kept.values()] == [None, "more.txt"]


@pytest.fixture(scope="module")
def tuned(place):
    """A model with a head for the task, which nothing has trained."""
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    return bc.save(tiny_model(num_labels=2, **names), place / "tuned", tiny_tokenizer())


@pytest.mark.parametrize("key", ["distill", pytest.param("tinybert", marks=pytest.mark.slow),
                                 pytest.param("minilm", marks=pytest.mark.slow)])  # fmt: skip
def test_a_recipe_with_transfer_text(key, place, tuned, tmp_path):
    """Rows, those left out and the teacher's seconds are told; the control has as many steps."""
    knobs = {"distill": {"hidden_weight": 0.0}, "tinybert": {"inside_epochs": 1},
             "minilm": {"inside_epochs": 1}}[key]  # fmt: skip
    more = {"source": str(place / "more.txt"), "rows": 50}
    steps = [{"student": {"layers": 1}}, {key: {**TRAIN, **knobs, "epochs": 1, "transfer": more}}]
    run = bc.run(recipe(place, steps, "tuned"), tmp_path / "run")
    ours = len(load_data(task(place)).train)
    epoch = -(-ours // 8) + -(-50 // 8)
    first = {"distill": 0, "tinybert": epoch, "minilm": epoch}[key]
    last = {"distill": epoch, "tinybert": epoch, "minilm": -(-ours // 8)}[key]
    records = [json.loads((run.folder / f"stages/02-{key}{end}/stage.json").read_text())
               for end in ("", "-control")]  # fmt: skip
    told, alone = (record["findings"]["free"] for record in records)
    assert [record["cost"]["steps"] for record in records] == [first + last] * 2
    assert told["transfer_rows"] == 50 and told["teacher_seconds"] > 0
    assert "transfer_rows" not in alone
    notes = "\n".join(run.report.notes)
    assert f"transfer text: 50 rows of '{place / 'more.txt'}'" in notes
    assert "beyond rows: 50" in notes and "reported rows" in notes
    if run.report.last.replaced_by is None:
        assert "the teacher's answers, transfer text included, took" in notes


@pytest.mark.slow
def test_other_text_is_another_stage(place, tuned, tmp_path):
    keys = []
    for rows in (20, 30, 20):
        more = {"source": str(place / "more.txt"), "rows": rows}
        steps = [{"student": {"layers": 1}}, {"distill": {**TRAIN, **LOGITS, "epochs": 1,
                                                          "transfer": more}}]  # fmt: skip
        quiet = {"measure": {"latency": False, "controls": False}}
        run = bc.run(recipe(place, steps, "tuned", **quiet), tmp_path / f"run{len(keys)}")
        keys.append(run.report.last)
        for stage in run.report.stages[:2]:
            assert stage.cost.reused is (len(keys) > 1) or stage.is_original
    assert not keys[1].cost.reused and keys[2].cost.reused
