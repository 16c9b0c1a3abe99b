"""A method from outside the package: one file and one line of `METHODS`, and it is everywhere."""

from __future__ import annotations

import json

import pytest
from test_runs import TRAIN, recipe
from tests_support import WIDTH, tiny_model, tiny_tokenizer, write_rows
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.errors import ModelError, RecipeError
from bertcompress.measure.footprint import count_parameters
from bertcompress.methods import METHODS
from bertcompress.recipe import Recipe, recipe_schema
from bertcompress.shapes import anatomy

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with the method, and the place of its rows."""
    place = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_HOME", str(place / "home"))
        patch.setitem(METHODS, "toy", ("toy_method:Toy", "Halve the feed-forward parts, blindly"))
        tiny_model("bert", "Model").save_pretrained(place / "bert")
        tiny_tokenizer().save_pretrained(place / "bert")
        for name, rows, seed in (("train", 240, 0), ("validation", 60, 1)):
            write_rows(place / f"{name}.csv", rows, seed, yes="yes", no="no")
        methods = [{"finetune": {**TRAIN, "epochs": 6}}, {"toy": {"keep": 0.25}}]
        yield place, bc.run(recipe(place, methods), place / "run")


def test_it_is_run_and_recorded(made):
    _, run = made
    stage = run.report.last
    winner = stage.replaced_by
    assert stage.method == "toy" and "02-toy: cut blindly" in run.report.notes
    assert stage.facts["blind"] is True
    layers = anatomy(bc.load(run.model).model).layers
    assert {layer.width for layer in layers} == {WIDTH // 4}
    assert winner is None, "nothing was trained: scores before recovery decide nothing"
    assert {each.role for each in stage.controls} == {"shown"}


def test_each_control_has_its_row_and_only_one_of_its_size_may_go_on(made):
    _, run = made
    stage = run.report.last
    assert [each.name for each in stage.controls] == ["the other neurons", "nothing cut"]
    folders = {path.name for path in (run.folder / "stages").iterdir()}
    assert {"02-toy", "02-toy-control", "02-toy-control-2"} <= folders
    sizes = [
        count_parameters(bc.load(run.folder / "stages" / name / "model").model).total
        for name in ("02-toy", "02-toy-control", "02-toy-control-2")
    ]
    assert sizes[0] == sizes[1] < sizes[2]
    assert not stage.controls[1].goes_on, "it is larger"
    for text in (run.report.to_markdown(), run.report.to_html()):
        assert "the other neurons" in text and "nothing cut" in text


def test_its_tag_is_on_the_card(made):
    assert "- toyed" in (made[1].model / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_models_that_it_may_look_at_are_those_it_named(made, monkeypatch):
    place, _ = made
    from toy_method import Toy

    monkeypatch.setattr(Toy, "requires", frozenset({*Toy.requires} - {"baseline"}))
    methods = [{"finetune": {**TRAIN, "epochs": 6}}, {"toy": {"keep": 0.75}}]
    with pytest.raises(ModelError, match=r"names Need\.ORIGINAL or Need\.BASELINE"):
        bc.run(recipe(place, methods), place / "unnamed")


def test_the_command_line_and_the_schema_know_it(made):
    shown = CliRunner().invoke(app, ["show", "toy"])
    assert shown.exit_code == 0, shown.output
    assert "Share of the neurons that stays" in shown.output and "2601.00001" in shown.output
    assert "toy" in CliRunner().invoke(app, ["list", "methods"]).output
    assert "Share of the neurons that stays" in json.dumps(recipe_schema())


def test_what_is_misspelt_gets_its_nearest(made):
    with pytest.raises(RecipeError, match="did you mean 'keep'"):
        Recipe.parse({"methods": [{"toy": {"kep": 0.5}}]})
