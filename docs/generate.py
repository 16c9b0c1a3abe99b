"""Write the JSON schemas, the tables in `docs/report.md`, and `docs/rooms.md`.

Run it after changing a setting of a method, a field of a task, a row of the report,
or a file of the package.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from method_rows import documents as method_documents  # noqa: E402
from report_reference import documents as report_documents  # noqa: E402
from rooms_page import documents as rooms_documents  # noqa: E402

from bertcompress.recipe import recipe_schema  # noqa: E402
from bertcompress.task import task_schema  # noqa: E402


def documents() -> dict[Path, str]:
    """Return the content that every generated file ought to have."""
    schemas = {"recipe.schema.json": recipe_schema(), "task.schema.json": task_schema()}
    texts = {FOLDER / name: json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}
    return {**method_documents(), **report_documents(), **rooms_documents(), **texts}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
