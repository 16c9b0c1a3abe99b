"""A tensor in a file of safetensors that is written row by row: it may be larger than memory.

The package itself writes a tensor only whole, from memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bertcompress.errors import OutputError

__all__ = ["StoredRows"]

_NUMBER = 4


class StoredRows:
    """A float32 tensor of a known shape, whose rows come in any order."""

    def __init__(
        self, path: Path, name: str, shape: tuple[int, int], metadata: Mapping[str, str]
    ) -> None:
        self._path = path
        self._row = _NUMBER * shape[1]
        whole = self._row * shape[0]
        entry = {"dtype": "F32", "shape": [*shape], "data_offsets": [0, whole]}
        header = json.dumps({"__metadata__": dict(metadata), name: entry}).encode()
        header += b" " * (-len(header) % 8)  # numbers begin at multiples of eight bytes
        self._first = 8 + len(header)
        try:
            self._file = path.open("wb")
            self._file.write(len(header).to_bytes(8, "little") + header)
            self._file.truncate(self._first + whole)
        except OSError as error:
            raise self._failed(error) from None

    def put(self, place: int, rows: Tensor) -> None:
        """Write rows from a place on. Shape: (K,) or (n, K). Raises OutputError: no room."""
        try:
            self._file.seek(self._first + place * self._row)
            self._file.write(rows.contiguous().numpy().tobytes())
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """End the file."""
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self._path}: cannot be written ({error.strerror or error})")
