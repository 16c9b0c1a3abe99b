"""Columns that may be larger than memory: written piece by piece, kept in a file past a size.

A column that is in a file is mapped: it reads as any other, and the system may drop what is not in
use. Files are in the cache of `datasets`; those without a name vanish with the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import OutputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SpooledNumbers", "spooled_texts"]

IN_MEMORY = 32_000_000
"""Bytes of a column that are kept in memory at most."""


class SpooledNumbers:
    """A column of whole numbers, gathered piece by piece.

    In a file it has the narrower type `on_disk`, which has to hold every number.
    """

    def __init__(self, on_disk: type[np.signedinteger[Any]]) -> None:
        self._on_disk = np.dtype(on_disk)
        self._pieces: list[NDArray[np.int64]] = []
        self._count = 0
        self._file: IO[bytes] | None = None

    def append(self, numbers: NDArray[np.int64]) -> None:
        """Add numbers behind those that there are. Shape: (n,). Raises OutputError: no room."""
        self._count += len(numbers)
        self._pieces.append(numbers)
        if self._file is not None or 8 * self._count > IN_MEMORY:
            self._write()

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=_folder())  # noqa: SIM115
            for piece in self._pieces:
                self._file.write(piece.astype(self._on_disk).tobytes())
        except OSError as error:
            raise _no_room(error) from None
        self._pieces = []

    def whole(self) -> NDArray[Any]:
        """Return all of them, mapped where they are in a file. Shape: (N,)."""
        if self._file is None:
            return np.concatenate([np.zeros(0, np.int64), *self._pieces])
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from None
        return np.memmap(self._file, self._on_disk, mode="r", shape=(self._count,))

    def close(self) -> None:
        """Let go of the file; what is mapped stays readable."""
        if self._file is not None:
            self._file.close()


def spooled_texts(
    batches: Iterable[pa.Array | Sequence[str | None]], key: str | None = None
) -> pa.ChunkedArray:
    """Return a column of texts, gathered batch by batch; mapped where it is in a file.

    `key`: what the texts are made of, all of it. They are then found in the cache instead of read
    again, if they are many. None: no other process has a use for them. Raises OutputError where
    there is no room for the file, and what the batches raise.
    """
    cache = None if key is None else _cache()
    kept = cache and cache / f"{sha256(str(key).encode()).hexdigest()[:32]}.arrow"
    if kept is not None and (found := _found(kept)) is not None:
        return found
    spool = _Texts(kept)
    try:
        for batch in batches:
            spool.append(batch)
        return spool.whole()
    finally:
        spool.close()


class _Texts:
    """Texts on their way into memory or, past a size, into a file."""

    def __init__(self, kept: Path | None) -> None:
        self._kept = kept
        self._pieces: list[pa.Array] = []
        self._bytes = 0
        self._path: Path | None = None
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None

    def append(self, batch: pa.Array | Sequence[str | None]) -> None:
        """Add texts behind those that there are."""
        import pyarrow as pa

        piece = batch if isinstance(batch, pa.Array) else pa.array(batch, pa.string())
        self._pieces.append(piece)
        self._bytes += piece.nbytes
        if self._writer is not None or self._bytes > IN_MEMORY:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        try:
            if self._writer is None:
                schema = pa.schema([("text", self._pieces[0].type)])
                number, name = tempfile.mkstemp(suffix=".partial", dir=_folder())
                os.close(number)
                self._path = Path(name)
                self._writer = pa.ipc.new_stream(name, schema)
            for piece in self._pieces:
                self._writer.write_batch(pa.record_batch([piece], ["text"]))
        except OSError as error:
            raise _no_room(error) from None
        self._pieces = []

    def whole(self) -> pa.ChunkedArray:
        """Return all of them."""
        import pyarrow as pa

        if self._writer is None or self._path is None:
            kind = self._pieces[0].type if self._pieces else pa.string()
            return pa.chunked_array(self._pieces, kind)
        self._writer.close()
        if self._kept is None:
            return _mapped(self._path)
        os.replace(self._path, self._kept)  # whole, or not there: others may look for it
        return _mapped(self._kept)

    def close(self) -> None:
        """Remove a file that nobody looks for; what is mapped stays readable."""
        if self._writer is not None:
            self._writer.close()
        if self._path is not None:
            with suppress(OSError):  # in use, on Windows; replaced, where it is kept
                self._path.unlink()


def _found(path: Path) -> pa.ChunkedArray | None:
    """Return what is kept in a file; None where it is not there, or damaged."""
    import pyarrow as pa

    try:
        return _mapped(path)
    except (OSError, pa.ArrowInvalid):
        return None


def _mapped(path: Path) -> pa.ChunkedArray:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all().column(0)


def _cache() -> Path | None:
    """Return the folder of such files in the cache of `datasets`; None: it cannot be written."""
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / "bertcompress"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def _folder() -> Path:
    return _cache() or Path(tempfile.gettempdir())


def _no_room(error: OSError) -> OutputError:
    return OutputError(
        f"{_folder()}: data that are larger than memory cannot be written there "
        f"({error.strerror or error}); set HF_DATASETS_CACHE to a folder with room"
    )
