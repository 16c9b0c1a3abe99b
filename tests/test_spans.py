"""Extractive question answering through everything that a run does, on a tiny model."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from spans_support import TRAIN, question_rows, save_encoder, span_task, write_questions
from tests_support import tiny_model, tiny_tokenizer
from torch.nn import functional

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.errors import ModelError
from bertcompress.heads import HEADS
from bertcompress.heads.scoring import compute, paired_difference, resampled
from bertcompress.heads.spans import THRESHOLD
from bertcompress.measure.scores import predict
from bertcompress.runtimes.torch import TorchPredictor

HEAD = HEADS["spans"]
pytestmark = pytest.mark.usefixtures("without_figures")


ANSWERED = [
    pytest.param(0.4, id="some unanswerable"),
    pytest.param(0.0, id="all answered", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=ANSWERED)
def run(request, tmp_path_factory):
    """A run of the main job, on questions that all have an answer or not."""
    tmp = tmp_path_factory.mktemp("spans")
    write_questions(tmp / "rows", silent=request.param)
    save_encoder(tmp / "bert")
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp / "bert"),
            "task": span_task(tmp / "rows"),
            "methods": [
                {"finetune": {**TRAIN, "epochs": 8}},
                {"prune_structured": {"keep": 0.7, "rows": 32}},
                {"distill": {**TRAIN, "epochs": 2}},
                {"quantize_int8": {"runtimes": ["onnxruntime"]}},
            ],
            "measure": {"latency": False},
        }
    )
    return bc.run(recipe, tmp / "run"), request.param


def test_the_main_job(run):
    done, silent = run
    first, last = done.report.stages[0], done.report.last
    assert first.method == "finetune" and first.deployments[0].headline.standing.above
    assert first.deployments[0].headline.metric == "f1"
    names = {"f1", "exact_match"} | ({"f1_answerable", "f1_unanswerable"} if silent else set())
    for row in last.deployments:
        assert {score.metric for score in row.scores} == names
        assert all(score.n == 60 for score in row.scores)
    assert {row.precision for row in last.deployments} == {"fp32", "int8"}
    with np.load(done.folder / "stages" / "01-finetune" / "logits.npz") as stored:
        assert {stored[name].shape[1] for name in stored.files} == {5}


def test_evaluate_gives_what_the_report_says(run):
    done, _ = run
    for runtime, precision in (("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")):
        scores = bc.evaluate(done.folder, runtime=runtime, precision=precision)
        (row,) = [row for row in done.report.last.deployments
                  if (row.runtime, row.precision) == (runtime, precision)]  # fmt: skip
        assert {s.metric: s.value for s in scores} == {s.metric: s.value for s in row.scores}


def test_the_threshold_travels_with_the_model(run):
    done, silent = run
    for folder in ("model", "onnx"):
        config = json.loads((done.folder / folder / "config.json").read_text())
        assert (THRESHOLD in config) == bool(silent)


def own_answers(folder, rows):
    """Answer, first character and end of each question by the model of a run."""
    product = bc.load(folder / "model")
    task = bc.Task.from_dataset(_dataset(rows), text=("question", "context"), label="answers",
                                problem="spans", max_length=24)  # fmt: skip
    data = load_data(task)
    found = {}
    for split in ("train", "selection", "validation"):
        config = product.model.config
        with torch.no_grad():
            answers = predict(TorchPredictor(product.model), data, split, product.tokenizer,
                              config=config)  # fmt: skip
        places = HEAD.decided(HEAD.metrics["f1"], answers).astype(int)
        contexts, questions = (data.split(split)[n][:] for n in ("text_pair", "text"))
        for (start, end), context, question in zip(places.tolist(), contexts, questions,
                                                   strict=True):  # fmt: skip
            found[question, context] = context[start:end] if start >= 0 else ""
    return [found[row["question"], row["context"]] for row in rows]


def _dataset(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


def test_serve_gives_the_same_answers(run):
    done, silent = run
    rows = question_rows(30, seed=9, silent=silent, most=60)
    rows[3]["question"] = "cat dog " * 30  # longer than a window
    code = (
        "import json, sys; sys.path.insert(0, '.'); import serve; "
        "pairs = json.load(sys.stdin); "
        "print(json.dumps([serve.answer(pairs), serve.answer(pairs, batch=4)]))"
    )
    pairs = json.dumps([[row["question"], row["context"]] for row in rows])
    for refused in ("torch", "transformers", "bertcompress"):
        code = f"import sys; sys.modules['{refused}'] = None\n" + code
    # The fp32 file beside it: int8 may answer otherwise.
    source = (done.folder / "onnx" / "serve.py").read_text()
    (done.folder / "onnx" / "serve.py").write_text(
        source.replace('"model_quantized.onnx"', '"model.onnx"')
    )
    told = subprocess.run([sys.executable, "-c", code], input=pairs, capture_output=True,
                          text=True, cwd=done.folder / "onnx", check=True)  # fmt: skip
    alone, together = json.loads(told.stdout)
    wanted = own_answers(done.folder, rows)
    assert [each["answer"] for each in alone] == wanted
    assert [each["answer"] for each in together] == wanted
    for each, row in zip(alone, rows, strict=True):
        assert row["context"][each["start"] : each["end"]] == each["answer"]
    assert ("" in wanted) == bool(silent) and len(set(wanted)) > 2


def test_the_card_answers(run, monkeypatch):
    done, silent = run
    card = (done.folder / "model" / "README.md").read_text()
    assert "pipeline_tag: question-answering" in card
    assert ("chosen on rows that judged nothing" in card) == bool(silent)
    load, plain, stock, served = re.findall(r"```python\n(.*?)```", card, re.S)[-4:]
    monkeypatch.chdir(done.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = "very red house sees"
    change = {"path/to/this/folder": "model", "It was written by her in a year.": words}
    names = {}
    for code in (load, plain, served):
        for old, new in change.items():
            code = code.replace(old, new)
        exec(compile(code, "card", "exec"), names)
    sys.modules.pop("serve")
    assert names["answer"] and names["answer"] in words
    assert names["answers"][0]["answer"] in words
    assert "pipeline(" in stock and ("handle_impossible_answer" in stock) == bool(silent)
    ast.parse(stock)


def test_losses_are_those_of_the_stock_class():
    model = tiny_model("bert", "ForQuestionAnswering")
    ids = torch.randint(5, 25, (4, 12), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    places = torch.tensor([[0, 0], [3, 5], [11, 11], [2, 9]])
    found = model(**batch, start_positions=places[:, 0], end_positions=places[:, 1])
    outputs = torch.stack([found.start_logits, found.end_logits], dim=-1)
    mine = HEAD.loss(outputs, {**batch, "labels": places})
    torch.testing.assert_close(mine, found.loss)
    assert HEAD.losses(outputs, {**batch, "labels": places}).shape == (4,)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_plays_no_part(side):
    generator = torch.Generator().manual_seed(0)
    outputs, teacher = (torch.randn(3, 10, 2, generator=generator) for _ in range(2))
    mask = torch.ones(3, 10, dtype=torch.long)
    answerable = (torch.arange(10) > 4).long().expand(3, -1).clone()
    answerable[:, 0] = 1
    labels = torch.tensor([[5, 6], [0, 0], [9, 9]])
    batch = {"attention_mask": mask, "answerable": answerable, "labels": labels}

    def wider(tensor, value):
        extra = torch.full((3, 4, *tensor.shape[2:]), value, dtype=tensor.dtype)
        return torch.cat([extra, tensor] if side == "left" else [tensor, extra], dim=1)

    wide = {"attention_mask": wider(mask, 0), "answerable": wider(answerable, 0),
            "labels": labels + (4 if side == "left" else 0)}  # fmt: skip
    out, taught = wider(outputs, 50.0), wider(teacher, -7.0)
    torch.testing.assert_close(HEAD.losses(outputs, batch), HEAD.losses(out, wide))
    torch.testing.assert_close(
        HEAD.divergence(outputs, teacher, batch, 2.0), HEAD.divergence(out, taught, wide, 2.0)
    )
    shift = 4 if side == "left" else 0
    assert torch.equal(HEAD.labels_of(outputs, batch) + shift, HEAD.labels_of(out, wide))
    assert HEAD.divergence(outputs, outputs, batch, 2.0) == 0


def test_divergence_is_that_of_what_may_answer():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 7, 2, generator=generator) for _ in range(2))
    mask = torch.tensor([[1, 0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0, 0]])
    expected = []
    for row in range(2):
        kept = mask[row].bool()
        for side in range(2):
            ours, theirs = (each[row, kept, side] / 2.0 for each in (student, teacher))
            ours, theirs = ours.log_softmax(0), theirs.log_softmax(0)
            expected.append(float((theirs.exp() * (theirs - ours)).sum()))
    found = HEAD.divergence(student, teacher, {"answerable": mask}, 2.0)
    assert float(found) == pytest.approx(4 * np.mean(expected), rel=1e-5)


def test_drawn_answers_follow_the_reference():
    outputs = torch.zeros(1, 4, 2)
    reference = torch.tensor([[[9.0, -9.0], [-9, -9], [-9, 9.0], [-9, -9]]])
    batch = {"attention_mask": torch.ones(1, 4), "answerable": torch.tensor([[1, 0, 1, 0]])}
    generator = torch.Generator().manual_seed(0)
    loss = HEAD.drawn_losses(outputs + reference, reference, batch, generator)
    assert float(loss) < 1e-3
    uniform = [float(HEAD.drawn_losses(reference, outputs, batch, generator)) for _ in range(40)]
    assert {round(each) for each in uniform} == {0, 9, 18}  # each of the two that may answer


ANSWERS = np.array([[4, 7, -0.1, -3.0, 0.0], [0, 3, -0.7, -0.2, 0.0], [0, 3, -0.7, -0.2, 1.0]])
REFERENCES = np.empty(3, object)
REFERENCES[:] = [
    {"context": "the cat runs", "answers": ["cat"], "version": 2},
    {"context": "dog sees", "answers": [], "version": 2},
    {"context": "dog sees", "answers": ["dog", "dog sees"], "version": 2},
]


def test_scores_of_answers():
    found = compute(HEAD, list(HEAD.metrics), ANSWERS, REFERENCES)
    assert found == {"f1": 1, "exact_match": 1, "f1_answerable": 1, "f1_unanswerable": 1}
    silent = ANSWERS.copy()
    silent[:, 4] = -10
    found = compute(HEAD, list(HEAD.metrics), silent, REFERENCES)
    assert found["f1"] == pytest.approx(1 / 3) and found["f1_answerable"] == 0


def test_resampling_is_a_mean_of_rows():
    rng = np.random.default_rng(0)
    references = np.empty(30, object)
    references[:] = [{"context": "the cat runs home", "answers": ["cat runs"], "version": 1}] * 30
    starts = rng.integers(0, 8, 30)
    answers = np.column_stack(
        [starts, starts + rng.integers(1, 8, 30), *np.zeros((2, 30)), np.full(30, 1e6)]
    )
    (draws,) = resampled(HEAD, "f1", [answers], references)
    metric = HEAD.metrics["f1"]
    each = HEAD.statistics(metric, answers, references)[:, 0]
    assert draws.mean() == pytest.approx(each.mean(), abs=0.02)
    assert draws.std() == pytest.approx(each.std() / np.sqrt(30), rel=0.15)
    assert paired_difference(HEAD, "exact_match", answers, answers, references)[3] == 1.0


def test_the_threshold_is_chosen_and_kept():
    chosen = HEAD.settings_of(ANSWERS, REFERENCES)
    assert set(chosen) == {THRESHOLD}
    open_ones = REFERENCES[[0, 2]]
    assert HEAD.settings_of(ANSWERS[[0, 2]], open_ones) == {}
    settled = HEAD.settled(ANSWERS, {THRESHOLD: -4.0})
    assert (HEAD.decided(HEAD.metrics["f1"], settled) == -1).all()
    never = ANSWERS.copy()
    never[:, 4] = 1e6
    assert (HEAD.settled(never, {THRESHOLD: -4.0})[:, 4] == 1e6).all()

    class Config:
        null_score_diff_threshold = True

    assert HEAD.settings_in(Config) == {} == HEAD.settings_in(None)


def test_movement_is_nothing_for_the_same_and_grows():
    assert HEAD.movement(ANSWERS, ANSWERS) == pytest.approx(0)
    other = ANSWERS.copy()
    other[:, 0] += 1
    assert HEAD.movement(other, ANSWERS) > 0.1
    assert HEAD.changed(other, ANSWERS).tolist() == [True, False, True]
    outputs = [np.random.default_rng(i).normal(size=(6, 2)) for i in range(3)]
    assert HEAD.output_movement(outputs, outputs) == pytest.approx(0)
    expected = np.mean([
        functional.kl_div(torch.zeros(6, 2).log_softmax(0), torch.tensor(o).log_softmax(0),
                          log_target=True, reduction="sum").item() / 2 for o in outputs
    ])  # fmt: skip
    found = HEAD.output_movement([np.zeros((6, 2))] * 3, outputs)
    assert found == pytest.approx(expected)


def test_nan_is_refused(tmp_path):
    data = load_data(span_task(write_questions(tmp_path)))
    model = tiny_model("bert", "ForQuestionAnswering")
    model.qa_outputs.bias.data[1] = float("nan")
    with pytest.raises(ModelError, match="NaN or infinity for 60 of 60 rows"):
        predict(TorchPredictor(model), data, "validation", tiny_tokenizer())


def test_a_blind_answer_is_chance():
    rows = np.empty(4, object)
    rows[:] = [{"context": "red cat sees", "answers": ["red"], "version": 1}] * 4
    assert HEAD.chance(rows, HEAD.metrics["exact_match"]) == 1.0  # the first word
    rows[:] = [{"context": "red cat sees", "answers": [], "version": 2}] * 4
    assert HEAD.chance(rows, HEAD.metrics["f1"]) == 1.0
    rows[:2] = [{"context": "a dog b cat c", "answers": ["cat"], "version": 2}] * 2
    assert HEAD.chance(rows, HEAD.metrics["exact_match"]) == 0.5


def test_a_stock_trainer_trains_on_it(tmp_path):
    import transformers

    data, tokenizer = load_data(span_task(write_questions(tmp_path))), tiny_tokenizer()
    model = tiny_model("bert", "ForQuestionAnswering")
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"), num_train_epochs=6, per_device_train_batch_size=8,
        learning_rate=5e-3, report_to=[], save_strategy="no", logging_strategy="no",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, data.collator(tokenizer), data.encode(tokenizer, "train")
    )
    trainer.train()
    answers = predict(TorchPredictor(model.eval()), data, "validation", tokenizer)
    references = data.references("validation")
    scores = data.task.metric().compute(predictions=answers, references=list(references))
    assert scores["f1"] == compute(HEAD, ["f1"], answers, references)["f1"]
    assert scores["f1"] > data.task.chance + 0.1


PIPELINE = """
import json, sys
from transformers import pipeline
rows, folder, silent = json.load(sys.stdin)
ask = pipeline("question-answering", model=folder, tokenizer=folder)
how = {"max_seq_len": 24, "doc_stride": 8, "max_answer_len": 30, "align_to_words": False}
print(json.dumps([ask(question=q, context=c, handle_impossible_answer=bool(silent), **how)["answer"]
                  for q, c in rows]))
"""


def pipelines():
    """Pythons whose transformers still has the pipeline: this one, or one that is named."""
    import transformers

    here = hasattr(transformers, "QuestionAnsweringPipeline")
    other = os.environ.get("BERTCOMPRESS_PYTHON_4")
    return sys.executable if here else other


@pytest.mark.skipif(not pipelines(), reason="transformers 5 has no question-answering pipeline")
def test_a_stock_pipeline_gives_the_same_answers(run):
    done, silent = run
    rows = question_rows(30, seed=11, silent=silent, most=80)
    rows += question_rows(30, seed=12, silent=silent, most=10)
    folder = done.folder / "stages" / "01-finetune"
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, THRESHOLD: 0.0}))
    pairs = [[row["question"], row["context"]] for row in rows]
    asked = json.dumps([pairs, str(folder / "model"), silent])
    told = subprocess.run([pipelines(), "-c", PIPELINE], input=asked, capture_output=True,
                          text=True, check=True)  # fmt: skip
    theirs = json.loads(told.stdout.splitlines()[-1])
    assert own_answers(folder, rows) == theirs
    # Where a third of the questions has no answer, the tiny model seldom dares to give one.
    assert len(set(theirs)) > (1 if silent else 4) and ("" in theirs) == bool(silent)
