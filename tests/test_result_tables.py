"""The tables of results in the pages are what the results say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

import result_tables  # noqa: E402

CELLS = result_tables.desk_cells()


def test_every_table_of_results_is_in_a_page_and_up_to_date():
    documents = result_tables.documents()
    for path, text in documents.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run docs/generate.py"
    used = {name for text in documents.values() for _, name, _ in result_tables.BLOCK.findall(text)}
    assert used == set(result_tables.TABLES)


def test_a_figure_that_was_edited_by_hand_is_put_right():
    page = "before\n<!-- table: recipes -->\n| `small` | 15.4 |\n<!-- /table -->\nafter\n"
    text = result_tables.filled(page)
    assert "15.4" not in text and "| `small` | 15.5 |" in text
    assert text.startswith("before\n<!--") and text.endswith("-->\nafter\n")


def test_a_table_that_nobody_makes_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        result_tables.filled("<!-- table: nothing -->\n<!-- /table -->")


def test_sizes_and_minutes_are_those_of_the_cells():
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]]
            for line in result_tables.recipes_table().splitlines()[2:]}  # fmt: skip
    body = next(b for b in CELLS["small"] if (b["task"], b["seed"]) == ("sst2", 0))
    stages = {stage["name"]: stage for stage in body["report"]["stages"]}
    file = next(d for d in stages["04-quantize_int8"]["deployments"] if d["runtime"] == "openvino")
    seconds = [stages[name]["cost"]["seconds"] for name in stages if name != "01-finetune"]
    assert rows["small"][0] == f"{file['size_mb']:.1f}"
    assert rows["small"][4] == f"{sum(seconds) / 60:.0f}"
    assert result_tables.fastest("a recipe that nobody timed") == "not measured"
    where = ("no-training", "shipped OpenVINO int8", "fixed lengths", 128)
    ratios = [result_tables.over_best_dense(*where, batch).ratio for batch in (1, 8)]
    assert rows["no-training"][1] == " / ".join(f"{ratio:.1f}" for ratio in ratios)


def test_speed_is_over_the_fastest_dense_deployment_and_withheld_where_rounds_spread():
    (path,) = result_tables.RESULTS.glob("speed-small-*.json")
    rows = [row for row in json.loads(path.read_text("utf-8"))["rows"]
            if (row["texts"], row["batch"]) == ("glue/sst2", 1)]  # fmt: skip
    times = {row["candidate"]: row["throughput_per_s"] for row in rows}
    best = max(value for name, value in times.items() if name.startswith("dense"))
    claim = result_tables.over_best_dense(
        "small", "shipped ONNX Runtime int8", "glue/sst2", "task", 1
    )
    assert claim.ratio == times["shipped ONNX Runtime int8"] / best > 2
    noisy = result_tables.over_best_dense(
        "small", "shipped ONNX Runtime int8", "glue/mnli", "task", 1
    )
    assert noisy.ratio > 2 and result_tables.claim(noisy) == "not measurable there"


def test_rows_say_which_seeds_they_lack():
    assert result_tables.seeds_note(["small, OpenVINO int8"]) == ""
    assert result_tables.seeds_note(["albert-small, OpenVINO int8"]) == " (MNLI: one seed)"
    alone = result_tables.seeds_note(["control: three groups, no teacher"])
    assert alone == " (STS-B and SST-2, one seed)"
