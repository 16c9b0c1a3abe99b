"""The schedule of a training whose length is not known: it holds the rate, falls, and says why."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests_support import tiny_model, tiny_tokenizer
from training_support import SETTINGS, toy_data, train
from transformers import BertModel

from bertcompress.deployment import Trained
from bertcompress.training import LabelLoss, TrainSettings, checkpoints, fit, fit_batches
from bertcompress.training.optimizers import make_optimizer
from bertcompress.training.progress import Progress
from bertcompress.training.rates import head_rate, learning_rate
from bertcompress.training.schedule import Ended, Horizon, rate_factor, stalled
from bertcompress.training.selection import Judged, Selection
from bertcompress.training.targets import TargetScale, standardised_head

OPEN = SETTINGS.model_copy(update={"epochs": None, "evaluations_per_epoch": None})


@pytest.fixture(scope="module")
def data():
    return toy_data()


def open_ended(data, workdir, model=None, **changes):
    return fit(
        model or tiny_model(num_labels=2),
        LabelLoss(),
        data,
        tokenizer=tiny_tokenizer(),
        settings=OPEN.model_copy(update=changes),
        workdir=workdir,
        progress=False,
    )


@pytest.fixture(scope="module")
def to_the_end(data, tmp_path_factory):
    """What came of it, its folder, and each checkpoint's weights and progress by its step."""
    folder, written, real = tmp_path_factory.mktemp("open"), {}, checkpoints.write

    def write(workdir, step, model, state, *rest, **more):
        weights = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        written[step] = weights, Progress(**state["progress"])
        return real(workdir, step, model, state, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write", write)
        return open_ended(data, folder, max_epochs=60), folder, written


def test_trains_until_the_score_stalls_and_says_so(to_the_end):
    fitted, *_ = to_the_end
    assert fitted.ended == Ended("stalled", False, "", None)
    assert fitted.selection_score > 0.9
    assert fitted.steps < 60 * 14 / 2
    assert fitted.trained.ended == {
        "reason": "stalled",
        "improving": False,
        "setting": "",
        "value": None,
        "learned": True,
    }


def assert_ends_at_rate_zero(fitted, folder):
    state = torch.load(folder / f"checkpoint-{fitted.steps}" / "state.pt", weights_only=True)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.0
    progress = state["progress"]
    assert fitted.steps - progress["decay_from"] == progress["decay_steps"]
    assert progress["decay_steps"] > 0


def test_the_rate_is_zero_where_a_training_ends(to_the_end):
    assert_ends_at_rate_zero(*to_the_end[:2])


def test_the_rate_falls_from_the_last_gain_and_not_from_what_came_after(to_the_end):
    _, _, written = to_the_end
    held = max(step for step, (_, progress) in written.items() if not progress.decay_from)
    stalled_at = min(step for step, (_, progress) in written.items() if progress.decay_from)
    gain = written[held][1].gain_step
    assert gain < held < stalled_at
    assert torch.equal(written[stalled_at][0], written[gain][0])
    assert not torch.equal(written[held][0], written[gain][0])
    progress, share = written[stalled_at][1], OPEN.cooldown / (1 - OPEN.cooldown)
    assert progress.decay_steps == max(math.ceil(gain * share), progress.interval)


def test_a_lucky_evaluation_is_no_gain():
    progress = Progress()
    for step, score in enumerate([0.50, 0.51, 0.52, 0.53], start=1):
        progress.judge(Judged(score, 1.0, error=0.04), step)
        progress.history.append({"step": step, "score": score})
    assert (progress.gain_step, progress.best_step) == (4, 4)
    progress.judge(Judged(0.549, 1.0, error=0.04), 5)  # better, but by less than half its error
    assert (progress.gain_step, progress.best_step) == (4, 5)


def test_what_has_only_begun_is_not_taken_back():
    """A lucky evaluation at 338 of 507 steps an epoch would halve the training."""
    progress = Progress()
    planned = Horizon.of(TrainSettings(), 507, 30 * 507)
    for step, score in ((169, 0.46), (338, 0.62), (507, 0.599), (676, 0.612), (1_183, 0.61)):
        begins = planned.begins_at(step)
        progress.judge(Judged(score, 1.0, error=0.016), step, begins=begins)
        progress.history.append({"step": step, "score": score})
    assert (progress.gain_step, progress.return_step) == (338, 676)
    progress.judge(Judged(0.64, 1.0, error=0.016), 1_352)
    assert (progress.gain_step, progress.return_step) == (1_352, 1_352)
    assert [Horizon.of(TrainSettings(), epoch, 9_999).begins_at(1_000) for epoch in (400, 500)] == [
        False,
        True,
    ]
    assert not Horizon.of(TrainSettings(), 5_000, 99_999).begins_at(1_001)
    nothing = Progress()
    nothing.judge(Judged(math.nan, math.nan), 1, begins=True)
    assert nothing.return_step == 0


def test_a_slow_rise_is_no_stall(data, tmp_path, monkeypatch):
    scores = iter([0.5 + 0.001 * n for n in range(6)] + [0.4] * 50)
    monkeypatch.setattr(Selection, "judge", lambda *_: Judged(next(scores), 1.0, error=0.1))
    fitted = open_ended(data, tmp_path, max_epochs=200, patience=2)
    falling = [row["step"] for row in fitted.history][6]  # the first that is not the best so far
    assert fitted.ended.reason == "stalled"
    assert fitted.steps == falling + max(fitted.evaluation_steps, 1)


def test_a_score_that_is_never_a_number_is_let_fall_from_where_it_is(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Selection, "judge", lambda *_: Judged(math.nan, math.nan))
    fitted = open_ended(data, tmp_path, max_epochs=30, patience=1, warmup=0.0)
    assert fitted.ended.reason == "stalled"


def test_a_cap_that_is_reached_is_named(data, tmp_path):
    fitted = open_ended(data, tmp_path, max_epochs=6)
    per_epoch = -(-len(data.train) // 8)
    assert fitted.steps == 6 * per_epoch
    ended = fitted.ended
    assert (ended.reason, ended.setting, ended.value) == ("max_epochs", "max_epochs", 6)
    assert_ends_at_rate_zero(fitted, tmp_path)


def test_minutes_are_a_cap_too(data, tmp_path):
    fitted = open_ended(data, tmp_path, max_epochs=1_000, max_minutes=0.02, patience=1_000)
    assert fitted.ended.reason == "max_minutes" and fitted.ended.value == 0.02
    assert fitted.steps < 1_000 * 14


def test_a_loader_without_a_selection_split_gets_three_epochs():
    rows = [{"input_ids": torch.tensor([5, 6]), "labels": torch.tensor(i % 2)} for i in range(8)]
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    fitted = fit_batches(
        tiny_model(num_labels=2),
        LabelLoss(),
        loader,
        settings=TrainSettings(precision="fp32"),
        progress=False,
    )
    assert (fitted.steps, fitted.ended.reason) == (6, "fixed")


@pytest.mark.slow
def test_killed_and_resumed_open_ended_training_is_the_same(tmp_path):
    """Killed while the rate falls: what is left of the fall is part of the checkpoint."""
    import os

    changes = {"epochs": None, "max_epochs": 8, "patience": 2, "evaluations_per_epoch": 1}
    whole, _ = train(tmp_path / "whole", **changes)
    child = os.fork()
    if child == 0:
        train(tmp_path / "killed", kill_after=whole.steps - 3, **changes)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9
    resumed, _ = train(tmp_path / "killed", **changes)
    theirs = resumed.model.state_dict()
    assert all(torch.equal(v, theirs[n]) for n, v in whole.model.state_dict().items())
    assert (whole.steps, whole.ended) == (resumed.steps, resumed.ended)


def horizon(**changes):
    fields = {"epoch": 100, "most": 1_000, "warmup": 10, "times": 1, "apart": 1, "fixed": False}
    return Horizon(**{**fields, **changes})


def test_the_rate_rises_holds_and_falls():
    held = [rate_factor(horizon(), step, 0, 0) for step in (0, 5, 10, 500, 999)]
    assert held == [0, 0.5, 1, 1, 1]
    falling = [rate_factor(horizon(), step, 400, 100) for step in (400, 425, 475, 500, 600)]
    assert falling == [1, 0.75, 0.25, 0, 0]
    fixed = [rate_factor(horizon(fixed=True), step, 0, 0) for step in (5, 10, 505, 1_000)]
    assert fixed == [0.5, 1, 0.5, 0]


def test_fixed_steps_are_the_linear_schedule_of_transformers():
    from transformers import get_linear_schedule_with_warmup

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 10, 1_000)
    lambda_of = theirs.lr_lambdas[0]
    for step in range(0, 1_001, 7):
        assert rate_factor(horizon(fixed=True), step, 0, 0) == pytest.approx(lambda_of(step))


def test_a_stall_is_so_many_evaluations_or_a_quarter_of_the_way():
    assert not stalled(horizon(), 599, 300, patience=3)
    assert stalled(horizon(), 600, 300, patience=3)
    assert not stalled(horizon(most=9_000), 4_900, 4_000, patience=3)
    assert stalled(horizon(most=9_000), 5_000, 4_000, patience=3)
    assert not stalled(horizon(warmup=500), 400, 0, patience=3)


def test_waiting_begins_with_the_second_evaluation_at_the_earliest():
    for gain in (0, 100, 200):
        assert not stalled(horizon(), 399, gain, patience=2)
        assert stalled(horizon(), 400, gain, patience=2)


def judged(progress, scores_and_losses):
    for step, (score, loss) in enumerate(scores_and_losses, start=1):
        progress.judge(Judged(score, loss), step)
        progress.history.append({"step": step, "score": score})
    return progress.gain_step, progress.best_step


def test_a_falling_loss_is_a_gain_while_the_score_has_not_moved():
    nan = float("nan")
    assert judged(Progress(), [(0.1, 3.0), (0.1, 2.5), (0.0, 2.4), (0.1, 2.6)]) == (3, 1)
    assert judged(Progress(), [(0.1, 3.0), (0.2, 2.5), (0.1, 2.4)]) == (2, 2)
    assert judged(Progress(), [(1.0, 3.0), (1.0, 2.5)]) == (1, 1)  # nothing is left to gain
    assert judged(Progress(), [(0.1, 3.0), (nan, nan), (0.2, 4.0)]) == (3, 3)


def test_of_equal_scores_the_one_with_the_lower_rate_is_kept():
    progress = Progress()
    progress.judge(Judged(0.8, 1.0), 1)
    progress.judge(Judged(0.8, 1.0), 2)
    assert progress.best_step == 1
    progress.judge(Judged(0.8, 1.0), 3, falls=True)
    assert progress.best_step == 3


@pytest.mark.parametrize(
    ("epoch", "fixed", "expected"),
    [(14, False, [56, 112]), (14, True, [14, 28]), (2_100, False, [525, 1_050])],
)
def test_evaluations_are_neither_too_rare_nor_too_many(epoch, fixed, expected):
    settings = TrainSettings(epochs=50 if fixed else None)
    planned = Horizon.of(settings, epoch, 50 * epoch)
    steps = [step for step in range(1, 50 * epoch) if planned.evaluates_at(step, 50 * epoch)]
    assert steps[:2] == expected


@pytest.mark.parametrize("changes", [{"epochs": 1}, {"max_steps": 40}, {"max_epochs": 2}])
def test_any_training_has_four_evaluations(changes):
    settings = TrainSettings(**changes)
    most = settings.steps(14)
    planned = Horizon.of(settings, 14, most)
    assert sum(planned.evaluates_at(step, most) for step in range(1, most + 1)) >= 4


@pytest.mark.slow
def test_a_control_is_judged_as_often_as_its_method(data, tmp_path):
    """Else the best of more evaluations wins, by luck."""
    changes = {"max_epochs": 16, "patience": 2}
    method = open_ended(data, tmp_path / "method", **changes)
    assert method.trained.evaluation_steps == 56  # four epochs of 14 steps
    alike = OPEN.model_copy(update={**changes, **OPEN.equal_steps(method.trained)})
    control = fit(
        tiny_model(num_labels=2),
        LabelLoss(),
        data,
        tokenizer=tiny_tokenizer(),
        settings=alike,
        workdir=tmp_path / "control",
        progress=False,
    )
    assert control.steps == method.steps
    assert len(control.history) == len(method.history)


def test_minutes_bound_the_fall_too(data, tmp_path, monkeypatch):
    """In the first epoch of a long one the fall would last another epoch."""
    clock = iter(i * 0.6 for i in range(10_000))
    monkeypatch.setattr("bertcompress.training.trainer.FitTrainer._minutes", lambda _: next(clock))
    fitted = open_ended(data, tmp_path, max_epochs=1_000, max_minutes=10.0, patience=1_000)
    assert fitted.ended.reason == "max_minutes"
    assert 10 / 0.6 - 2 <= fitted.steps <= 10 / 0.6 + 2


def test_a_fixed_training_chooses_its_step_as_an_open_one_does(data, tmp_path, monkeypatch):
    """Else a control of equal steps wins by the luck of its best evaluation."""
    for name, kept, more in (
        ("linear", 4, {}),
        ("cosine", 4, {"schedule": "cosine"}),
        ("constant", 2, {"schedule": "constant"}),
    ):
        scores = iter([0.80, 0.90, 0.87, 0.88])
        judged = lambda *_, scores=scores: Judged(next(scores), 1.0, error=0.04)  # noqa: E731
        monkeypatch.setattr(Selection, "judge", judged)
        changes = {"epochs": 4, "evaluations_per_epoch": 1, **more}
        fitted = open_ended(data, tmp_path / name, **changes)
        assert fitted.best_step == kept * 14
        assert fitted.selection_score == (0.88 if kept == 4 else 0.90)


def test_evaluations_without_a_better_one_end_a_fixed_training_as_before():
    progress = Progress()
    for step, score in ((1, 0.80), (2, 0.79), (3, 0.79)):
        progress.judge(Judged(score, 1.0, error=0.04), step, falls=True)
    assert (progress.best_step, progress.stale) == (3, 2)


def test_a_training_of_one_step_is_one():
    alone = Horizon.of(TrainSettings(max_steps=1), epoch=14, most=1)
    assert rate_factor(alone, 0, 0, 0) == 1
    two = Horizon.of(TrainSettings(max_steps=2, warmup=1.0), epoch=14, most=2)
    assert [rate_factor(two, step, 0, 0) for step in (0, 1)] == [0, 1]


def test_minutes_that_are_enough_change_nothing(data, tmp_path, monkeypatch):
    def trained(name, **changes):
        clock = iter(i * 0.6 for i in range(10_000))
        minutes = "bertcompress.training.trainer.FitTrainer._minutes"
        monkeypatch.setattr(minutes, lambda _: next(clock))
        return open_ended(data, tmp_path / name, max_steps=14, **changes)

    free, bounded = trained("free"), trained("bounded", max_minutes=12.0)
    assert torch.equal(weights(free), weights(bounded))
    assert bounded.ended.reason == "fixed"
    cut = trained("cut", max_minutes=6.0)
    assert (cut.ended.reason, cut.steps < 14) == ("max_minutes", True)


def test_minutes_of_an_attempt_that_collapsed_do_not_slow_the_next(data, tmp_path, monkeypatch):
    spent = Progress(seconds=330.0).again(1e-4)
    assert (spent.seconds, spent.collapsed_seconds) == (330.0, 330.0)
    clock = iter(5.5 + i * 0.1 for i in range(10_000))
    monkeypatch.setattr("bertcompress.training.trainer.FitTrainer._minutes", lambda _: next(clock))
    monkeypatch.setattr("bertcompress.training.fitting.Progress", lambda: spent)
    fitted = open_ended(data, tmp_path, max_epochs=1_000, max_minutes=10.0, patience=1_000)
    assert fitted.steps > 30  # of the 45 that the rest of the minutes allows


@pytest.mark.parametrize(
    ("epoch", "times"), [(169, 1), (250, 1), (324, 2), (507, 3), (1_000, 4), (4_000, 4), (4_209, 5)]
)
def test_long_epochs_are_judged_more_often(epoch, times):
    found = Horizon.of(TrainSettings(), epoch, 30 * epoch)
    assert found.times == times
    fixed = Horizon.of(TrainSettings(epochs=4), epoch, 4 * epoch)
    assert fixed.times == -(-epoch // 1_000)


def test_a_loss_still_falls_where_it_falls_by_its_own_measure():
    def end(losses):
        history = [
            {"step": i + 1, "score": -loss, "selection_loss": loss} for i, loss in enumerate(losses)
        ]
        return Ended.of(TrainSettings(epochs=4), "fixed", history, 1_000).improving

    assert end([12.0, 9.0, 7.0, 5.0])
    assert not end([12.0, 5.0, 4.0, 3.9])


def test_a_training_that_still_rises_at_its_end_is_seen():
    def end(scores, rows=400, **settings):
        history = [{"step": i + 1, "score": score} for i, score in enumerate(scores)]
        return Ended.of(TrainSettings(**settings), "fixed", history, rows)

    rising = end([0.3, 0.4, 0.5, 0.6], epochs=4)
    assert (rising.improving, rising.setting, rising.value) == (True, "epochs", 4)
    assert not end([0.3, 0.6, 0.61, 0.62], epochs=4).improving  # within the error of 400 rows
    assert end([0.3, 0.6, 0.61, 0.62], rows=40_000, max_steps=9).setting == "max_steps"
    assert not end([0.9], epochs=1).improving
    assert not end([0.3, 0.9, 0.8, 0.7], epochs=4).improving


def test_a_limit_that_ends_a_training_before_two_evaluations_is_no_end():
    def end(count, reason="max_minutes", rows=400):
        history = [{"step": i + 1, "score": 0.5} for i in range(count)]
        return Ended.of(TrainSettings(max_minutes=2), reason, history, rows)

    assert (end(1).compared, end(1).setting, end(1).facts["compared"]) == (
        False, "max_minutes", False,
    )  # fmt: skip
    assert end(2).compared and "compared" not in end(2).facts
    assert end(1, "stalled").compared and end(0, rows=0).compared
    assert Ended.of(TrainSettings(epochs=1), "fixed", [{"step": 1, "score": 0.9}], 9).compared


def test_the_rate_fits_the_width():
    auto = TrainSettings()
    rates = [
        learning_rate(auto, tiny_model(hidden_size=width, num_attention_heads=4))
        for width in (1_024, 768, 384, 16)
    ]
    assert rates == [3.8e-5, 5e-5, 1e-4, 5e-4]
    assert learning_rate(auto, torch.nn.Linear(2, 2)) == 5e-5
    assert learning_rate(TrainSettings(learning_rate=3e-3), tiny_model()) == 3e-3


def test_a_new_head_learns_faster_than_a_trained_one():
    auto, new = TrainSettings(), tiny_model()
    trained, bare = tiny_model(), BertModel(tiny_model().config)
    torch.nn.init.constant_(trained.classifier.bias, 1e-3)
    assert [head_rate(auto, model) for model in (new, trained, bare)] == [5, 1, 1]
    assert head_rate(TrainSettings(learning_rate=1e-4), new) == 1
    assert head_rate(TrainSettings(learning_rate=1e-4, head_rate=3), trained) == 3
    assert head_rate(auto, torch.nn.Linear(2, 2)) == 1


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "albert"])
def test_pooler_and_head_are_what_learns_faster(family):
    model = tiny_model(family=family)
    optimizer = make_optimizer(TrainSettings(), model, LabelLoss())
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    above = ("classifier", "pre_classifier", "pooler")
    for name, parameter in model.named_parameters():
        part = next((part for part in name.split(".") if part in above), None)
        assert rates[id(parameter)] == (2.5e-3 if part else 5e-4), name
    assert len(rates) == len(list(model.parameters()))


def test_a_new_head_of_a_regression_is_seen_in_the_targets_units():
    model = tiny_model(num_labels=1)
    with torch.no_grad():
        model.classifier.bias.fill_(2.7)  # as `to_target_units` leaves it
    assert head_rate(TrainSettings(), model) == 1
    with standardised_head(model, TargetScale(2.7, 1.3)):
        assert head_rate(TrainSettings(), model) == 5


def test_what_was_decided_is_stored(data, tmp_path):
    trained = open_ended(data, tmp_path, learning_rate="auto", max_epochs=4).trained
    assert trained.learning_rate == 5e-4 and trained.precision == "fp32"
    assert trained.head_rate == 5 and trained.auto["head_rate"] == 5
    assert all(np.isfinite(row["eval_loss"]) for row in trained.history)
    control = OPEN.model_copy(update=OPEN.equal_steps(trained))
    assert (control.max_steps, control.learning_rate) == (trained.steps, 5e-4)
    assert control.is_fixed and control.patience is None


def test_the_end_of_the_fall_is_kept_unless_an_earlier_step_is_clearly_better():
    progress = Progress()
    for step, score in ((1, 0.80), (2, 0.78)):
        progress.judge(Judged(score, 1.0, error=0.04), step)
    assert (progress.best_step, progress.best_score) == (1, 0.80)
    for step, score, kept in ((3, 0.79, 3), (4, 0.77, 3), (5, 0.785, 5), (6, math.nan, 5)):
        progress.judge(Judged(score, 1.0, error=0.04), step, falls=True)
        assert progress.best_step == kept
    assert (progress.best_score, progress.top_score) == (0.785, 0.80)


@pytest.mark.parametrize(
    ("spreads", "losses", "alike"),
    [
        ((0.01, 0.01), (1.104, 1.098), 2),  # the loss of the constant answer
        ((0.01, 0.01), (0.20, 0.15), 0),  # how rare the classes are is learned first
        ((0.01, 0.30), (1.1, 1.1), 0),
        ((0.01, 0.30, 0.01), (1.1, 1.1, 1.1), 1),
    ],
)
def test_alike_is_what_answers_every_row_alike_and_learns_nothing(spreads, losses, alike):
    progress = Progress()
    for step, (spread, loss) in enumerate(zip(spreads, losses, strict=True), start=1):
        progress.judge(Judged(0.3, loss, error=0.03, spread=spread), step)
        progress.history.append({"step": step, "score": 0.3, "selection_loss": loss})
    assert progress.alike == alike


AUTO = {"learning_rate": "auto", "max_epochs": 12, "patience": 2}


def alike_at_first(monkeypatch, times, dies_at=None, begin=0):
    """Let so many evaluations find every row answered alike, and all of them a slow rise."""
    count = iter(range(begin, 10_000))

    def judge(*_):
        number = next(count)
        if number == dies_at:
            raise KeyboardInterrupt
        return Judged(0.5 + 0.001 * number, 1.0, error=0.1, spread=0.0 if number < times else 1.0)

    monkeypatch.setattr(Selection, "judge", judge)


def weights(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.model.parameters()])


@pytest.mark.slow
def test_a_training_that_learns_nothing_begins_again_at_half_the_rate(data, tmp_path, monkeypatch):
    model = tiny_model(num_labels=2)
    rate = learning_rate(OPEN.model_copy(update={"learning_rate": "auto"}), model)
    alike_at_first(monkeypatch, 2)
    fitted = open_ended(data, tmp_path / "auto", **AUTO)
    assert fitted.collapsed_at == (rate,)
    assert fitted.settings.learning_rate == rate / 2
    assert fitted.trained.collapsed_at == (rate,)

    alike_at_first(monkeypatch, 0)
    half = {"learning_rate": rate / 2, "head_rate": fitted.settings.head_rate}
    given = open_ended(data, tmp_path / "given", **{**AUTO, **half})
    assert given.collapsed_at == ()
    assert torch.equal(weights(fitted), weights(given))
    assert fitted.steps == given.steps
    spent = 2 * given.evaluation_steps
    assert fitted.samples - given.samples == pytest.approx(spent * OPEN.batch_size, rel=0.1)

    # Killed in the second attempt, it goes on there.
    alike_at_first(monkeypatch, 2, dies_at=5)
    with pytest.raises(KeyboardInterrupt):
        open_ended(data, tmp_path / "killed", **AUTO)
    alike_at_first(monkeypatch, 0, begin=5)
    resumed = open_ended(data, tmp_path / "killed", **AUTO)
    assert resumed.collapsed_at == (rate,)
    assert torch.equal(weights(resumed), weights(given))
    checkpoints.clear(tmp_path / "killed")
    assert not list((tmp_path / "killed").iterdir())


def test_a_training_that_goes_with_one_may_begin_again_too():
    """The second phase of `minilm` was given a rate, and one that is given is never changed."""
    told = {"precision": "bf16", "learning_rate": 1e-4, "head_rate": 5.0}
    assert Trained(**told).auto == {"precision": "bf16", "head_rate": 5.0}
    assert Trained(**told, collapsed_at=(2e-4,)).auto == told


def test_what_has_learned_is_never_begun_again(data, tmp_path, monkeypatch):
    spreads, scores = iter([1.0, *[0.0] * 99]), iter([0.9, *[0.5] * 99])
    monkeypatch.setattr(
        Selection, "judge", lambda *_: Judged(next(scores), 1.0, error=0.1, spread=next(spreads))
    )
    fitted = open_ended(data, tmp_path, **AUTO)
    assert (fitted.collapsed_at, fitted.ended.learned) == ((), True)
    assert fitted.selection_score == 0.9 and fitted.best_step == fitted.evaluation_steps


@pytest.mark.slow
def test_it_begins_again_twice_at_most_and_never_at_a_rate_that_was_given(
    data, tmp_path, monkeypatch
):
    alike_at_first(monkeypatch, 999)
    short = {**AUTO, "max_epochs": 4}
    twice = open_ended(data, tmp_path / "auto", **short)
    assert len(twice.collapsed_at) == 2
    assert twice.settings.learning_rate == twice.collapsed_at[0] / 4
    given = open_ended(data, tmp_path / "given", **{**short, "learning_rate": 1e-3})
    assert (given.collapsed_at, given.settings.learning_rate) == ((), 1e-3)
    for each in (twice, given):
        assert each.trained.ended["learned"] is False


def test_answers_that_do_not_depend_on_the_row_are_seen(data):
    model = tiny_model(num_labels=2)
    selection = Selection(data, tiny_tokenizer(), LabelLoss(), torch.device("cpu"))
    assert 0 < selection.judge(model).spread < math.inf
    torch.nn.init.zeros_(model.classifier.weight)
    assert selection.judge(model).spread == pytest.approx(0.0, abs=1e-6)
