"""Write what follows from code and results: schemas, tables of results, pages of reference.

Run it after changing a setting of a method, a field of a task, a row of the report, a file of the
package, or a result in `benchmarks/results/`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from bertcompress.recipe import recipe_schema  # noqa: E402
from bertcompress.task import task_schema  # noqa: E402

PAGES = (
    "example_page",
    "method_rows",
    "reference_pages",
    "report_reference",
    "result_tables",
    "rooms_page",
)
"""Modules of this folder, each with `documents()`."""


def documents() -> dict[Path, str]:
    """Return the content that every generated file ought to have."""
    schemas = {"recipe.schema.json": recipe_schema(), "task.schema.json": task_schema()}
    texts = {FOLDER / name: json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}
    for page in PAGES:
        texts |= importlib.import_module(page).documents()
    return texts


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
