"""`fit` learns, keeps the best, resumes bit by bit; the callback in a user's script."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import first_fast, tiny_model, tiny_tokenizer
from torch import nn
from torch.utils.data import DataLoader
from training_support import SETTINGS, toy_data, toy_objective, train

from bertcompress import training
from bertcompress.deployment import Trained
from bertcompress.engines.distillation.objectives import Distillation, projection
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import InputError, ModelError, OutputError
from bertcompress.training import LabelLoss, TrainSettings, checkpoints, fit, fit_batches
from bertcompress.training.selection import Selection
from bertcompress.training.steps import LengthGrouped, candidates, choose, decay_groups

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data():
    return toy_data()


def run(model, data, workdir, objective=None, **changes):
    return fit(
        model,
        objective or LabelLoss(),
        data,
        tokenizer=tiny_tokenizer(),
        settings=SETTINGS.model_copy(update=changes),
        workdir=workdir,
        progress=False,
    )


def equal(first, second):
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())


def assert_near(first, second, atol=1e-5):
    for name, tensor in first.items():
        # Adding a constant to all keys changes nothing: there Adam follows rounding errors.
        if "key.bias" not in name:
            torch.testing.assert_close(tensor, second[name], rtol=0, atol=atol, msg=name)


def without_seconds(history):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


def test_learns_and_ends_at_the_best_step(data, tmp_path):
    model = tiny_model(num_labels=2)
    fitted = run(model, data, tmp_path, epochs=8)
    scores = [entry["score"] for entry in fitted.history]
    assert fitted.model is model and not model.training
    assert max(scores) > 0.9 > scores[0]
    first_best = fitted.history[scores.index(max(scores))]
    assert (fitted.best_step, fitted.selection_score) == (first_best["step"], max(scores))
    again = Selection(data, tiny_tokenizer(), LabelLoss(), torch.device("cpu"))
    assert again.score(model) == fitted.selection_score
    assert fitted.samples == 8 * len(data.train)
    assert fitted.seconds > 0
    assert Trained.model_validate_json(fitted.trained.model_dump_json()) == fitted.trained


def test_evaluates_evenly_and_at_the_end(data, tmp_path):
    per_epoch = -(-len(data.train) // 8)
    fitted = run(tiny_model(num_labels=2), data, tmp_path, max_steps=per_epoch + 3)
    steps = [entry["step"] for entry in fitted.history]
    assert steps == [-(-per_epoch // 2), per_epoch, per_epoch + 3] == sorted(set(steps))


def test_stops_when_the_score_no_longer_rises(data, tmp_path):
    fitted = run(tiny_model(num_labels=2), data, tmp_path, learning_rate=1e-12, patience=3)
    assert len(fitted.history) == 4  # none is better than the first one
    assert fitted.best_step == fitted.history[3]["step"]  # as good, at a lower rate
    assert fitted.steps == fitted.history[3]["step"]


def test_same_seed_same_weights(data, tmp_path):
    models = [tiny_model(num_labels=2) for _ in range(2)]
    for i, model in enumerate(models):
        torch.manual_seed(i)  # what was drawn before must not matter
        run(model, data, tmp_path / str(i), epochs=1)
    assert equal(*models)


KILLED = """
import os, pathlib, sys
import training_support
for step in map(int, sys.argv[1:]):  # forked: the imports are the slow part
    child = os.fork()
    if child == 0:
        training_support.train(pathlib.Path(f"killed-{step}"), step)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9
"""


def script_environment():
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths}


@pytest.mark.slow
def test_killed_training_ends_like_an_undisturbed_one(tmp_path):
    """Killed at the end of an epoch, and in the middle of one between two evaluations."""
    whole, objective = train(tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "7", "12"],
        cwd=tmp_path,
        env=script_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == 0, killed.stderr
    for step, last in ((7, 5), (12, 11)):
        left = checkpoints.latest(tmp_path / f"killed-{step}")
        assert left is not None and checkpoints.step_of(left) == last
        resumed, resumed_objective = train(tmp_path / f"killed-{step}")
        assert equal(whole.model, resumed.model)
        assert equal(objective.project, resumed_objective.project)
        assert without_seconds(whole.history) == without_seconds(resumed.history)
        for name in ("steps", "samples", "best_step", "selection_score"):
            assert getattr(whole, name) == getattr(resumed, name)


def test_finished_training_is_not_repeated(data, tmp_path):
    first = run(tiny_model(num_labels=2), data, tmp_path)
    second = run(tiny_model(num_labels=2), data, tmp_path)
    assert equal(first.model, second.model)
    assert (first.history, first.steps) == (second.history, second.steps)
    assert second.seconds <= first.seconds


def test_keeps_the_last_and_the_best_checkpoint_only(data, tmp_path):
    fitted = run(tiny_model(num_labels=2), data, tmp_path, checkpoint_steps=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted({f"checkpoint-{s}" for s in (fitted.steps, fitted.best_step)})
    training.clear(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"batch_size": 4}])
def test_refuses_the_checkpoints_of_another_training(data, tmp_path, change):
    run(tiny_model(num_labels=2), data, tmp_path, max_steps=2)
    with pytest.raises(OutputError, match="another training"):
        run(tiny_model(num_labels=2), data, tmp_path, max_steps=2, **change)


def test_a_checkpoint_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    state = training.trainer.TrainerState()
    with pytest.raises(OutputError, match="cannot write"):
        checkpoints.write(tmp_path / "file", 1, nn.Linear(2, 2), {}, state, keep=())


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    (tmp_path / ".checkpoint-7.partial").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert checkpoints.latest(tmp_path) is None


def test_random_state_comes_back():
    state = checkpoints.random_state()
    drawn = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    checkpoints.restore_random_state(state)
    again = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    assert torch.equal(drawn[0], again[0]) and (drawn[1] == again[1]).all()


class Pair(nn.Module):
    """A composite of two models that share a layer; the second one answers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = tiny_model(num_labels=2), tiny_model(num_labels=2, seed=1)
        self.second.bert.encoder.layer[0] = self.first.bert.encoder.layer[0]
        self.seen = set()

    def forward(self, input_ids, attention_mask):
        return self.second(input_ids=input_ids, attention_mask=attention_mask).logits


def test_takes_any_module_with_shared_tensors(data, tmp_path):
    pair = Pair()
    before = copy.deepcopy(pair)
    run(pair, data, tmp_path, epochs=1)
    assert pair.second.bert.encoder.layer[0] is pair.first.bert.encoder.layer[0]
    assert not equal(pair.second.bert, before.second.bert)
    assert equal(pair.first.bert.pooler, before.first.bert.pooler)


def batches(size, rows=32):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 20, (rows, 6), generator=generator)
    examples = [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 2} for i in ids
    ]
    return DataLoader(examples, batch_size=size)


def hidden_objective():
    teacher = LiveTeacher(quiet(hidden_size=24, seed=7))
    return Distillation(teacher, project=projection(16, 24))


def quiet(**fields):
    return tiny_model(
        num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **fields
    )


def test_equals_a_loop_written_by_hand():
    objectives = [hidden_objective() for _ in range(2)]
    settings = TrainSettings(epochs=2, precision="fp32", learning_rate=1e-3, warmup=0)
    ours, bare = quiet(), quiet()
    fit_batches(ours, objectives[0], batches(8), settings=settings, progress=False)
    groups = [*decay_groups(bare, 0.01), *objectives[1].parameter_groups()]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    bare.train()
    for step, batch in enumerate([*batches(8), *batches(8)]):
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        outputs = bare(**inputs, output_hidden_states=True)
        objectives[1](bare, batch, outputs, step).backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (8 - step) / 8
        optimizer.step()
        optimizer.zero_grad()
    assert equal(ours, bare)
    assert equal(objectives[0].project, objectives[1].project)


def test_accumulated_batches_equal_one_large_batch():
    whole, parts = quiet(), quiet()
    settings = TrainSettings(epochs=2, precision="fp32", learning_rate=1e-3)
    fit_batches(whole, LabelLoss(), batches(16), settings=settings, progress=False)
    settings = settings.model_copy(update={"gradient_accumulation": 4})
    fitted = fit_batches(parts, LabelLoss(), batches(4), settings=settings, progress=False)
    assert (fitted.steps, fitted.samples) == (4, 64)
    assert_near(parts.state_dict(), whole.state_dict())


def test_gradient_checkpointing_changes_nothing_but_memory():
    plain, frugal = quiet(), quiet()
    settings = TrainSettings(epochs=1, precision="fp32")
    fit_batches(plain, LabelLoss(), batches(16), settings=settings, progress=False)
    calls = []
    hook = frugal.bert.encoder.layer[0].output.dense.register_forward_hook(
        lambda *_: calls.append(1)
    )
    settings = settings.model_copy(update={"gradient_checkpointing": True})
    fit_batches(frugal, LabelLoss(), batches(16), settings=settings, progress=False)
    hook.remove()
    assert len(calls) == 4  # two batches, each computed twice
    assert equal(plain, frugal)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in frugal.modules())
    with pytest.raises(ModelError, match="gradient_checkpointing"):
        fit_batches(nn.Linear(2, 2), LabelLoss(), batches(4), settings=settings, progress=False)


def test_leaves_the_model_as_it_found_it(data, tmp_path):
    model = tiny_model(num_labels=2)
    config, attributes = model.config.to_dict(), set(vars(model))
    run(model, data, tmp_path, max_steps=2)
    assert model.config.to_dict() == config
    assert set(vars(model)) == attributes
    assert not any(module._forward_hooks for module in model.modules())


def test_biases_and_norms_do_not_decay():
    model = tiny_model()
    decayed, spared = decay_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("LayerNorm" in names[id(p)] or "bias" in names[id(p)] for p in spared["params"])
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_order_is_a_pure_function_that_groups_lengths():
    lengths = np.random.default_rng(0).integers(3, 60, 1003)
    sampler = LengthGrouped(lengths, 16, seed=4)
    first, again = list(sampler), list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert first == again != second
    assert sorted(first) == sorted(second) == list(range(1003))

    def padded(order):
        chunks = [lengths[order[i : i + 16]] for i in range(0, 1003, 16)]
        return sum(len(chunk) * chunk.max() for chunk in chunks) / lengths.sum()

    assert padded(first) < 1.06 < 1.5 < padded(list(range(1003)))
    means = [lengths[first[i : i + 16]].mean() for i in range(0, 992, 16)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5  # not from short to long


def test_timing_leaves_no_trace(data):
    objective = toy_objective(data, teacher_width=24)
    model = tiny_model(num_labels=2)
    some = list(batches(8))[:2]
    before, state = copy.deepcopy(model), torch.get_rng_state()
    seconds = training.time_precisions(model, objective, some, torch.device("cpu"))
    assert set(seconds) == (set(candidates(torch.device("cpu"))) if seconds else set())
    assert all(value > 0 for value in seconds.values())
    assert torch.equal(state, torch.get_rng_state())
    assert equal(model, before)
    assert all(p.grad is None for p in model.parameters())


def test_bf16_must_be_clearly_faster():
    assert choose({"fp32": 1.0, "bf16": 0.5}) == "bf16"
    assert choose({"fp32": 1.0, "bf16": 0.97}) == "fp32"
    assert choose({"fp32": 1.0, "bf16": 3.0}) == "fp32"
    assert choose({}) == "fp32"


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_precision_is_resolved_and_weights_stay_fp32(data, tmp_path, precision):
    model = tiny_model(num_labels=2)
    fitted = run(model, data, tmp_path, precision=precision, max_steps=3)
    assert fitted.settings.precision in ("fp32", "bf16")
    assert precision == "auto" or fitted.settings.precision == precision
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert bool(fitted.step_seconds) == (
        precision == "auto" and len(candidates(torch.device("cpu"))) == 2
    )


@pytest.mark.parametrize("kind", first_fast(["regression", "multi_label", "unlabelled"]))
def test_every_kind_of_label(tmp_path, kind):
    data = toy_data(kind)
    width = 1 if kind == "regression" else 2
    teacher = LiveTeacher(tiny_model(num_labels=width, seed=5), tiny_tokenizer(), data)
    unlabelled = kind == "unlabelled"
    objective = Distillation(teacher) if unlabelled else LabelLoss()
    fitted = run(tiny_model(num_labels=width), data, tmp_path, objective, epochs=8)
    scores = [entry["score"] for entry in fitted.history]
    losses = [entry["loss"] for entry in fitted.history]
    assert losses[-1] < losses[0]
    assert max(scores) > (scores[0] if unlabelled else 0.8)


class WantsAttentions(LabelLoss):
    needs = frozenset({"attentions"})
    shapes: tuple = ()

    def __call__(self, model, batch, outputs, step):
        self.shapes = tuple(tuple(a.shape) for a in outputs["attentions"])
        return super().__call__(model, batch, outputs, step)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_attentions_are_there_for_an_objective_that_needs_them():
    model, objective = quiet(), WantsAttentions()
    before = model.config._attn_implementation
    settings = TrainSettings(max_steps=1, precision="fp32")
    fit_batches(model, objective, batches(8), settings=settings, progress=False)
    assert objective.shapes == ((8, 4, 6, 6),) * 3
    assert model.config._attn_implementation == before


def test_bar_shows_time_left_or_nothing_at_all(capfd):
    settings = TrainSettings(epochs=1, precision="fp32")
    fit_batches(quiet(), LabelLoss(), batches(8), settings=settings, progress=False)
    silent = capfd.readouterr()
    assert silent.out == silent.err == ""
    fit_batches(quiet(), LabelLoss(), batches(8), settings=settings, progress=True)
    shown = capfd.readouterr()
    assert shown.out == "" and "4/4" in shown.err and "{" not in shown.err


def test_tensorboard_only_on_request(data, tmp_path):
    pytest.importorskip("tensorboard")
    logs = tmp_path / "logs"
    run(tiny_model(num_labels=2), data, tmp_path / "w", max_steps=2, tensorboard=str(logs))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs)).Reload()
    assert any("selection" in tag for tag in events.Tags()["scalars"])


SCRIPT = """
from transformers import Trainer, TrainingArguments

def main(model, teacher, rows, folder):
    arguments = TrainingArguments(
        folder,
        num_train_epochs=40,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    return trainer
"""
CHANGES = {
    "from transformers import Trainer, TrainingArguments": (
        "from bertcompress.engines.distillation.objectives import Distillation\n"
        "from bertcompress.engines.distillation.teachers import LiveTeacher\n"
        "from bertcompress.training import ObjectiveCallback\n"
        "from transformers import Trainer, TrainingArguments"
    ),
    "    trainer = Trainer(": (
        "    hook = ObjectiveCallback(Distillation(LiveTeacher(teacher)))\n    trainer = Trainer("
    ),
    "        model=model,": (
        "        model=model, callbacks=[hook], compute_loss_func=hook.compute_loss_func,"
    ),
}


@torch.no_grad()
def distance(model, teacher, rows):
    batch = {k: torch.stack([row[k] for row in rows]) for k in ("input_ids", "attention_mask")}
    mine, theirs = model.eval()(**batch).logits, teacher(**batch).logits
    return float((mine - theirs).abs().mean())


def test_five_lines_put_an_objective_into_a_script(tmp_path, capsys):
    changed = SCRIPT
    for old, new in CHANGES.items():
        assert changed.count(old) == 1
        changed = changed.replace(old, new)
    before, after = SCRIPT.splitlines(), changed.splitlines()
    assert len([line for line in after if line not in before]) <= 5
    teacher, rows = quiet(seed=7), batches(8).dataset
    distances = {}
    for name, text in (("plain", SCRIPT), ("distilled", changed)):
        space = {}
        exec(compile(text, name, "exec"), space)
        model = quiet()
        trainer = space["main"](model, teacher, rows, str(tmp_path / name))
        distances[name] = distance(model, teacher, rows)
        evaluation = trainer.evaluate()
        assert np.isfinite(evaluation["eval_loss"])
        assert np.shape(trainer.predict(rows).predictions) == (32, 2)  # no hidden states in it
        assert not model._forward_pre_hooks
    assert distances["distilled"] < 0.5 * distances["plain"]


def test_callback_trains_like_fit(tmp_path):
    """The same steps through a stock Trainer: same accumulation, same projection updates."""
    from transformers import Trainer, TrainingArguments

    settings = TrainSettings(
        epochs=2,
        precision="fp32",
        learning_rate=5e-5,
        gradient_accumulation=2,
        weight_decay=0,
        warmup=0,
    )
    ours, own = quiet(), hidden_objective()
    fit_batches(ours, own, batches(8), settings=settings, progress=False)
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=settings.learning_rate,
        optim="adamw_torch_fused",
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    theirs, hooked = quiet(), hidden_objective()
    hook = training.ObjectiveCallback(hooked)
    trainer = Trainer(
        theirs,
        arguments,
        train_dataset=batches(8).dataset,
        callbacks=[hook],
        compute_loss_func=hook.compute_loss_func,
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(range(32))
    trainer.train()
    assert_near(theirs.state_dict(), ours.state_dict())
    torch.testing.assert_close(own.project.weight, hooked.project.weight, rtol=0, atol=2e-6)
    assert not torch.equal(own.project.weight, hidden_objective().project.weight)


DISTRIBUTED = """
import sys, pathlib, torch
import training_support as t
from tests_support import tiny_model, tiny_tokenizer
from bertcompress.training import fit
torch.manual_seed(0)
data = t.toy_data(rows=160)  # whole batches
model = tiny_model(num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
objective = t.toy_objective(data, teacher_width=24)
def flat():
    parameters = [*model.parameters(), *objective.project.parameters()]
    return torch.cat([p.detach().flatten() for p in parameters])
before = flat()
for stage in ("one", "two"):  # a second training in the same processes
    fitted = fit(model, objective, data, tokenizer=tiny_tokenizer(), progress=False, seed=1,
                 settings=t.SETTINGS.model_copy(update={"max_steps": 10, "optimizer": sys.argv[2],
                                                        "gradient_accumulation": 2}),
                 workdir=pathlib.Path(sys.argv[1]) / stage)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
torch.save({"moved": flat() - before, "score": fitted.selection_score, "steps": fitted.steps},
           pathlib.Path(sys.argv[1]) / f"rank-{rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sam"])
def test_two_processes_give_the_result_of_one(optimizer, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DISTRIBUTED)
    results = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        # `--cpu` would need mpirun; this launcher is torchrun, and the device makes it gloo.
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
        launch += ["--num_processes", str(processes), *["--multi_gpu"] * (processes > 1)]
        launch += ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
        done = subprocess.run(
            [*launch, str(script), str(out), optimizer],
            env=script_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results[processes] = [
            torch.load(path, weights_only=True) for path in sorted(out.glob("rank-*.pt"))
        ]
    (alone,), (first, second) = results[1], results[2]
    assert torch.equal(first["moved"], second["moved"])
    # Not bit by bit: sums in another order, which Adam enlarges where gradients are tiny.
    assert (first["moved"] - alone["moved"]).norm() < 0.05 * alone["moved"].norm()
    assert first["steps"] == alone["steps"] and first["score"] == alone["score"]


def test_rows_must_split_over_the_processes(monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 3)
    with pytest.raises(InputError, match="batch_size: 16 rows cannot be split over 3"):
        fit_batches(quiet(), LabelLoss(), batches(8), settings=TrainSettings(), progress=False)
