"""What the programs of these tests share; imported by them, in their own processes."""

from __future__ import annotations

import contextlib
import importlib.abc
import io
import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from hub.server import CONTROL

__all__ = ["as_user", "block", "command", "faults", "glue_folder", "impatient", "snippets"]

CARD = """---
license: apache-2.0
language: en
---
# tiny
"""
GLUE_CARD = """---
license: other
configs:
- config_name: mrpc
  data_files:
  - split: train
    path: mrpc/train-*
  - split: validation
    path: mrpc/validation-*
  - split: test
    path: mrpc/test-*
- config_name: sst2
  data_files:
  - split: train
    path: sst2/train-*
---
# GLUE
"""


class Block(importlib.abc.MetaPathFinder):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked in this process")
        return None


def block(*names: str) -> None:
    """Make the import of packages fail, as where they are not installed."""
    assert not set(names) & set(sys.modules)
    sys.meta_path.insert(0, Block(names))


@contextlib.contextmanager
def as_user(token: str | None) -> Iterator[None]:
    """Be somebody else for a block; None is nobody."""
    before = os.environ.pop("HF_TOKEN", None)
    if token is not None:
        os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        os.environ.pop("HF_TOKEN", None)
        if before is not None:
            os.environ["HF_TOKEN"] = before


def command(*words: object) -> dict[str, Any]:
    """Run a `bertcompress` command here, and return its status and what it said."""
    from bertcompress.cli import main as cli

    out, err = io.StringIO(), io.StringIO()
    sys.argv[1:] = [str(word) for word in words]
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return {"code": int(code or 0), "out": out.getvalue(), "err": err.getvalue()}


def faults(*faults: dict[str, Any]) -> None:
    """Let these things go wrong from now on, and no others; only our server does so."""
    address = os.environ["HF_ENDPOINT"] + CONTROL
    request = urllib.request.Request(address, json.dumps(faults).encode(), method="POST")
    urllib.request.urlopen(request).close()


def impatient() -> None:
    """Try as often as always, and hardly wait; draw no figures for what is refused."""
    from bertcompress.report import plots

    plots.figure_names = lambda report: ()
    real = time.sleep
    time.sleep = lambda seconds: real(min(seconds, 0.01))


def snippets(card: str, language: str = "python") -> list[str]:
    """Return the code of a card."""
    parts = card.split("```")
    return [p.removeprefix(f"{language}\n") for p in parts[1::2] if p.startswith(f"{language}\n")]


def glue_folder(folder: Path) -> Path:
    """Write a data set of the shape of `nyu-mll/glue`: the second text says which class it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = ["the", "a", "cat", "dog", "bird", "sleeps", "runs", "sings"]
    words += ["not", "never", "house", "tree", "red", "blue", "old", "new"]
    for split, rows in (("train", 64), ("validation", 24), ("test", 8)):
        texts = [" ".join(words[(i * k + k) % 16] for k in (1, 3, 5, 7)) for i in range(2 * rows)]
        texts[rows:] = [f"{text} {('bad', 'good')[i % 2]}" for i, text in enumerate(texts[rows:])]
        labels = [-1] * rows if split == "test" else [i % 2 for i in range(rows)]
        columns = {"sentence1": texts[:rows], "sentence2": texts[rows:], "label": labels}
        table = pa.table({**columns, "idx": list(range(rows))})
        (folder / "mrpc").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "mrpc" / f"{split}-00000-of-00001.parquet")
    (folder / "sst2").mkdir()
    one = pa.table({"sentence": ["good"], "label": [1], "idx": [0]})
    pq.write_table(one, folder / "sst2" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(GLUE_CARD, encoding="utf-8")
    return folder
