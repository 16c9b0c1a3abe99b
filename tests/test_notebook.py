"""The notebooks run from top to bottom, and what is committed is the output of such a run."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
QUICKSTART = NOTEBOOKS[0]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook) -> str:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    streams = [output.text for output in outputs if output.output_type == "stream"]
    return "\n".join([*streams, *(str(o.data) for o in outputs if "data" in o)])


def test_committed_with_the_output_of_one_run(notebook, path):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    drawn = [cell for cell in cells if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert len(drawn) == sum("plots." in cell.source for cell in cells)
    assert path != QUICKSTART or len(drawn) >= 4


def test_nothing_of_the_machine_it_ran_on(notebook):
    text = texts(notebook)
    assert not re.search(r"/(home|root|tmp|opt|work|Users)/|site-packages|\w:\\\\", text)
    assert not [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]


@pytest.mark.slow
# The client keeps an event loop of its own; what it leaves open is not about the notebook.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_runs_from_top_to_bottom(notebook, path, tmp_path, monkeypatch, minilm):
    from nbclient import NotebookClient

    for name, value in (("LIMIT", "96"), ("EPOCHS", "1"), ("SECONDS", "0.2")):
        monkeypatch.setenv(f"BERTCOMPRESS_NOTEBOOK_{name}", value)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert len([*(tmp_path / "runs").glob("*/report.json")]) == 1
    assert path != QUICKSTART or "ForSequenceClassification" in texts(notebook)
    assert "onnxruntime int8" in texts(notebook)
