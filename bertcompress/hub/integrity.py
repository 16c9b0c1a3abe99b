"""Whether downloaded bytes are those that were announced: by sha256, or as git names a blob."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bertcompress.errors import CheckpointError

__all__ = ["check_bytes", "unannounced"]

_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
CHUNK = 1 << 20


def check_bytes(files: Iterable[Path], where: str) -> None:
    """Raise CheckpointError for a file of the client's cache whose bytes have another hash.

    The cache keeps each under the hash that the server announced: sha256 of a large file, the name
    of the git blob of a small one. A wrong one is removed from the cache, so that another try gets
    it anew.
    """
    for link, blob in _blobs(files):
        found = _hash(blob)
        if found != blob.name:
            link.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
            raise CheckpointError(
                f"{where}: the bytes of {link.name} are not those that were announced (hash "
                f"{found[:12]}... instead of {blob.name[:12]}...); nothing was kept. Try again; if "
                "it stays so, something between here and the server changes files"
            )


def unannounced(files: Iterable[Path]) -> list[Path]:
    """Return the files whose hash the cache does not know: of a server that announced none."""
    known = {link for link, _ in _blobs(files)}
    return [file for file in files if file not in known]


def _blobs(files: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    for file in files:
        blob = file.resolve()
        if _SHA256.fullmatch(blob.name) or _SHA1.fullmatch(blob.name):
            yield file, blob


def _hash(blob: Path) -> str:
    """Return the hash of a file, of the kind that its name is."""
    large = len(blob.name) == 64
    digest = hashlib.sha256() if large else hashlib.sha1(usedforsecurity=False)
    if not large:
        digest.update(b"blob %d\0" % blob.stat().st_size)
    with blob.open("rb") as stream:
        while part := stream.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()
