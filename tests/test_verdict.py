"""What a verdict may say: red lines first, and no speed but against the best dense deployment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_support import (
    against,
    baseline,
    deployment,
    distilled,
    quantized,
    sample_report,
    scores,
)
from rich.console import Console
from test_report import _last, _with
from tests_support import first_fast

from bertcompress.deployment import Deployment, Findings
from bertcompress.measure.chance import Standing
from bertcompress.publish import CardFacts, render
from bertcompress.report import Report, print_report
from bertcompress.report.rows import Control, Outcome, Reading, Stage
from bertcompress.report.tables import tables
from bertcompress.runs.report_rows import _allowed

CHANCE = 0.509


def _scoring(stage: Stage, value: float, half: float = 0.021, **fields: Any) -> Stage:
    """The stage with this score in every deployment."""
    rows = tuple(
        row.model_copy(update={"scores": scores(value, half), **fields})
        for row in stage.deployments
    )
    return _with(stage, deployments=rows)


def _everywhere(report: Report) -> dict[str, str]:
    """Every text that a reader meets."""
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(width=400, record=True, file=nowhere)
        print_report(report, console)
        terminal = console.export_text()
    return {
        "report.md": report.to_markdown(),
        "report.html": report.to_html(),
        "terminal": terminal,
        "card": render(CardFacts(report, "model: x\n", 2)).split("---\n", 2)[2],
    }


def _first(text: str, words: str, others: Sequence[str]) -> bool:
    return text.index(words) < min(text.index(other) for other in others if other in text)


# -- a baseline at chance


def test_a_baseline_at_chance_keeps_nothing_anywhere():
    report = sample_report((_scoring(baseline(), 0.52), distilled(), quantized()))
    (line,) = report.verdict.red
    assert line.startswith("The baseline, 01-finetune, is not above chance: 0.520 accuracy")
    assert "(interval 0.499 to 0.541), and the best constant answer scores 0.509" in line
    assert report.verdict.retention is None
    kept = [row.retention for stage in report.stages for row in stage.deployments]
    assert kept == [None] * len(kept)
    for name, text in _everywhere(report).items():
        assert "it keeps" not in text, name
        plain = text.replace("no retention is stated", "")
        assert "etention" not in plain and "98.9 %" not in plain and "above chance |" not in plain
        assert _first(text, "is not above chance", ["openvino int8", "Stage by stage"]), name


def test_a_baseline_above_chance_is_no_matter_of_red():
    assert sample_report().verdict.red == ()
    near = sample_report((_scoring(baseline(), CHANCE + 0.03), quantized()))
    assert near.verdict.red == () and near.verdict.retention is not None


def test_a_run_of_a_baseline_alone_says_it_too():
    report = sample_report((_scoring(baseline(), 0.5),))
    assert "is not above chance" in report.verdict.red[0]


def test_a_result_at_chance_is_red():
    last = _scoring(quantized(), 0.51, **against(0.5876, 0.5, 1e-9))
    (line,) = sample_report((baseline(), last)).verdict.red
    assert line.startswith("The result, openvino int8 of 04-quantize_int8, is not above chance")


def test_without_labels_or_a_chance_level_nothing_is_red():
    for task in ({}, {"problem": "unlabelled", "chance": 1.0}, {"chance": None}):
        made = Report.of((_scoring(baseline(), 0.2),), recipe={}, task=task, environment={})
        assert made.verdict.red == ()


def test_how_a_score_stands_is_believed_before_the_interval():
    worse = Standing(chance=0.0, above=False, below=False, error_ratio=3.2)
    first = _scoring(baseline(), 0.83)
    head = first.deployments[0].scores[0].model_copy(update={"standing": worse})
    row = first.deployments[0].model_copy(update={"scores": (head,)})
    report = sample_report((_with(first, deployments=(row, *first.deployments[1:])), quantized()))
    assert "squared error is 3.2 times the variance" in report.verdict.red[0]
    assert report.verdict.retention is None


# -- a file that its own gate refused, or that is at chance, is not recommended in green


def _two(**fast: Any) -> Stage:
    """The last stage, its OpenVINO file the fastest everywhere and with these fields."""
    slow, openvino = quantized().deployments
    return _with(quantized(), deployments=(slow, openvino.model_copy(update=fast)))


@pytest.mark.slow
def test_what_the_gate_refused_is_red_and_not_recommended():
    last = _two(scores=scores(0.52), allowed=False, **against(0.599, 0.5, 1e-9))
    report = sample_report((baseline(), last))
    (line,) = report.verdict.red
    assert line.startswith("openvino int8 of 04-quantize_int8 was refused by its own gate")
    assert "scores 0.520 accuracy. Do not deploy openvino/model_int8.onnx" in line
    assert (report.verdict.runtime, report.verdict.retention) == ("onnxruntime", 0.9873)
    assert {use.runtime for use in report.verdict.uses} == {"onnxruntime"}
    assert all(use.as_fast == () for use in report.verdict.uses)
    for name, text in _everywhere(report).items():
        assert _first(text, "was refused by its own gate", ["deploy onnx/"]), name
        assert "deploy openvino/" not in text.replace("Do not deploy openvino/", ""), name
    assert 'compile_model("openvino/' not in _everywhere(report)["card"]


def test_where_everything_was_refused_the_verdict_is_red_and_still_about_what_ships():
    report = sample_report((baseline(), _last(allowed=False)))
    assert report.verdict.runtime == "openvino" and len(report.verdict.red) == 1
    assert sample_report((baseline(), _last(allowed=True))).verdict.red == ()


def test_each_file_to_deploy_that_is_at_chance_is_red():
    slow, openvino = _timed(_two(scores=scores(0.51)), "onnxruntime", "task", 1).deployments
    times = tuple(
        time.model_copy(update={"throughput_per_s": 1e4}) if time.batch == 1 else time
        for time in slow.latency
    )
    last = _with(quantized(), deployments=(slow.model_copy(update={"latency": times}), openvino))
    report = sample_report((baseline(), last))
    assert [use.runtime for use in report.verdict.uses] == ["onnxruntime", "openvino"]
    (line,) = report.verdict.red
    assert line.startswith(
        "openvino int8 of 04-quantize_int8, the fastest for batches of 8, is not above chance"
    )


def test_a_line_on_what_to_deploy_says_its_score():
    lines = sample_report().verdict.deploy
    assert lines and all("(openvino int8, 0.858 accuracy): " in line for line in lines)
    assert {(use.metric, use.score) for use in sample_report().verdict.uses} == {
        ("accuracy", 0.858)
    }


@pytest.mark.parametrize(
    ("allowed", "told"), [((False, False), False), ((False, True), True), ((), None)]
)
def test_the_gate_is_asked_what_it_said_of_a_file(allowed, told):
    tried = {"openvino": [{"allowed": each, "passes": False} for each in allowed]}
    owner: Any = SimpleNamespace(record=SimpleNamespace(findings=Findings(tried=tried)))
    path = Path("openvino/model_int8.onnx")
    assert _allowed(Deployment("openvino", "int8", path), owner) is told
    assert _allowed(Deployment("onnxruntime", "int8", path), owner) is None
    assert _allowed(Deployment("openvino", "fp32", path), owner) is None


# -- rows that were cut, classes that were matched by order


@pytest.mark.parametrize(
    ("cut", "red"),
    [
        ({"train": 0.002, "selection": 0.02, "validation": 0.01}, ""),
        ({"train": 0.0, "validation": 0.031}, "3.1 % of the rows of validation:"),
        ({"train": 0.4, "validation": 0.0}, "40.0 % of the rows of train:"),
        ({"train": 0.0, "validation": 0.0, "matched": 0.2}, "20.0 % of the rows of matched:"),
        ({}, ""),
    ],
)
def test_rows_that_were_not_read_whole_are_red(cut, red):
    report = _read(Reading(cut=cut))
    assert [line.startswith(f"max_length 64 cuts {red}") for line in report.verdict.red] == (
        [True] if red else []
    )
    assert report.data.cut == cut


@pytest.mark.parametrize("whose", first_fast([("model", "teacher"), ("model",), ("teacher",)]))
def test_classes_that_were_matched_by_order_are_red(whose):
    report = _read(Reading(by_order=whose))
    (line,) = report.verdict.red
    assert line.startswith(f"The classes of the {' and the '.join(whose)} were matched with")
    for name, text in _everywhere(report).items():
        assert _first(text, "by order, not by name", ["openvino int8"]), name


def _read(data: Reading) -> Report:
    plain = sample_report()
    return Report.of(
        plain.stages,
        recipe=plain.recipe,
        task={**plain.task, "max_length": 64},
        environment=plain.environment,
        data=data,
    )


# -- above the baseline, stopped too early, beaten by a control


@pytest.mark.parametrize(
    ("fields", "red"),
    [
        ({"retention": 1.126, "retention_low": 1.05, "retention_high": 1.2}, True),
        ({"retention": 1.02, "retention_low": 0.99, "p_value": 0.01}, True),
        ({"retention": 1.02, "retention_low": 0.99, "p_value": 0.3}, False),
        ({"retention": 0.97, "p_value": 0.001}, False),
    ],
)
def test_significantly_more_than_the_baseline_is_red(fields, red):
    report = sample_report((baseline(), _last(**fields)))
    said = [line for line in report.verdict.red if "01-finetune was not at its best" in line]
    assert bool(said) == red
    assert ("keeps" in " ".join(report.verdict.sentences)) != red
    if red:
        assert f"{100 * fields['retention']:.1f} % of the baseline" in said[0]
        text = report.to_markdown()
        assert _first(text, "was not at its best", ["openvino int8 scores 0.858"])


ENDED = {"reason": "max_epochs", "improving": True, "setting": "max_epochs", "value": 20}


@pytest.mark.parametrize(
    ("ended", "red"),
    [
        (ENDED, True),
        ({**ENDED, "reason": "fixed", "setting": "epochs", "value": 3}, True),
        ({**ENDED, "reason": "max_minutes", "setting": "max_minutes", "value": 1.5}, True),
        ({**ENDED, "reason": "stalled"}, False),
        ({**ENDED, "improving": False}, False),
        (None, False),
    ],
)
@pytest.mark.parametrize("made", [baseline, distilled])
def test_a_training_that_was_cut_short_is_red(made, ended, red):
    stage = _with(made(), facts={"ended": ended} if ended else {})
    stages = [stage if stage.name == each.name else each for each in (baseline(), distilled())]
    report = sample_report((*stages, quantized()))
    assert len(report.verdict.red) == red
    if red:
        setting = f"{ended['setting']} = {ended['value']}"
        assert f"{stage.name} was stopped by {setting} while" in report.verdict.red[0]
        assert f"Raise {ended['setting']} of {stage.method}" in report.verdict.red[0]


def test_a_training_that_a_limit_ended_before_anything_could_tell_is_red():
    early = {**ENDED, "improving": False, "compared": False}
    stage = _with(distilled(), facts={"ended": early})
    (line,) = sample_report((baseline(), stage, quantized())).verdict.red
    assert line == (
        "03-distill was stopped by max_epochs = 20 before its selection score could be compared: "
        "it is hardly at its best. Raise max_epochs of distill."
    )


def test_an_earlier_training_of_a_stage_that_was_cut_short_is_red_too():
    """Of two trainings in one stage the report knew the last one alone."""
    before = {**ENDED, "reason": "fixed", "setting": "inside_epochs", "value": 3}
    facts = {"ended": {**ENDED, "reason": "stalled"}}
    facts["ended_before"] = [before, {**before, "improving": False}]
    stage = _with(distilled(), facts=facts)
    (line,) = sample_report((baseline(), stage, quantized())).verdict.red
    assert line == (
        "03-distill, training 1 of 3, was stopped by inside_epochs = 3 while its selection score "
        "was still improving: it is not at its best. Raise inside_epochs of distill."
    )


def test_a_training_that_was_cut_short_is_the_first_line_everywhere():
    report = sample_report((_with(baseline(), facts={"ended": ENDED}), distilled(), quantized()))
    for name, text in _everywhere(report).items():
        assert _first(text, "was stopped by max_epochs = 20", ["openvino int8"]), name


def test_a_training_that_learned_nothing_is_red():
    collapsed = {**ENDED, "improving": False, "learned": False}
    stage = _with(baseline(), facts={"ended": collapsed})
    report = sample_report((stage, distilled(), quantized()))
    assert "01-finetune learned nothing: it answers every row alike" in report.verdict.red[0]
    assert "Give finetune a lower learning_rate" in report.verdict.red[0]
    control = _control(False, 0.9, 0.4, ended=collapsed)
    report = sample_report((baseline(), _with(distilled(), controls=(control,)), quantized()))
    assert any("the control of 03-distill learned nothing" in line for line in report.verdict.red)


def _control(goes_on: bool, ours: float, theirs: float, **fields: Any) -> Control:
    return Control(
        name="no teacher",
        score=scores(0.624)[0],
        selection_score=theirs,
        goes_on=goes_on,
        method=Outcome(score=scores(0.516)[0], selection_score=ours),
        **fields,
    )


def test_a_control_that_was_cut_short_is_a_warning():
    stage = _with(distilled(), controls=(_control(False, 0.7, 0.6, ended=ENDED),))
    verdict = sample_report((baseline(), stage)).verdict
    assert verdict.red == ()
    assert [w for w in verdict.warnings if "the control, which does not go on" in w]


def test_a_control_that_goes_on_and_was_cut_short_is_red():
    ended = {**ENDED, "reason": "fixed", "setting": "max_steps"}
    fields = {"controls": (_control(True, 0.516, 0.624),), "facts": {"ended": ended}}
    (line,) = sample_report((baseline(), _with(distilled(), **fields))).verdict.red
    assert "still improving when the method's steps were over" in line
    assert "max_steps" not in line  # nobody set that


def test_a_control_that_goes_on_is_shown_beside_its_method():
    stage = _with(_scoring(distilled(), 0.624), controls=(_control(True, 0.516, 0.624),))
    report = sample_report((baseline(), stage))
    (table,) = [t for t in tables(report) if t.title.startswith("Controls")]
    cells = dict(zip([c.name for c in table.columns], table.rows[0], strict=True))
    assert cells["score of the method"].startswith("0.516") and cells[
        "score of the control"
    ].startswith("0.624")
    assert cells["goes on"] == "control"
    assert not [w for w in report.verdict.warnings if "not shown to help" in w]
    assert report.verdict.red == ()


def test_a_method_that_loses_to_a_larger_control_is_red():
    stage = _with(distilled(), controls=(_control(False, 0.516, 0.624),))
    (line,) = sample_report((baseline(), stage)).verdict.red
    assert "better on the selection split, 0.624 against 0.516, but larger" in line


def test_green_is_only_what_has_no_red():
    def page(report: Report) -> str:
        with open("/dev/null", "w", encoding="utf-8") as nowhere:
            console = Console(width=200, record=True, file=nowhere, force_terminal=True)
            print_report(report, console)
            return console.export_text(styles=True)

    green, red = "\x1b[32m-", "\x1b[1;31m! The baseline"
    fine, bad = sample_report(), sample_report((_scoring(baseline(), 0.5), quantized()))
    assert green in page(fine) and red not in page(fine)
    assert green not in page(bad) and page(bad).count(red) == 2
    assert '<div class="red">' in bad.to_html() and '<div class="red">' not in fine.to_html()


def test_what_a_report_says_is_no_markup():
    stage = _with(quantized(), notes=("[red]not a colour[/red]",))
    assert "[red]not a colour[/red]" in str(sample_report((baseline(), stage)))


# -- speed and bytes against the best dense deployment


def _timed(stage: Stage, runtime: str, length: int | str, factor: float) -> Stage:
    """The stage with one runtime so many times faster at one length."""
    rows = []
    for row in stage.deployments:
        times = tuple(
            t.model_copy(
                update={
                    "throughput_per_s": t.throughput_per_s * factor,
                    "p50_ms": t.p50_ms / factor,
                }
            )
            if t.length == length and row.runtime == runtime
            else t
            for t in row.latency
        )
        rows.append(row.model_copy(update={"latency": times}))
    return _with(stage, deployments=tuple(rows))


def test_speed_is_against_the_best_dense_deployment_of_any_runtime():
    # ONNX Runtime is twice as fast on the task's own texts, before compressing and after.
    first = _timed(baseline(), "onnxruntime", "task", 3.0)
    report = sample_report((first, _last()))  # OpenVINO alone is shipped
    own = next(row for row in report.verdict.speed if (row.batch, row.length) == (1, "task"))
    assert own.over_dense_int8 == pytest.approx(2.9 / 1.7)  # of the same runtime: flattery
    assert own.over_best_dense == pytest.approx(4.1 / 3 / 1.7, rel=1e-3)
    assert (own.best_dense, own.stands) == ("onnxruntime int8", True)
    text = " ".join(report.verdict.deploy)
    assert "the best dense deployment (onnxruntime int8, 1.4 ms) is faster" in text
    assert [w for w in report.verdict.warnings if "Not faster than the best dense" in w]
    assert "1.71x" not in report.to_markdown() and "1.71x" not in str(report)


def test_fastest_is_by_the_tasks_own_lengths():
    last = _timed(quantized(), "onnxruntime", "task", 2.0)
    report = sample_report((baseline(), last))
    assert report.verdict.runtime == "onnxruntime"  # OpenVINO is faster at 128 tokens
    shapes_alone = [
        _with(
            stage,
            deployments=tuple(
                row.model_copy(update={"latency": row.latency[:2]}) for row in stage.deployments
            ),
        )
        for stage in (baseline(), last)
    ]
    assert sample_report(tuple(shapes_alone)).verdict.runtime == "openvino"


def test_one_line_per_use_says_what_to_deploy():
    last = _timed(quantized(), "onnxruntime", "task", 2.0)
    rows = [
        row.model_copy(
            update={
                "latency": tuple(
                    t.model_copy(update={"throughput_per_s": 1e3 * t.batch / 8.9})
                    if (t.batch, t.length, row.runtime) == (8, "task", "onnxruntime")
                    else t
                    for t in row.latency
                )
            }
        )
        for row in last.deployments
    ]
    report = sample_report((baseline(), _with(last, deployments=tuple(rows))))
    lines = report.verdict.deploy
    assert len(lines) == 2
    assert lines[0].startswith("For single texts on the task's own lengths deploy onnx/")
    assert lines[1].startswith("For batches of 8 on the task's own lengths deploy openvino/")
    assert [use.path for use in report.verdict.uses] == [r.path for r in last.deployments]
    assert "2.42x faster than the best dense deployment (openvino int8, 2.9 ms)" in lines[0]


def test_files_that_are_as_fast_are_named():
    report = sample_report((baseline(), _timed(quantized(), "onnxruntime", "task", 2.4 / 1.7)))
    assert report.verdict.uses[0].as_fast
    assert "not measurably slower" in report.verdict.deploy[0]


def test_bytes_are_against_the_smallest_dense_deployment():
    verdict = sample_report().verdict
    assert verdict.smallest_dense == "onnxruntime int8"
    assert verdict.smaller_than_dense == pytest.approx(23.1 / 16.2)
    assert verdict.smaller_by == pytest.approx(90.9 / 16.2)
    heavy = deployment("torch", "fp32", size_mb=62.6, encoder_mb=14.3, scores=scores(0.85))
    text = sample_report((baseline(), _with(quantized(), deployments=(heavy,)))).verdict.sentences
    assert any(line.startswith("Not smaller in bytes than the smallest dense") for line in text)


def test_dense_int8_itself_is_not_praised_for_being_as_fast_as_itself():
    files = baseline().deployments[1:]
    first = _with(baseline(), deployments=baseline().deployments[:1])
    verdict = sample_report((first, _with(quantized(), deployments=files))).verdict
    assert any("dense int8 themselves" in w for w in verdict.warnings)
    assert all(row.over_best_dense is None for row in verdict.speed)
    assert verdict.uses[0].over_best_dense is None
