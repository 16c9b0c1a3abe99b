"""The head of a report: the same three tiles everywhere, and words where a figure would mislead."""

from __future__ import annotations

from typing import Any

import pytest
from report_support import baseline, deployment, distilled, quantized, sample_report, scores
from test_report import _last, _slowed, _spread, _with
from test_verdict import ENDED, _everywhere, _scoring

from bertcompress.report import Report
from bertcompress.report.head import head, short_name
from bertcompress.report.rows import Reading, Stage


def _tiles(report: Report) -> dict[str, tuple[str, str, bool]]:
    return {
        tile.name.split(",")[0]: (tile.value, tile.detail, tile.good) for tile in head(report).tiles
    }


def _dated(report: Report) -> Report:
    host = {**report.environment, "date": "2031-02-03"}
    return report.model_copy(update={"environment": host})


@pytest.mark.slow
def test_the_tiles_are_the_first_that_is_said_everywhere():
    report = _dated(sample_report())
    texts = _everywhere(report)
    for name, text in texts.items():
        plain = text.replace("<strong>", "").replace("\n", " ")
        for word in ("5.6x", "98.9 %", "2.9 to 1.7 ms", "2031-02-03", "Intel Xeon", "2 threads"):
            assert word in plain, (name, word)
        assert "recipe: finetune, prune_structured, distill, quantize_int8" in plain, name
        places = [
            plain.index(word)
            for word in ("2.9 to 1.7 ms", "deploy openvino/", "not significant (p")
        ]
        assert places == sorted(places), name
    for name in ("report.md", "report.html", "card"):  # a terminal scrolls: there it is last
        assert texts[name].index("5.6x") < texts[name].index("02-prune_structured"), name
    assert texts["terminal"].index("5.6x") > texts["terminal"].index("02-prune_structured")


def test_the_tiles_say_what_their_figures_are_of():
    tiles = _tiles(sample_report())
    assert all(good for _, _, good in tiles.values())
    assert "90.9 MB (torch fp32) to 16.2 MB (openvino int8)" in tiles["Times smaller"][1]
    assert "1.4x against the smallest dense file" in tiles["Times smaller"][1]
    assert "95 % interval 97.2 % to 100.4 %; 0.868 to 0.858 accuracy" in tiles["Score kept"][1]
    words = tiles["Milliseconds"][1]
    assert "before: the best dense deployment, openvino int8; torch fp32 takes 6.1 ms" in words


def _read(data: Reading) -> Report:
    fields = {name: getattr(sample_report(), name) for name in ("recipe", "task", "environment")}
    return Report.of((baseline(), quantized()), data=data, **fields)


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (lambda: sample_report((_scoring(baseline(), 0.52), quantized())), "nothing to keep"),
        (lambda: sample_report((baseline(), _scoring(quantized(), 0.51))), "at chance"),
        (lambda: sample_report((baseline(), _last(allowed=False))), "refused"),
        (lambda: _read(Reading(by_order=("model",))), "in doubt"),
        (
            lambda: sample_report((baseline(), _last(retention=1.1, retention_low=1.05))),
            "in doubt",
        ),
        (
            lambda: sample_report((_with(baseline(), facts={"ended": ENDED}), quantized())),
            "in doubt",
        ),
        (lambda: sample_report((baseline(), _last(scores=()))), "not measured"),
        (lambda: sample_report((baseline(),)), "nothing compressed"),
    ],
    ids=["baseline", "result", "gate", "order", "above", "unfinished", "unscored", "alone"],
)
def test_the_score_that_means_nothing_is_no_figure(report, says):
    made = report()
    value, _, good = _tiles(made)["Score kept"]
    assert value == says and not good
    if made.verdict.red:
        assert not any(good for _, _, good in _tiles(made).values()), (
            "red is first, nothing is green"
        )


def _disturbed(stage: Stage) -> Stage:
    rows = [
        row.model_copy(
            update={
                "latency": tuple(
                    t.model_copy(update={"disturbed": 0.9, "spread": 1.4}) for t in row.latency
                )
            }
        )
        for row in stage.deployments
    ]
    return _with(stage, deployments=tuple(rows))


def test_a_timing_that_was_disturbed_or_spreads_is_no_figure():
    spread = _with(quantized(), deployments=tuple(_spread(r, 1.5) for r in quantized().deployments))
    for last, why in ((_disturbed(quantized()), "busy"), (spread, "the rounds spread by")):
        value, detail, good = _tiles(sample_report((baseline(), last)))["Milliseconds"]
        assert (value, good) == ("no difference measurable", False)
        assert why in detail and " ms" not in detail
    # Nor is it said of a busy machine that nothing is slower than the fastest.
    report = sample_report((baseline(), _disturbed(quantized())))
    assert not any("not measurably slower" in line for line in report.verdict.deploy)


def test_what_is_slower_is_not_green_and_what_was_not_timed_says_so():
    value, detail, good = _tiles(sample_report((baseline(), _slowed(2.5))))["Milliseconds"]
    assert value == "2.9 to 4.3 ms" and "slower than the best dense" in detail and not good
    untimed: dict[str, Any] = {"latency": ()}
    assert (
        _tiles(sample_report((baseline(), _last(**untimed))))["Milliseconds"][0] == "not measured"
    )
    plain = _with(baseline(), deployments=baseline().deployments[:1])
    value, detail, good = _tiles(sample_report((plain, _last())))["Milliseconds"]
    assert value == "1.7 ms after" and "nothing dense but fp32" in detail and not good


def test_bytes_are_of_what_came_in_and_never_of_what_is_simulated():
    halved = _with(baseline(), source_mb=45.4)
    value, detail, _ = _tiles(sample_report((halved, quantized())))["Times smaller"]
    assert value == "2.8x" and "45.4 MB (the 16-bit checkpoint)" in detail
    fake = deployment("torch", "int4", size_mb=0.1, scores=scores(0.8), simulated=True)
    alone = sample_report((baseline(), _with(quantized(), deployments=(fake,))))
    for value, detail, good in _tiles(alone).values():
        assert (value, good) == ("not claimed", False) and "only simulated" in detail
    grown = sample_report((baseline(), _last(size_mb=99.0)))
    assert _tiles(grown)["Times smaller"][0] == "not smaller"


def test_warnings_are_one_line_a_kind_and_remarks_are_elsewhere():
    again = _with(distilled(), name="04-distill")
    last = _spread(quantized().deployments[1], 0.9)
    report = sample_report(
        (baseline(), distilled(), again, _with(quantized(), deployments=(last,)))
    )
    found = head(report).warnings
    for kind in ("No difference in speed", "is inside the interval", "One seed"):
        assert len([line for line in found if kind in line]) == 1, kind
    assert "03-distill" in " ".join(found) and "04-distill" in " ".join(found)
    assert report.notes and not set(report.notes) & set(found)
    text = report.to_markdown()
    assert text.index("## Remarks on the stages") > text.index("## Environment")
    assert head(report).cost in text.partition("## ")[0]


def test_one_name_for_one_thing():
    text = sample_report().to_markdown()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert not [line for line in rows if "etention" in line or "p50" in line or "| task |" in line]
    firsts = {line.split(" | ")[0].strip("| ") for line in rows if " openvino int8 |" in line}
    assert firsts <= {"baseline", "compressed", "04-quantize_int8"}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/ann/bert", "bert"),
        ("embedded:minilm-l6", "minilm-l6"),
        ("google-bert/bert-base-uncased", "bert-base-uncased"),
        ("runs/x/", "x"),
        ("C:\\models\\bert", "bert"),
    ],
)
def test_a_model_is_called_by_its_name_alone(model, name):
    assert short_name(model) == name


@pytest.mark.parametrize(
    ("value", "p_value", "good"),
    [(0.858, 0.3, True), (0.850, 1e-4, True), (0.70, 1e-9, False), (0.70, 0.3, True)],
)
def test_much_that_is_lost_is_not_shown_as_good(value, p_value, good):
    """0.868 over a chance of 0.509; a tenth of what is above it is 0.036."""
    last = _scoring(_last(p_value=p_value, retention=value / 0.868), value)
    tiles = _tiles(sample_report((baseline(), last)))
    assert tiles["Score kept"][2] is good
