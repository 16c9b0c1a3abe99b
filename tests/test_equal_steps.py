"""A method and its control get equal steps; what the training decided is said and stored."""

from __future__ import annotations

import json

import pytest
from test_runs import TRAIN, recipe
from tests_support import tiny_model, tiny_tokenizer, write_rows
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.deployment import Trained
from bertcompress.methods import method_class
from bertcompress.runs.contests import trained_alike

OPEN = {**TRAIN, "max_epochs": 3, "patience": 1}
CUT = {"prune_structured": {"keep": 0.5, "rows": 32}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("open-ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_HOME", str(place / "home"))
        tiny_model("bert", "Model").save_pretrained(place / "bert")
        tiny_tokenizer().save_pretrained(place / "bert")
        for name, rows, seed in (("train", 240, 0), ("validation", 60, 1)):
            write_rows(place / f"{name}.csv", rows, seed, yes="yes", no="no")
        yield place


@pytest.mark.slow
def test_the_control_takes_the_steps_of_its_method(place):
    said = []
    steps = [{"finetune": OPEN}, CUT, {"distill": {**OPEN, "hidden_weight": 0.0}}]
    run = bc.run(recipe(place, steps), place / "run", say=said.append)
    stages = run.folder / "stages"
    ours, theirs = (
        json.loads((stages / name / "stage.json").read_text())["findings"]["training"]
        for name in ("03-distill", "03-distill-control")
    )
    assert ours["ended"]["reason"] in ("stalled", "max_epochs")
    assert theirs["ended"]["reason"] == "fixed"
    for name in ("steps", "samples", "learning_rate", "precision"):
        assert ours[name] == theirs[name], name
    line = next(words for words in said if words.startswith("03-distill: ") and "steps" in words)
    assert f"{ours['steps']} steps" in line and f"{ours['learning_rate']:g}" in line


def test_a_fixed_length_stays_what_it_is(place):
    method = bc.Distill(epochs=2, learning_rate=1e-3)
    assert trained_alike(method, Trained(steps=7)) == method
    assert trained_alike(bc.Distill(), Trained(steps=7)).max_steps == 7
    for cap in ({"patience": 2}, {"max_minutes": 5.0}):  # the method may have ended before
        alike = trained_alike(bc.Distill(epochs=9, **cap), Trained(steps=7))
        assert (alike.max_steps, alike.patience, alike.max_minutes) == (7, None, None)
    assert trained_alike(bc.PruneStructured(), Trained(steps=7)) == bc.PruneStructured()


SEVERAL = [("theseus", {}), ("tinybert", {}), ("minilm", {}), ("ted", {}),
           ("born_again", {"generations": 3}), ("born_again", {"begins": "here"})]  # fmt: skip


@pytest.mark.parametrize(("key", "knobs"), SEVERAL)
def test_the_control_of_several_trainings_takes_the_steps_of_all(key, knobs):
    method = method_class(key)(epochs=2, **knobs)
    ended = {"reason": "fixed", "setting": "epochs", "value": 2.0, "improving": False}
    trained = Trained(steps=500, learning_rate=5e-5, ended=ended, ended_before=(ended,))
    assert method.controls()
    for control in method.controls().values():
        alike = trained_alike(control, trained)
        assert (alike.max_steps, alike.epochs, alike.learning_rate) == (500, None, 5e-5)


def test_the_control_of_a_training_that_collapsed_takes_the_rate_that_it_was_halved_to():
    trained = Trained(steps=9, learning_rate=2.5e-5, collapsed_at=(5e-5,))
    assert trained_alike(bc.Distill(epochs=2), trained).learning_rate == 2.5e-5


@pytest.mark.slow
def test_a_cut_and_its_control_are_trained_for_equal_steps(place):
    """As the report says, where the method has two trainings of a fixed length."""
    run = bc.run(recipe(place, [{"finetune": TRAIN}, {"theseus": {**TRAIN, "epochs": 1, "layers": 1,
                 "replacing_epochs": 2}}]), place / "theseus")  # fmt: skip
    ours, theirs = (
        json.loads((run.folder / "stages" / name / "stage.json").read_text())["findings"]
        for name in ("02-theseus", "02-theseus-control")
    )
    assert ours["training"]["ended_before"] and not theirs["training"]["ended_before"]
    assert ours["training"]["steps"] == theirs["training"]["steps"]


@pytest.mark.slow
def test_a_cap_that_cuts_a_rising_score_short_is_the_first_line_in_red(place, monkeypatch):
    """From the command line, with the setting to raise."""
    monkeypatch.setattr("bertcompress.training.schedule._still_rising", lambda *_: True)
    saved = place / "recipe.yaml"
    wanted = recipe(place, [{"finetune": {**OPEN, "patience": 9}}])
    saved.write_text(wanted.to_yaml())
    done = CliRunner().invoke(app, ["run", str(saved), "--out", str(place / "capped")])
    assert done.exit_code == 0, done.output
    line = "01-finetune was stopped by max_epochs = 3"
    assert line in " ".join(done.output.split())
    page = (place / "capped" / "report.md").read_text()
    assert line in page and page.index(line) < page.index("accuracy")
