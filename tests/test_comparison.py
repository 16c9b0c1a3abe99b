"""Several runs beside each other: `bertcompress compare` and `bertcompress.compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_support import baseline, distilled, quantized, sample_report, scores
from test_report import _last, _Page, _with
from test_verdict import _scoring
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.errors import InputError, OutputError
from bertcompress.report import Report
from bertcompress.runs.run import Run


def _faster(factor: float) -> Any:
    return tuple(
        t.model_copy(
            update={"throughput_per_s": t.throughput_per_s * factor, "p50_ms": t.p50_ms / factor}
        )
        for t in quantized().deployments[1].latency
    )


def _saved(folder: Path, report: Report) -> Path:
    folder.mkdir(parents=True)
    report.save(folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three runs of one task: one is best in everything but bytes, one is worse in everything."""
    stages = {
        "fast": _last(latency=_faster(2.0), scores=scores(0.862)),
        "small": _last(size_mb=8.0, scores=scores(0.851)),
        "worse": _last(size_mb=30.0, scores=scores(0.80), latency=_faster(0.5)),
    }
    return [
        _saved(tmp_path / name, sample_report((baseline(), distilled(), stage)))
        for name, stage in stages.items()
    ]


def test_runs_stand_in_one_table_and_what_is_dominated_is_named(runs):
    done = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert done.exit_code == 0, done.output
    made = bc.compare(*runs)
    assert [row.dominated_by for row in made.runs] == [(), (), ("fast", "small")]
    assert made.shape == (1, "task") and [run.ms for run in made.runs] == pytest.approx(
        [0.85, 1.7, 3.4], rel=1e-2
    )
    words = " ".join(done.output.split())
    for word in (
        "3 runs on glue/sst2",
        "fast",
        "small",
        "worse",
        "0.862",
        "[0.841,",
        "not timed in",
    ):
        assert word in words, word
    assert "fast and 1 more" in made.to_markdown()
    assert str(made).startswith("3 runs on glue/sst2") and len(repr(made)) < 200
    assert "<table>" in made._repr_html_()


def test_page_table_and_figure_are_written_whole_or_not_at_all(runs, tmp_path):
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(tmp_path / "all")])
    assert done.exit_code == 0, done.output
    files = {path.name for path in (tmp_path / "all").iterdir()}
    assert files == {f"comparison.{kind}" for kind in ("html", "md", "json", "svg", "png")}
    page = _Page()
    page.feed((tmp_path / "all" / "comparison.html").read_text())
    assert page.open == [] and not page.tags & {"script", "link", "iframe"}
    assert 'class="faded"' in (tmp_path / "all" / "comparison.html").read_text()
    plain = json.loads((tmp_path / "all" / "comparison.json").read_text())
    assert [run["run"] for run in plain["runs"]] == ["fast", "small", "worse"]
    with pytest.raises(OutputError, match="exists already"):
        bc.compare(*runs, out=tmp_path / "all")


def test_the_figure_shows_score_against_ms_and_mb_and_greys_what_is_dominated(runs):
    figure = bc.compare(*runs).figure()
    time, size = figure.axes
    assert "ms for single texts" in time.get_xlabel() and "MB" in size.get_xlabel()
    grey = {text.get_text(): text.get_color() for text in size.texts if text.get_text()}
    assert grey["worse"] == "#8a8f98" and grey["fast"] != "#8a8f98"
    assert "3 runs on glue/sst2" in figure.get_suptitle()
    assert "Xeon" in figure.get_suptitle()


def test_as_json_it_is_the_rows(runs):
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "--json"])
    assert json.loads(done.output) == bc.compare(*runs).rows


def test_runs_of_different_tasks_or_rows_are_refused(runs, tmp_path):
    plain = sample_report()
    other = plain.model_copy(update={"task": {**plain.task, "config": "mrpc"}})
    with pytest.raises(InputError, match=r"other: is of another task than fast: config is 'mrpc'"):
        bc.compare(runs[0], _saved(tmp_path / "other", other))
    fewer = [s.model_copy(update={"n": 100}) for s in scores(0.868)]
    first = baseline()
    row = first.deployments[0].model_copy(update={"scores": tuple(fewer)})
    less = sample_report((_with(first, deployments=(row, *first.deployments[1:])), quantized()))
    with pytest.raises(InputError, match="judged on 100 rows, fast on 872"):
        bc.compare(runs[0], _saved(tmp_path / "less", less))
    with pytest.raises(InputError, match="two runs or more"):
        bc.compare(runs[0])


def test_runs_of_different_machines_are_not_compared_by_time(runs, tmp_path):
    plain = Report.load(runs[0])
    host = {**plain.environment, "processor": "Another"}
    elsewhere = _saved(tmp_path / "there", plain.model_copy(update={"environment": host}))
    made = bc.compare(*runs, elsewhere)
    assert made.shape is None and len(made.figure().axes) == 1
    assert "different machines" in made.warnings[0] and "there on Another" in made.warnings[0]
    # As good and as large, and nobody can tell which is faster.
    assert made.runs[0].dominated_by == made.runs[3].dominated_by == ()


def test_what_is_wrong_with_a_run_is_first(runs, tmp_path):
    report = sample_report((_scoring(baseline(), 0.52), distilled(), quantized()))
    made = bc.compare(runs[0], _saved(tmp_path / "chance", report))
    (line,) = made.red
    assert line.startswith("chance: The baseline, 01-finetune, is not above chance")
    text = made.to_markdown()
    assert text.index("not above chance") < text.index("| run |")
    assert made.runs[1].kept == "not stated"


def test_runs_come_as_paths_strings_runs_and_reports(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    same = _saved(tmp_path / "more" / "fast", Report.load(runs[0]))
    made = bc.compare(Run(runs[0]), "~/small", runs[2] / "report.json", Report.load(runs[0]), same)
    assert [run.name for run in made.runs] == [str(runs[0]), "small", "worse", "run 4", str(same)]


def test_what_comes_from_outside_is_no_markup(runs, tmp_path):
    odd = _saved(tmp_path / "[red]<b>x", Report.load(runs[0]))
    done = CliRunner().invoke(app, ["compare", str(runs[1]), str(odd)])
    assert "[red]<b>x" in done.output
    html = bc.compare(runs[1], odd).to_html()
    assert "<b>x" not in html and "[red]&lt;b&gt;x" in html


def test_a_comparison_is_a_frame_too(runs):
    pytest.importorskip("pandas")
    frame = bc.compare(*runs).to_pandas()
    assert list(frame["run"]) == ["fast", "small", "worse"]
    assert frame["size_mb"].tolist() == [16.2, 8.0, 30.0]
