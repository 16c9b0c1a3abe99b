"""`compress` and `ship`: a recipe without and with its run folder, and what one may choose by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_runs import METHODS, recipe
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.errors import OutputError
from bertcompress.measure.scores import predict
from bertcompress.runs import stage
from bertcompress.runtimes import open_predictor

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def asked():
    """Splits that stages asked a file of int8 for, one text at a time."""
    return []


@pytest.fixture(scope="module")
def made(tmp_path_factory, asked):
    """Stages of a recipe, the run that was shipped of them, and the run of the whole at once."""
    place = tmp_path_factory.mktemp("compress")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_HOME", str(place / "home"))
        tiny_model("bert", "Model").save_pretrained(place / "bert")
        tiny_tokenizer().save_pretrained(place / "bert")
        for name, rows, seed in (("train", 240, 0), ("validation", 60, 1)):
            write_rows(place / f"{name}.csv", rows, seed, yes="yes", no="no")
        wanted = recipe(place, METHODS)

        def noted(predictor, data, split, tokenizer, *more, **named):
            asked.extend([split] if predictor.precision == "int8" and not more else [])
            return predict(predictor, data, split, tokenizer, *more, **named)

        with patch.context() as noting:
            noting.setattr(stage, "predict", noted)
            result = bc.compress(wanted, place / "stages")
        shipped = bc.ship(result, place / "shipped")
        yield result, shipped, bc.run(wanted, place / "whole")


def _plain(report: bc.Report) -> list[dict]:
    """What a report says of its stages; files of a stage that is not shipped lie elsewhere."""
    rows = json.loads(report.model_dump_json())["stages"]
    for row in rows:
        row.pop("notes")  # that a stage came from the store
        row["cost"] = None
        for deployment in row["deployments"]:
            deployment["path"] = deployment["path"].rpartition("/")[2]
            deployment["latency"], deployment["memory_mb"], deployment["load_s"] = [], None, None
    return rows


def test_compress_and_ship_are_a_run(made):
    _, shipped, whole = made
    assert _plain(shipped.report) == _plain(whole.report)
    assert {p.name for p in shipped.folder.iterdir()} == {p.name for p in whole.folder.iterdir()}
    assert bc.load(shipped.model).model.config.num_labels == 2


def test_nothing_is_shipped_or_timed_before(made):
    result, *_ = made
    assert {path.name for path in result.folder.iterdir()} <= {"stages", "work"}
    report = result.report()
    assert [stage.name for stage in report.stages] == [row.record.name for row in result.rows]
    assert all(not row.latency for stage in report.stages for row in stage.deployments)


def test_every_stage_keeps_its_answers_to_the_selection_split(made):
    result, *_ = made
    data = result.start.data
    for row in result.rows:
        for deployment in row.deployments:
            assert len(row.logits(deployment, "selection")) == len(data.selection)


def test_no_file_is_asked_again_what_the_gate_asked_it(made, asked):
    result, *_ = made
    judged = [each for each in result.final.deployments if each.precision == "int8"]
    assert judged and asked.count("validation") - asked.count("selection") == len(judged)
    data, tokenizer = result.start.data, result.shaped.product.tokenizer
    for each in result.final.deployments:
        predictor = open_predictor(each.path, each.runtime, None, each.precision)
        anew = predict(predictor, data, "selection", tokenizer)
        assert np.array_equal(result.final.logits(each, "selection"), anew), each.precision


def test_what_may_be_chosen_by_is_not_what_is_reported(made):
    result, *_ = made
    for deployment in result.final.deployments:
        (found, *_) = [each for each in result.selection_scores(deployment) if each.headline]
        assert (found.split, found.n) == ("selection", len(result.start.data.selection))
        logits = result.final.logits(deployment, "selection")
        right = np.mean(logits.argmax(-1) == result.start.data.references("selection"))
        assert found.value == pytest.approx(right)


def test_the_stages_stay_and_serve_again(made, tmp_path):
    result, *_ = made
    before = sorted(p.relative_to(result.folder) for p in result.folder.rglob("*.json"))
    again = bc.ship(result, tmp_path / "again")
    assert again.report.last.main.headline == made[1].report.last.main.headline
    assert sorted(p.relative_to(result.folder) for p in result.folder.rglob("*.json")) == before
    with pytest.raises(OutputError, match="exists already"):
        bc.ship(result, tmp_path / "again")


def test_a_temporary_folder_lasts_as_long_as_its_result(made):
    wanted = made[0].recipe.model_copy(update={"methods": made[0].recipe.methods[:1]})
    result = bc.compress(wanted)
    folder = Path(result.folder)
    assert (folder / "stages").is_dir()
    assert result.rows[0].product.model is not None
    del result
    assert not folder.exists()


def test_ship_leaves_an_interrupted_run_alone(made, tmp_path):
    result, *_ = made
    begun = tmp_path / ".there.partial" / "stages"
    begun.mkdir(parents=True)
    with pytest.raises(OutputError, match="an interrupted run is there"):
        bc.ship(result, tmp_path / "there")
    assert begun.is_dir()


def test_compress_leaves_a_finished_run_alone(made):
    result, shipped, _ = made
    before = sorted(path.name for path in (shipped.folder / "stages").iterdir())
    with pytest.raises(OutputError, match="a finished run is there"):
        bc.compress(result.recipe, shipped.folder)
    assert sorted(path.name for path in (shipped.folder / "stages").iterdir()) == before


def test_shipping_twice_says_nothing_twice(made, tmp_path):
    result, *_ = made
    before = {name: [*lines] for name, lines in result.notes.items()}
    bc.ship(result, tmp_path / "twice")
    assert result.notes == before
