"""What a run begins with: checkpoints as the Hub has them, heads of all sorts, named teachers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tests_support import WORDS, first_fast, tiny_config, tiny_model, tiny_tokenizer, write_rows
from tokenizers import Tokenizer

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.deployment import Product
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import ModelError, Notice, RecipeError
from bertcompress.measure.scores import predict
from bertcompress.method import Context, Models
from bertcompress.runs.prepare import prepare
from bertcompress.runtimes.torch import TorchPredictor
from bertcompress.shapes import ShapeError, family_named
from bertcompress.training import TrainSettings, fit
from bertcompress.verbs.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("without_figures")

TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
FINETUNE = {"finetune": {**TRAIN, "epochs": 6}}
CUT = {"prune_structured": {"keep": 0.5, "rows": 32}}
DISTILL = {"distill": {**TRAIN, "epochs": 1, "hidden_weight": 0.0, "label_weight": 0.0}}
NAMES = {"num_labels": 2, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rows, and a model that learned to read them, its classes named as the task's."""
    place = tmp_path_factory.mktemp("starting")
    write_rows(place / "train.csv", 240, 0, yes="yes", no="no")
    write_rows(place / "validation.csv", 60, 1, yes="yes", no="no")
    tiny_model("bert", "Model").save_pretrained(place / "bare")
    tiny_tokenizer().save_pretrained(place / "bare")
    run = bc.run(recipe(place, [FINETUNE], "bare"), place / "tuned")
    assert run.report.last.deployments[0].headline.value > 0.9
    return place


def task(place: Path, **fields) -> bc.Task:
    files = (place / "train.csv", place / "validation.csv")
    return bc.Task.from_files(*files, text="text", label="label", max_length=24, **fields)


def recipe(place: Path, methods, model: str, **fields) -> bc.Recipe:
    content = {"model": str(place / model), "task": task(place), "methods": methods, **fields}
    return bc.Recipe.parse({"measure": {"latency": False}} | content)


def turned(place: Path, name: str, id2label: dict[int, str] | None, order=(1, 0)) -> Path:
    """The fine-tuned model with its outputs in another order, under these names."""
    product = bc.load(place / "tuned")
    with torch.no_grad():
        for parameter in product.model.classifier.parameters():
            parameter.copy_(parameter[list(order)].clone())
    names = id2label or {0: "LABEL_0", 1: "LABEL_1"}
    product.model.config.id2label = names
    product.model.config.label2id = {n: i for i, n in names.items()}
    return bc.save(product.model, place / name, product.tokenizer)


def score(run, stage: int) -> float:
    return run.report.stages[stage].deployments[0].headline.value


@pytest.mark.parametrize(
    "family", first_fast(["bert", "albert", "roberta", "electra", "distilbert"])
)
def test_a_pretrained_checkpoint_as_the_hub_has_it(family, place, tmp_path):
    """With pooler and heads of pretraining, under the class that it is most used for."""
    prefix = family_named(family).stock_prefix
    cls = getattr(transformers, f"{prefix}ForPreTraining", None)
    model = (cls or getattr(transformers, f"{prefix}ForMaskedLM"))(tiny_config(family)).eval()
    if family == "roberta":
        model.roberta.pooler = transformers.RobertaModel(model.config).pooler
    model.save_pretrained(tmp_path / "hub")
    tiny_tokenizer().save_pretrained(tmp_path / "hub")
    written = json.loads((tmp_path / "hub" / "config.json").read_text())
    if family != "electra":
        written["architectures"] = [f"{prefix}ForMaskedLM"]
    (tmp_path / "hub" / "config.json").write_text(json.dumps(written))
    bc.load(tmp_path / "hub")
    start = recipe(place, [{"finetune": {**TRAIN, "epochs": 0.1}}, CUT], "bare")
    run = bc.run(start.model_copy(update={"model": str(tmp_path / "hub")}), tmp_path / "run")
    assert [stage.method for stage in run.report.stages] == ["finetune", "prune_structured"]


@pytest.mark.slow
def test_a_named_teacher_is_aligned_by_the_names_of_its_classes(place, tmp_path):
    turned(place, "permuted", {0: "yes", 1: "no"})
    scores = []
    for teacher in ("tuned", "permuted"):
        methods = [{**CUT, "prune_structured": {"keep": 0.5, "rows": 32}}, DISTILL]
        cut = recipe(place, methods, "tuned", teacher=str(place / teacher))
        run = bc.run(cut, tmp_path / teacher)
        scores.append(np.load(run.folder / "stages/02-distill/logits.npz")["torch-fp32-validation"])
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_a_teacher_of_another_width_is_refused_at_the_start(place, tmp_path):
    bc.save(tiny_model(num_labels=3), tmp_path / "three", tiny_tokenizer())
    cut = recipe(place, [CUT, DISTILL], "tuned", teacher=str(tmp_path / "three"))
    with pytest.raises(ModelError, match=r"answers with 3 numbers, task .* needs 2"):
        bc.run(cut, tmp_path / "run")
    assert not list(tmp_path.glob(".run*"))


@pytest.fixture(scope="module")
def short(place):
    """A teacher of the model's own tokenizer, whose position table has 12 rows."""
    bc.save(tiny_model(**NAMES, max_position_embeddings=12), place / "short", tiny_tokenizer())
    return str(place / "short")


@pytest.mark.parametrize("method", [{"distill": {"epochs": 1}}, {"minilm": {"epochs": 1}}])
def test_a_teacher_that_reads_less_is_refused_by_terms_that_compare_tokens(place, short, method):
    """It failed once the fine-tuning and the cut were paid for."""
    refused = recipe(place, [CUT, method], "tuned", teacher=short)
    with pytest.raises(ModelError, match=r"methods\[1\].*teacher: reads at most 12 tokens, and"):
        prepare(refused, None, lambda _: None)


def test_a_teacher_that_reads_less_answers_for_what_it_reads(place, short, tmp_path):
    start = prepare(recipe(place, [CUT, DISTILL], "tuned", teacher=short), None, lambda _: None)
    assert start.teacher is not None and start.teacher_data is not None
    assert start.teacher_data.task.max_length == 12
    lines = [line for line in start.notes if line.startswith("the teacher")]
    assert lines[0] == "the teacher reads at most 12 tokens: its max_length is 12, not 24"
    product, data = start.teacher[0], start.data.without_validation()
    live = LiveTeacher(product.model, product.tokenizer, start.teacher_data.without_validation())
    given = Context(data.task, data, Models(live), torch.device("cpu"), 0, tmp_path)
    student = Product(tiny_model(**NAMES), tiny_tokenizer())
    done = bc.Distill(**DISTILL["distill"]).apply(student, given)
    assert done.findings.steps


def letters() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that knows letters alone: as many tokens as a text has letters."""
    names = "abcdefghijklmnopqrstuvwxyz"
    tokenizer = tiny_tokenizer(*names, *(f"##{name}" for name in names), "##.")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for word in WORDS:
        if len(word) > 1:
            vocab = state["model"]["vocab"]
            vocab[f"<{word}>"] = vocab.pop(word)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        **{k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("room", "cuts"), [(128, False), (30, True)])
def test_a_teacher_reads_its_texts_whole_where_its_tokenizer_makes_more_tokens(
    room, cuts, place, tmp_path
):
    """Without max_length each tokenizer gets what it needs, the teacher's within its model."""
    tokenizer = letters()
    wide = tiny_model(**NAMES, vocab_size=len(tokenizer), max_position_embeddings=room)
    bc.save(wide, tmp_path / "wide", tokenizer)
    files = (place / "train.csv", place / "validation.csv")
    free = bc.Task.from_files(*files, text="text", label="label")
    cut = recipe(place, [CUT, DISTILL], "tuned", teacher=str(tmp_path / "wide"), task=free)
    said: list[str] = []
    start = prepare(cut, None, said.append)
    read = start.teacher_data
    assert start.data.task.max_length == 16 and read is not None
    lengths = read.encode(start.teacher[0].tokenizer, "train")["length"][:]
    assert (max(lengths) == room) is cuts and max(lengths) > 16
    lines = [line for line in said if "teacher" in line]
    assert lines == [line for line in start.notes if "teacher" in line]
    assert "the teacher's tokenizer differs: its max_length is" in lines[0]
    assert any("the teacher's texts: max_length 30, the most" in line for line in lines) is cuts
    if cuts:
        assert bc.run(cut, tmp_path / "run").report.stages[-1].method == "distill"


def test_a_teacher_of_another_language_is_refused(place, tmp_path):
    tokenizer = letters()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = {k if k.startswith("[") else f"<{k}>": v for k, v in state["model"]["vocab"].items()}
    state["model"]["vocab"] = vocab
    foreign = tiny_tokenizer()
    foreign._tokenizer = Tokenizer.from_str(json.dumps(state))
    bc.save(tiny_model(**NAMES, vocab_size=len(vocab)), tmp_path / "foreign", foreign)
    cut = recipe(place, [CUT, DISTILL], "tuned", teacher=str(tmp_path / "foreign"))
    with pytest.raises(ModelError, match=r"foreign': its tokenizer answers \[UNK\] to 100 %"):
        prepare(cut, None, lambda _: None)


def test_finetune_after_a_cut_is_kept(place, tmp_path):
    run = bc.run(recipe(place, [FINETUNE, CUT, FINETUNE], "tuned"), tmp_path / "run")
    assert [s.method for s in run.report.stages] == ["original", "prune_structured", "finetune"]


def test_f1_is_of_the_class_of_the_task_whatever_the_model_calls_it(place):
    turned(place, "permuted-f1", {0: "yes", 1: "no"})
    judged = task(place, metrics=["f1", "accuracy"], headline="f1")
    # Few rows of one class: F1 of the other class would be another number.
    ours, theirs = (evaluate(place / m, judged, limit=37) for m in ("tuned", "permuted-f1"))
    assert [row.value for row in ours] == [row.value for row in theirs]
    plain = load_data(judged)
    other = load_data(judged, model_labels={0: "yes", 1: "no"})
    assert plain.task.chance == other.task.chance
    assert other.labels == ("yes", "no")
    np.testing.assert_array_equal(plain.references("selection"), other.references("selection"))


def test_a_nameless_head_is_believed_when_it_is_better_than_chance(place, tmp_path):
    turned(place, "nameless", None, order=(0, 1))
    with pytest.warns(Notice, match="not named as"):
        run = bc.run(recipe(place, [CUT], "nameless"), tmp_path / "good")
    assert [s.method for s in run.report.stages] == ["original", "prune_structured"]
    assert any("no names; taken as fine-tuned" in note for note in run.report.stages[0].notes)
    assert any("in this order, no, yes" in note for note in run.report.stages[0].notes)
    assert run.report.data.by_order == ("model",)
    assert any("model were matched" in line for line in run.report.verdict.red)
    bc.save(tiny_model(num_labels=2), tmp_path / "random", tiny_tokenizer())
    untrained = recipe(place, [CUT], "bare").model_copy(update={"model": str(tmp_path / "random")})
    with (
        pytest.warns(Notice, match="not named as"),
        pytest.raises(RecipeError, match="not taken as fine-tuned"),
    ):
        bc.run(untrained, tmp_path / "bad")


def test_a_nameless_head_is_trained_on_where_finetune_was_asked_for(place, tmp_path):
    """Better than chance is no proof that it was trained for these classes."""
    turned(place, "nameless-too", None, order=(0, 1))
    one = {"finetune": {**TRAIN, "max_steps": 1, "learning_rate": 1e-9}}
    said: list[str] = []
    with pytest.warns(Notice, match="not named as"):
        run = bc.run(recipe(place, [one], "nameless-too"), tmp_path / "run", say=said.append)
    assert [s.method for s in run.report.stages] == ["finetune"]
    line = "no name tells that the model is fine-tuned for this task, so finetune runs: accuracy "
    kept = [text for text in said if text.startswith(line)]
    assert len(kept) == 1 and kept[0].endswith("its head is kept and trained on")
    assert kept[0] in [note for stage in run.report.stages for note in stage.notes]
    assert score(run, 0) > 0.9  # one step of no size: the head is the old one
    trained = bc.load(run.model).model.config
    assert trained.id2label == {0: "no", 1: "yes"}


def test_a_regression_worse_than_the_mean_gets_a_new_head(place, tmp_path):
    """However well it ranks: its numbers are on another scale."""
    for name, seed in (("train", 0), ("validation", 1)):
        write_rows(tmp_path / f"{name}.csv", 80, seed, yes="1.5", no="0.5")
    files = (tmp_path / "train.csv", tmp_path / "validation.csv")
    numbers = bc.Task.from_files(*files, text="text", label="label", problem="regression")
    product = bc.load(place / "tuned")
    model = tiny_model(num_labels=1)
    model.bert.load_state_dict(product.model.bert.state_dict())
    with torch.no_grad():
        weight = product.model.classifier.weight
        model.classifier.weight.copy_(weight[1:] - weight[:1])
        model.classifier.bias.fill_(1.0)
    trained = recipe(place, [FINETUNE], "bare", task=numbers)
    told = {}
    for scale in (0.1, 100.0):
        with torch.no_grad():
            model.classifier.weight.mul_(scale)
        bc.save(model, tmp_path / f"x{scale}", product.tokenizer)
        start = prepare(
            trained.model_copy(update={"model": str(tmp_path / f"x{scale}")}), None, lambda _: None
        )
        assert not start.finetuned
        told[scale] = start.notes[0]
    assert "its head is kept and trained on" in told[0.1]
    assert "not taken as fine-tuned" in told[100.0]


def test_a_new_head_leaves_nothing_that_was_matched_by_order(place, tmp_path):
    bc.save(tiny_model(num_labels=2), tmp_path / "random", tiny_tokenizer())
    untrained = recipe(place, [FINETUNE], "bare")
    with pytest.warns(Notice, match="not named as"):
        start = prepare(untrained.model_copy(update={"model": str(tmp_path / "random")}), None, len)
    assert start.by_order == () and not start.finetuned
    assert not any("in this order" in note for note in start.notes)


def test_a_teacher_whose_classes_are_matched_by_order_is_told(place):
    turned(place, "nameless-teacher", None, order=(0, 1))
    named = recipe(place, [CUT, DISTILL], "tuned", teacher=str(place / "nameless-teacher"))
    with pytest.warns(Notice, match="the teacher's classes"):
        start = prepare(named, None, len)
    assert start.by_order == ("teacher",)
    assert "the teacher's classes (LABEL_0, LABEL_1) are not named as" in start.notes[-1]
    assert prepare(recipe(place, [CUT], "tuned"), None, len).by_order == ()


def test_the_share_of_rows_that_are_cut_is_kept_in_numbers(place):
    whole = prepare(recipe(place, [CUT], "tuned"), None, len).data
    assert whole.cut == {"train": 0, "selection": 0, "validation": 0}
    short = recipe(place, [CUT], "tuned", task={**task(place).model_dump(), "max_length": 4})
    assert prepare(short, None, len).data.cut["validation"] > 0.5


def test_a_fresh_head_is_fresh(place, tmp_path):
    """A head of another task with as many outputs is not passed off as new."""
    names = {**NAMES, "id2label": {0: "up", 1: "down"}, "label2id": {"up": 0, "down": 1}}
    model = tiny_model(**names)
    with torch.no_grad():
        model.classifier.weight.fill_(7.0)
    bc.save(model, tmp_path / "other", tiny_tokenizer())
    said: list[str] = []
    made = bc.run(
        recipe(
            place, [{"finetune": {**TRAIN, "max_steps": 1, "learning_rate": 1e-9}}], "bare"
        ).model_copy(update={"model": str(tmp_path / "other")}),
        tmp_path / "run",
        say=said.append,
    )
    assert any("head (2 outputs: up, down) is not for this task" in line for line in said)
    assert bc.load(made.model).model.classifier.weight.abs().max() < 5


def test_calibration_rows_are_a_fair_sample_from_the_first_on(tmp_path):
    """Of a training set that is sorted by its labels."""
    rows = [f"the cat number {i},{'no' if i < 600 else 'yes'}" for i in range(1_200)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    write_rows(tmp_path / "validation.csv", 20, 1, yes="yes", no="no")
    labels = np.asarray(load_data(task(tmp_path)).calibration["label"][:])
    assert abs(labels[:100].mean() - 0.5) < 0.15


def test_a_model_of_another_width_is_not_scored(place):
    data = load_data(task(place))
    predictor = TorchPredictor(tiny_model(num_labels=3))
    with pytest.raises(ModelError, match="answers with 3 numbers"):
        predict(predictor, data, "validation", tiny_tokenizer())


def test_checkpoints_of_other_weights_are_not_gone_on_with(place, tmp_path):
    from bertcompress.errors import OutputError
    from bertcompress.training import LabelLoss

    data, tokenizer = load_data(task(place)), tiny_tokenizer()
    settings = TrainSettings(epochs=1, batch_size=16, precision="fp32")
    first, second = tiny_model(num_labels=2), tiny_model(num_labels=2, seed=1)
    for model in (first, second):
        refused = pytest.raises(OutputError, match="another training") if model is second else None
        arguments = {"tokenizer": tokenizer, "settings": settings, "workdir": tmp_path / "work"}
        if refused is None:
            fit(model, LabelLoss(), data, **arguments)
        else:
            with refused:
                fit(model, LabelLoss(), data, **arguments)


def test_what_a_stage_is_chosen_by_is_in_its_key(place):
    by_f1 = load_data(task(place, metrics=["f1", "accuracy"], headline="f1"))
    by_accuracy = load_data(task(place, metrics=["f1", "accuracy"], headline="accuracy"))
    assert by_f1.fingerprint != by_accuracy.fingerprint


def test_methods_do_not_see_the_validation_rows(place):
    data = load_data(task(place)).without_validation()
    assert len(data.validation) == 0
    ids = data.selection["row_id"][:3]
    assert [row["row_id"] for row in data.rows(ids, tiny_tokenizer())] == list(ids)


def test_padding_is_on_the_right(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    bc.save(tiny_model(), tmp_path / "left", tokenizer)
    with pytest.warns(Notice, match="pads on the left"):
        assert bc.load(tmp_path / "left").tokenizer.padding_side == "right"


def test_shared_rows_are_told(tmp_path):
    write_rows(tmp_path / "train.csv", 100, 0, yes="yes", no="no")
    lines = (tmp_path / "train.csv").read_text().splitlines()
    write_rows(tmp_path / "validation.csv", 40, 1, yes="yes", no="no")
    with (tmp_path / "validation.csv").open("a") as file:
        file.write("\n".join(lines[1:20]) + "\n")
    with pytest.warns(Notice, match=r"19 of 59 rows of 'validation' are in 'train' too"):
        load_data(task(tmp_path))


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (
            [{"prune_structured": {"keep": 1, "keep_layers": 2}}, {"share_layers": {"groups": 2}}],
            ShapeError,
            "2 groups of 2 layers share nothing",
        ),
        (
            ["share_layers", {"prune_structured": {"keep_layers": 9}}],
            ShapeError,
            "keep_layers 9 of 3 layers",
        ),
        (
            [{"factorize_embedding": {"size": 8, "tables": "all"}}, "factorize_embedding"],
            ShapeError,
            "size 128",
        ),
        (
            [{"factorize_linear": {"keep": 0.5}}, "share_layers"],
            RecipeError,
            r"methods\[2\].share_layers: factorize_linear before it .* put share_layers first",
        ),
        (
            [{"kprune": {"keep": 0.5}}, "share_layers"],
            RecipeError,
            "kprune before it",
        ),
    ],
)
def test_an_impossible_shape_is_refused_before_anything_is_trained(
    steps, error, message, place, tmp_path, monkeypatch
):
    monkeypatch.setattr(bc.Finetune, "apply", lambda *_: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        bc.run(recipe(place, [FINETUNE, *steps], "bare"), tmp_path / "run")
    assert not list(tmp_path.glob("run*"))


def test_a_model_in_few_bits_is_no_start(place, tmp_path):
    loader = torch.utils.data.DataLoader(
        [{"input_ids": torch.arange(2, 12), "attention_mask": torch.ones(10, dtype=torch.long),
          "labels": torch.tensor(0)}] * 8,
        batch_size=4,
    )  # fmt: skip
    stored = bc.q8bert(tiny_model(**NAMES), loader, epochs=1, precision="fp32")
    bc.save(stored, place / "stored", tiny_tokenizer())
    with pytest.raises(ModelError, match="stored in int8, which nothing can train or cut"):
        bc.run(recipe(place, [FINETUNE, CUT], "stored"), tmp_path / "run")
    with pytest.raises(ShapeError, match="stored in 8 bits already"):
        bc.q8bert(stored, loader, epochs=1)
