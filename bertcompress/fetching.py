"""A repository of the Hub as a local folder: downloaded once, then found in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bertcompress.errors import NotFound
from bertcompress.remote import failures, patiently, reason, status

__all__ = ["ALL_FILES", "SMALL_FILES", "TORCH_FILES", "fetch"]

SMALL_FILES = ("README.md", "*.json", "*.txt", "*.model", "*.py")
"""Config, tokenizer, card, report: what says which of the large files are wanted."""

TORCH_FILES = (*SMALL_FILES, "model*.safetensors", "0_Transformer/model*.safetensors")
"""With the second place where sentence-transformers keeps weights."""

ALL_FILES = ("*",)


def fetch(name: str, *, revision: str | None = None, files: Sequence[str] = ALL_FILES) -> Path:
    """Return the folder of a model repository, in the cache, with the files that match a pattern.

    `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` say where
    from, where to, as whom, and whether at all. Raises NotFound for a repository or revision that
    does not exist or may not be seen, for a refused token, and for a server that cannot be reached.
    """
    from huggingface_hub import snapshot_download

    where = f"model '{name}'" + (f" at revision '{revision}'" if revision else "")

    def download() -> str:
        return str(snapshot_download(name, revision=revision, allow_patterns=list(files)))

    try:
        return Path(patiently(download))
    except failures() as error:
        words = reason(error)
        if status(error) is None and isinstance(error, OSError):
            words = (
                f"no such folder here, not in the cache, and the Hub cannot be reached ({words}); "
                "give a local folder or 'embedded:minilm-l6'"
            )
        raise NotFound(f"{where}: {words}") from None
