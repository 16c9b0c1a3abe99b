"""Files from outside, read within bounds: JSON and arrays, of so many bytes and so deep at most.

What is larger, or says that it unpacks to more, is refused before it is read.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import CheckpointError, InputError

__all__ = ["read_arrays", "read_json", "read_text"]

TEXT_BYTES = 64_000_000
"""Of a JSON or text file; the largest tokenizers have 35 MB."""
ARRAY_BYTES = 256_000_000
"""Of all arrays of a file, unpacked."""
ARRAYS = 1_000
LEVELS = 100
"""Of nested lists and objects."""


def read_text(path: Path, limit: int = TEXT_BYTES) -> str:
    """Return a UTF-8 file; raises InputError for what is larger, or no such text.

    OSError stays, of a file that is not there or may not be read.
    """
    try:
        return _read(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from None


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"{path}: more than {limit / 1e6:,.0f} MB; a file of this kind is smaller")
    return raw


def read_json(path: Path, limit: int = TEXT_BYTES) -> Any:
    """Return what a JSON file holds; raises InputError for what is no JSON, too large or too deep.

    OSError stays, of a file that is not there or may not be read.
    """
    raw = _read(path, limit)
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        words = "nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: not JSON ({words})") from None
    if _deeper(value, LEVELS):
        raise InputError(f"{path}: nested more than {LEVELS} levels deep")
    return value


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)


def read_arrays(path: Path, limit: int = ARRAY_BYTES) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file; raises CheckpointError for one that is damaged.

    Sizes are checked by the headers before anything is unpacked: what an array claims, what its
    entry claims, and what all of them claim together.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if len(entries) > ARRAYS or total > limit:
                raise CheckpointError(
                    f"{path}: unpacks to {len(entries):,} arrays of {total / 1e6:,.0f} MB; "
                    f"allowed: {ARRAYS:,} of {limit / 1e6:,.0f} MB"
                )
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise CheckpointError(f"{path}: damaged (an array is there twice)")
            return {e.filename.removesuffix(".npy"): _array(archive, e, path) for e in entries}
    except CheckpointError:
        raise
    except Exception as error:  # zipfile and numpy have one class per kind of damage
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    """Return one array whose header claims no more bytes than its entry has."""
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
        if dtype.hasobject or dtype.kind not in "biufU" or min(shape, default=0) < 0:
            raise CheckpointError(f"{path}: '{entry.filename}' is no array of numbers ({dtype})")
        size = math.prod(shape) * dtype.itemsize
        if size > entry.file_size:
            raise CheckpointError(
                f"{path}: damaged ('{entry.filename}' claims {size:,} bytes, its entry has "
                f"{entry.file_size:,})"
            )
        raw = stream.read(size)
    if len(raw) < size:
        raise CheckpointError(f"{path}: damaged ('{entry.filename}' is cut short)")
    found = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return found.copy()
