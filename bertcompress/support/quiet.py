"""Keeps the libraries below us from talking over our own lines; ours is heard."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertcompress.errors import Notice

__all__ = ["quiet", "silence"]

_TALKATIVE = ("nncf", "openvino", "onnxruntime", "torch.onnx", "huggingface_hub")
_HABITUAL = (UserWarning, DeprecationWarning, FutureWarning)


def silence() -> None:
    """Silence them for the rest of the process: what the command line does."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    verbosity: Any = transformers.utils.logging
    verbosity.set_verbosity_error()
    verbosity.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in _HABITUAL:
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("default", category=Notice)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence them for a block, and leave the caller's own settings as they were."""
    import datasets
    import transformers

    verbosity: Any = transformers.utils.logging
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    before = verbosity.get_verbosity(), datasets.utils.logging.get_verbosity()
    bars = verbosity.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        silence()
        try:
            yield
        finally:
            verbosity.set_verbosity(before[0])
            datasets.utils.logging.set_verbosity(before[1])
            if bars[0]:
                verbosity.enable_progress_bar()
            if not bars[1]:
                datasets.enable_progress_bars()
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
