"""What a prompt and a notebook show of objects: short, escaped, and as wide as the terminal."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_support import baseline, quantized, sample_report
from test_report import _with

import bertcompress as bc
from bertcompress.errors import NotFound


class _Closed(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


EVIL = "<script>x</script>\x1b[31m"


@pytest.fixture
def run(tmp_path: Path):
    report = sample_report().model_copy(update={"recipe": {"model": EVIL}})
    report.save(tmp_path)
    return bc.Run(tmp_path)


def _objects(run):
    recipe = bc.Recipe.load("quickstart", model=EVIL)
    many = bc.Task.load("glue/sst2").model_copy(
        update={"labels": tuple(f"{EVIL}{i}" for i in range(5_000)), "metrics": ("accuracy",)}
    )
    return {"report": run.report, "run": run, "recipe": recipe, "task": many}


@pytest.mark.parametrize("what", ["report", "run", "recipe", "task"])
def test_an_object_is_a_line_and_a_small_table(run, what):
    shown = _objects(run)[what]
    assert len(repr(shown)) < 400 and "\n" not in repr(shown)
    html = shown._repr_html_()
    assert len(html) < 4_000
    page = _Closed()
    page.feed(html)
    assert page.open == [] and "script" not in page.tags
    assert "\x1b" not in html


def test_a_run_shows_its_report_and_is_found_again(run, tmp_path, monkeypatch):
    assert "5.6x" in run._repr_html_() and repr(run) == f"Run('{tmp_path}')"
    assert bc.Run.load(str(tmp_path)) == run
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert bc.Run.load(f"~/{tmp_path.name}") == run
    with pytest.raises(NotFound, match="no finished run"):
        bc.Run.load(tmp_path / "none")


def test_a_recipe_and_a_task_are_named_by_what_they_do():
    assert repr(bc.Recipe.load("quickstart")).startswith(
        "<Recipe: embedded:minilm-l6 on embedded; finetune, prune_structured, distill,"
    )
    assert str(bc.Task.load("glue/mrpc")).startswith("<Task glue/mrpc: single_label, text ")


def test_red_is_first_in_a_notebook_too():
    ended = {"reason": "fixed", "improving": True, "setting": "epochs", "value": 3}
    worse = sample_report((_with(baseline(), facts={"ended": ended}), quantized()))
    html = worse._repr_html_()
    assert html.index("was stopped by epochs = 3") < html.index("Times smaller")


@pytest.mark.parametrize("columns", [70, 100, 160])
def test_a_report_prints_at_the_width_of_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    widths = [len(line) for line in str(sample_report()).splitlines()]
    assert columns - 3 <= max(widths) <= columns


def test_a_report_is_a_frame_with_the_names_of_the_json():
    pytest.importorskip("pandas")
    report = sample_report()
    frame = report.to_pandas()
    assert len(frame) == sum(len(stage.deployments) for stage in report.stages)
    last = frame.iloc[-1]
    assert (last["stage"], last["runtime"], last["size_mb"]) == (
        "04-quantize_int8",
        "openvino",
        16.2,
    )
    assert (last["score"], last["score_low"], last["metric"]) == (0.858, 0.837, "accuracy")
    assert last["ms_1_task"] == pytest.approx(1.7, rel=1e-3)
