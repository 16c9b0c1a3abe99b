"""Folders as people have them: what a test changes in a saved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests_support import tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.cli.main import main

Tensors = dict[str, torch.Tensor]


def saved(
    folder: Path, family: str = "bert", head: str = "ForSequenceClassification", **fields: Any
) -> Path:
    """A tiny random model with its tokenizer."""
    return bc.save(tiny_model(family, head, **fields), folder, tiny_tokenizer())


def change_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, *gone: str, **fields: Any) -> None:
    written = json.loads(path.read_text(encoding="utf-8")) | fields
    kept = {key: value for key, value in written.items() if key not in gone}
    path.write_text(json.dumps(kept), encoding="utf-8")


def change_config(folder: Path, *gone: str, **fields: Any) -> None:
    change_json(folder / "config.json", *gone, **fields)


def command(*arguments: Any, capsys: Any, monkeypatch: Any) -> tuple[int, str]:
    """Run the command line; return its status and what it said, in one line."""
    monkeypatch.setattr("sys.argv", ["bertcompress", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    caught = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((caught.out + caught.err).split())
