"""What a report says of models of others: red where one does as well, plain where none does."""

from __future__ import annotations

import pytest
from report_support import SETTINGS, distilled, latency, quantized, scores
from test_report import _with

from bertcompress.measure.scores import Cost
from bertcompress.report import Report
from bertcompress.report.comparison import compare
from bertcompress.report.rows import DeploymentRow, Margin, Opponent

OURS = "openvino/model_int8.onnx"
"""The deployment that is judged: 16.2 MB, 1.7 and 5.0 ms on own lengths, 0.858 accuracy."""
SAME_MS = (3.5, 18.0, 1.7, 5.0)


def file(ms=SAME_MS, size_mb=14.0, value=0.85, precision="int8", **fields) -> DeploymentRow:
    return DeploymentRow(
        runtime="openvino",
        precision=precision,
        path=f"stages/against-1-quantize_int8/openvino/{precision}.onnx",
        size_mb=size_mb,
        loads_in="openvino",
        scores=scores(value),
        latency=latency("openvino", ms) if ms else (),
        **fields,
    )


def opponent(low: float, *files: DeploymentRow, **fields) -> Opponent:
    files = files or (file(),)
    margins = [
        Margin(
            path=OURS,
            against=each.path,
            difference=low + 0.01,
            difference_low=low,
            difference_high=low + 0.02,
        )
        for each in files
    ]
    return Opponent(
        kind="model", name="acme/l3", path=files[0].path, size_mb=files[0].size_mb, tokens=30_522,
        dimensions=None, scores=files[0].scores, metric="accuracy", margins=tuple(margins),
        deployments=files, **{"macs": 500_000_000, "finetuned": True, **fields},
    )  # fmt: skip


def report(*opponents: Opponent, stages=None, problem="single_label") -> Report:
    before, last = stages or (distilled(), quantized())
    return Report.of(
        (_with(before, baseline=True), last),
        recipe={},
        task={"name": "t", "problem": problem},
        environment={},
        opponents=opponents,
    )


def red(made: Report) -> list[str]:
    return [line for line in made.verdict.red if "acme/l3" in line]


def plain(made: Report) -> list[str]:
    return [line for line in made.verdict.sentences if line.startswith("acme/l3")]


def test_one_that_the_result_is_not_better_than_is_red():
    cost = Cost(seconds=150, steps=9, samples=9, peak_memory_mb=1, reused=False)
    made = report(opponent(-0.005, cost=cost))
    assert red(made) == [
        "A small model of its own does as well: acme/l3, fine-tuned here in 2.5 minutes, scores "
        "0.850 accuracy in openvino int8 against 0.855 of openvino int8 (difference +0.005 "
        "[-0.005, +0.015]). It is smaller (14.0 MB against 16.2) and not measurably slower or "
        "faster for single texts on the task's own lengths (1.7 ms against 1.7), not measurably "
        "slower or faster for batches of 8 on the task's own lengths (5.0 ms against 5.0). Nothing "
        "is gained over taking acme/l3: take it, or keep more and train for longer."
    ]
    assert not plain(made)
    assert red(made)[0] in made.to_markdown().replace("\\", "")
    assert "does as well" in made.to_html()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (opponent(0.01), "the result is above it by +0.020 [+0.010, +0.030]. It is smaller"),
        (opponent(-0.03), "the result is below it by -0.020 [-0.030, -0.010]. It is larger"),
        (opponent(-0.005), "no difference to the result is shown, +0.005 [-0.005, +0.015]. It is"),
    ],
    ids=["better", "worse", "equal"],
)
def test_otherwise_score_size_and_speed_are_said(made, words):
    if "above" not in words:
        big = file(size_mb=20.0)
        made = made.model_copy(update={"deployments": (big,), "size_mb": 20.0})
    found = report(made)
    (line,) = plain(found)
    assert not red(found) and words in line


@pytest.mark.parametrize("setting", [2, 3], ids=["single", "batch"])
def test_one_that_is_slower_somewhere_does_not_do_as_well(setting):
    times = list(SAME_MS)
    times[setting] *= 1.5
    found = report(opponent(-0.005, file(ms=tuple(times))))
    batch = SETTINGS[setting][0]
    where = "single texts" if batch == 1 else "batches of 8"
    assert not red(found) and f"slower for {where} on the task's own lengths" in plain(found)[0]


def test_within_the_spread_of_the_rounds_it_is_not_slower():
    times = tuple(ms * 1.02 for ms in SAME_MS)
    assert red(report(opponent(-0.005, file(ms=times))))


def test_on_a_busy_machine_no_speed_is_compared():
    busy = tuple(t.model_copy(update={"disturbed": 0.9}) for t in latency("openvino", SAME_MS))
    made = file().model_copy(update={"latency": busy})
    (line,) = plain(report(opponent(0.01, made)))
    assert "not comparable, since the machine was busy, for single texts" in line


def test_untimed_what_it_computes_decides():
    fewer, more = (opponent(-0.005, file(ms=None), macs=n) for n in (400_000_000, 500_000_000))
    stages = [
        _with(
            stage,
            macs=474_000_000,
            deployments=tuple(
                row.model_copy(update={"latency": ()}) for row in stage.deployments[::-1]
            ),
        )
        for stage in (distilled(), quantized())
    ]
    stages[1] = _with(stages[1], deployments=stages[1].deployments[:1])
    found = report(fewer, stages=stages)
    assert "computes 400 M MACs a text against 474 M (it was not timed" in red(found)[0]
    assert not red(report(more, stages=stages))


def test_any_of_its_files_may_do_as_well():
    """The one that loses in int8 is still as good in another file."""
    files = file(value=0.80), file(size_mb=16.0, precision="bf16")
    made = opponent(-0.005, *files)
    lost = made.margins[0].model_copy(update={"difference_low": 0.03, "difference": 0.05})
    found = report(made.model_copy(update={"margins": (lost, made.margins[1])}))
    assert "0.850 accuracy in openvino bf16" in red(found)[0]
    cells = [table for table in found.to_markdown().split("## ") if table.startswith("Other mod")]
    assert cells[0].count("| acme/l3 | fine-tuned |") == 2


def test_what_its_file_lost_is_not_told_as_a_gain_of_the_result():
    whole = file(size_mb=60.0, value=0.86, precision="fp32")
    made = report(opponent(0.2, file(value=0.64), whole))
    margins = list(made.opponents[0].margins)
    margins[1] = margins[1].model_copy(
        update={"difference": -0.002, "difference_low": -0.01, "difference_high": 0.006}
    )
    other = made.opponents[0].model_copy(update={"margins": tuple(margins)})
    (line,) = plain(report(other))
    assert "the result is above it by +0.210" in line
    assert "In openvino fp32 it scores 0.860, which the result is not shown to be better" in line
    assert "without a gate" in line and not red(report(other))
    assert "gate" not in plain(made)[0]  # above both: nothing to doubt


def test_one_at_chance_is_no_alternative():
    from bertcompress.measure.chance import Standing

    chance = Standing(chance=0.5, above=False, below=False)
    poor = tuple(s.model_copy(update={"standing": chance, "value": 0.51}) for s in scores(0.51))
    made = file().model_copy(update={"scores": poor})
    found = report(opponent(-0.005, made))
    assert not red(found) and "It is not above chance" in plain(found)[0]


def test_a_training_that_was_cut_short_is_said():
    ended = {"reason": "max_minutes", "value": 3.0, "setting": "max_minutes", "improving": True}
    (line,) = plain(report(opponent(0.01, ended=ended)))
    assert "stopped by max_minutes = 3.0 while it was still improving: it may be better" in line


def test_without_labels_agreement_is_said_to_be_no_judgement():
    (line,) = plain(report(opponent(0.01, finetuned=False), problem="vectors"))
    assert line.startswith("acme/l3, as it comes, scores")
    assert "scored pairs or a search would tell" in line


def test_a_comparison_of_runs_says_it_of_each(tmp_path):
    one = report(opponent(0.01), stages=(distilled(), quantized()))
    two = report(opponent(-0.005))
    found = compare(one, two)
    assert any(line.startswith("run 1: acme/l3, fine-tuned here") for line in found.warnings)
    assert any("run 2: A small model of its own does as well" in line for line in found.red)


def test_it_travels_through_json():
    made = report(opponent(0.01))
    assert Report.model_validate_json(made.model_dump_json()) == made
