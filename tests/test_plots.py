"""Figures from report rows."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from report_support import baseline, deployment, distilled, quantized, sample_report, scores

from bertcompress.deployment import Curve, Measurement
from bertcompress.measure.footprint import LayerRow
from bertcompress.report import Report, drawing, plots
from bertcompress.report.rows import Stage

NAMES = ("score_vs_latency", "score_vs_size", "where_bytes_are", "per_layer_shape")


def _texts(figure: Figure) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def _error_bars(figure: Figure, panel: int = 0) -> list[tuple[float, float, float, float]]:
    """Return (x, low, value, high) of each point."""
    found = []
    for container in figure.axes[panel].containers:
        if isinstance(container, ErrorbarContainer):
            line, _, bars = container.lines
            (x, value) = (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
            low, high = sorted(np.asarray(bars[0].get_segments()[0])[:, 1])
            found.append((x, float(low), value, float(high)))
    return sorted(found)


def test_every_axis_is_named_with_its_unit() -> None:
    for name, figure in plots.figures(sample_report()).items():
        for axes in figure.axes:
            assert axes.get_xlabel(), name
    figures = plots.figures(sample_report())
    assert tuple(figures) == NAMES
    assert "median ms" in figures["score_vs_latency"].axes[0].get_xlabel()
    assert "MB" in figures["score_vs_size"].axes[0].get_xlabel()
    assert "accuracy" in figures["score_vs_latency"].axes[0].get_ylabel()


def test_points_and_error_bars_are_those_of_the_report() -> None:
    figure = plots.score_vs_latency(sample_report())
    assert [axes.get_title() for axes in figure.axes] == [
        "single texts at length 128",
        "batches of 8 at length 128",
        "single texts on the task's own lengths",
        "batches of 8 on the task's own lengths",
    ]
    expected = [(3.5, 0.837, 0.858, 0.879), (6.6, 0.836, 0.857, 0.878), (7.4, 0.845, 0.866, 0.887)]
    expected += [(11.9, 0.843, 0.864, 0.885), (16.9, 0.847, 0.868, 0.889)]
    np.testing.assert_allclose(_error_bars(figure), expected, rtol=1e-3)
    sizes = [row[0] for row in _error_bars(plots.score_vs_size(sample_report()))]
    assert sizes == [16.1, 16.2, 23.1, 23.4, 90.9]


def test_a_score_that_is_a_rounding_off_its_interval_is_drawn() -> None:
    """Of resampled equal rows: an original's cosine with itself."""
    report = sample_report()
    row = report.stages[0].deployments[0]
    off = tuple(
        s.model_copy(update={"value": 1.0, "ci_low": 1.0 + 1e-16 * 4, "ci_high": 1.0 + 1e-16 * 4})
        for s in row.scores
    )
    row = row.model_copy(update={"scores": off})
    figure, axes = pyplot.subplots()
    drawing.scatter(axes, [drawing.Point(3.5, row, "m", False)], "light")
    assert _error_bars(figure)[0][1:] == pytest.approx((1.0, 1.0, 1.0))
    pyplot.close(figure)


def test_points_are_named_directly_and_inside_the_panel() -> None:
    figure = plots.score_vs_latency(sample_report())
    assert {"torch fp32", "openvino int8", "onnxruntime int8"} <= _texts(figure)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axes in figure.axes:
        named = [text for text in axes.texts if text.get_text()]
        # Of the words alone: an annotation's own extent has its line in it.
        boxes = [Text.get_window_extent(text, renderer) for text in named]
        assert len(boxes) == 5
        assert all(axes.bbox.x0 - 1 <= box.x0 and box.x1 <= axes.bbox.x1 + 1 for box in boxes)
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])


def test_simulated_deployments_have_no_size() -> None:
    fake = deployment("torch", "int4", size_mb=0.1, scores=scores(0.8), simulated=True)
    last = quantized().model_copy(update={"deployments": (fake, *quantized().deployments)})
    report = sample_report((baseline(), last))
    assert 0.1 not in [row[0] for row in _error_bars(plots.score_vs_size(report))]
    assert len(plots.where_bytes_are(report).axes[0].get_yticks()) == 5


def test_bars_of_bytes_add_up() -> None:
    axes = plots.where_bytes_are(sample_report()).axes[0]
    widths = [c.patches[0].get_width() for c in axes.containers if isinstance(c, BarContainer)]
    totals = [dark + pale for dark, pale in zip(widths[::2], widths[1::2], strict=True)]
    np.testing.assert_allclose(totals, [90.9, 23.1, 23.4, 16.1, 16.2])
    rows = [LayerRow(name="embeddings", params=5, bytes=47_000_000)]
    rows += [LayerRow(name="layer 0", params=5, bytes=7_100_000)]
    figure = plots.where_bytes_are(rows)
    assert {"47.0", "7.1"} <= _texts(figure)


def test_the_shape_shows_what_is_left_over_what_was() -> None:
    heads, neurons = plots.per_layer_shape(sample_report()).axes
    before, kept = (
        [bar.get_height() for bar in container.patches] for container in heads.containers
    )
    assert before == [12] * 6 and kept == [3, 4, 4, 5, 4, 4]
    assert [t.get_text() for t in neurons.texts] == ["416", "448", "512", "576", "608", "512"]


def test_training_curves_draw_the_history() -> None:
    history = [{"step": s, "loss": 1 / s, "epoch": 0.1} for s in (10, 20, 30)]
    history += [{"step": 20, "eval_loss": 0.5, "eval_accuracy": 0.8, "eval_runtime": 3.0}]
    history += [{"step": 30, "train_runtime": 9.0}]
    loss, score = plots.training_curves(history).axes
    assert [list(line.get_xdata()) for line in loss.lines] == [[10, 20, 30], [20]]
    assert [list(line.get_ydata()) for line in score.lines] == [[0.8]]
    (legend,) = plots.training_curves(history).legends
    assert [text.get_text() for text in legend.get_texts()] == ["training"]
    assert len(plots.training_curves(history[:3]).axes) == 1


@pytest.mark.slow
def test_a_training_is_drawn() -> None:
    facts = {"history": [{"step": s, "loss": 1 / s, "eval_selection": 0.1 * s} for s in (1, 2)]}
    report = sample_report((baseline(), distilled().model_copy(update={"facts": facts})))
    loss, score = plots.figures(report)["training_curves"].axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1.0, 0.5]]
    assert [list(line.get_ydata()) for line in score.lines] == [[0.1, 0.2]]
    assert ">Training</figcaption>" in report.to_html()


def test_what_has_no_data_has_no_figure() -> None:
    row = deployment("torch", "fp32", size_mb=10.0)
    stage = Stage(name="00-x", method="original", params=1, encoder_params=1, deployments=(row,))
    assert tuple(plots.figures(sample_report((stage,)))) == ("where_bytes_are",)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_colour_paper_and_ink(theme: plots.Theme) -> None:
    figure = plots.per_layer_shape(sample_report(), theme)
    dark = theme == "dark"
    assert to_hex(figure.get_facecolor()) == ("#16181d" if dark else "#ffffff")
    assert to_hex(figure.axes[0].xaxis.label.get_color()) == ("#e6e6e6" if dark else "#222222")


def test_saved_figures_are_whole_and_reproducible(tmp_path: Path) -> None:
    paths = plots.save_figures(sample_report(), tmp_path / "figures")
    assert sorted(p.name for p in paths) == sorted(
        f"{n}.{k}" for n in NAMES for k in ("svg", "png")
    )
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            assert path.read_bytes().startswith(b"\x89PNG")
    for kind in ("svg", "png"):
        again = plots.figure_bytes(plots.score_vs_size(sample_report()), kind)
        assert (tmp_path / "figures" / f"score_vs_size.{kind}").read_bytes() == again


def test_no_global_state_is_touched() -> None:
    before = dict(matplotlib.rcParams)
    plots.figures(sample_report(), "dark")
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


# -- a figure stands alone


def _crowded(count: int, step: float) -> Report:
    """As many deployments on each side, all about as fast, as large and as good."""
    stages = []
    for stage in (baseline(), quantized()):
        rows = []
        for i in range(count):
            row = stage.deployments[i % 2]
            times = tuple(
                t.model_copy(update={"throughput_per_s": t.throughput_per_s * step**i})
                for t in row.latency
            )
            rows.append(row.model_copy(update={"latency": times, "precision": f"int{i}"}))
        stages.append(stage.model_copy(update={"deployments": tuple(rows)}))
    return sample_report(tuple(stages))


@pytest.mark.parametrize(("count", "step"), [(1, 1.0), (2, 1.0), (3, 1.02), (4, 1.0), (5, 1.3)])
@pytest.mark.parametrize("narrow", [False, True])
def test_no_name_can_be_taken_for_another_points(count: int, step: float, narrow: bool) -> None:
    figure = plots.score_vs_latency(_crowded(count, step), narrow=narrow)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axes in figure.axes:
        named = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]
        assert len(named) == 2 * count
        boxes = [Text.get_window_extent(text, renderer) for text in named]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
        for text, box in zip(named, boxes, strict=True):
            assert text.arrow_patch is not None  # a line leads from it to the end of an interval
            x, y = axes.transData.transform(text.xy)
            assert not box.contains(x, y)
            middle = axes.transData.transform((1, 0.866))[1]
            assert (box.y0 > middle) == (text.get_fontweight() == "normal")  # baseline above


def test_every_figure_says_what_it_is_of() -> None:
    report = sample_report()
    report = report.model_copy(update={"recipe": {"model": "/home/ann/my models/bert-$x$_y"}})
    for name, figure in plots.figures(report).items():
        title = figure.get_suptitle()
        assert "bert-$x$_y on glue/sst2" in title, name
        words = [text.get_text() for text in figure.findobj(Text)]
        assert not any(sign in word for word in words for sign in ("\\$", "$^")), name
        assert "ann" not in title, "a folder of the user's is no business of others"
        figure.canvas.draw()  # and it is no formula
    assert "Xeon Processor (model 207), 2 threads" in figures_title(report, "score_vs_latency")


def figures_title(report: Report, name: str) -> str:
    return plots.figures(report)[name].get_suptitle().replace("\n", " ")


def test_time_and_size_are_on_a_log_axis_with_a_panel_for_each_shape() -> None:
    wide, narrow = (plots.score_vs_latency(sample_report(), narrow=n) for n in (False, True))
    for figure in (wide, narrow):
        assert len(figure.axes) == 4
        assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert wide.get_figwidth() > 1.5 * narrow.get_figwidth()
    assert plots.score_vs_size(sample_report()).axes[0].get_xscale() == "log"


def test_baseline_method_and_control_are_in_one_figure() -> None:
    history = tuple({"step": s, "loss": 1 / s, "eval_selection": 0.1 * s} for s in (1, 2))
    facts = {"history": list(history)}
    first, last = (s.model_copy(update={"facts": facts}) for s in (baseline(), distilled()))
    (was,) = last.controls
    control = was.model_copy(update={"history": history})
    last = last.model_copy(update={"controls": (control,)})
    report = sample_report((first, last))
    assert list(plots.trainings(report)) == [
        "01-finetune",
        "03-distill",
        "03-distill, control (no teacher)",
    ]
    figure = plots.training_curves(report)
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(plots.trainings(report))


@pytest.mark.slow
def test_a_probe_has_its_figure() -> None:
    curves = (Curve(name="selection rows", x=(0.0, 0.5, 1.0), y=(0.1, 0.3, 0.1)),)
    fields = {"title": "A line", "words": ("No.",), "figures": {"barrier": 0.2}, "curves": curves}
    measured = Measurement(**fields, x_label="share", y_label="1 - accuracy")
    probe = baseline().model_copy(
        update={"name": "02-probe", "baseline": False, "deployments": (), "measurement": measured}
    )
    report = sample_report((baseline(), probe, quantized()))
    assert "probe_02-probe" in plots.figure_names(report)
    (axes,) = plots.figures(report)["probe_02-probe"].axes
    (line,) = axes.lines
    assert (*line.get_xdata(),) == (0.0, 0.5, 1.0) and (*line.get_ydata(),) == (0.1, 0.3, 0.1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("share", "1 - accuracy")
    assert "A line" in report.to_html()
