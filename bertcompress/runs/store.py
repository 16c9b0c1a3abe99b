"""The stage store: a finished stage is found again by a hash of everything that determines it.

Layout: `<root>/stages/<key>/entry.json` and `<root>/stages/<key>/content/`. An entry is written to
a temporary sibling and renamed, so it is there whole or not at all; `entry.json` lists each file
with its size, so an entry that was damaged later is noticed. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertcompress.errors import OutputError
from bertcompress.support.files import files_below, is_leftover, remove, sibling, write_atomically

__all__ = [
    "StageStore",
    "StoredStage",
    "default_root",
    "stage_key",
]

DEFAULT_BOUND_GB = 20.0
_KEY = re.compile(r"[0-9a-f]{64}")
_STALE_AFTER_S = 86_400.0


def stage_key(parts: Mapping[str, Any]) -> str:
    """Return the hash that identifies a stage; the order of `parts` does not matter.

    `parts` is JSON-plain: what is not (paths, tensors, NaN) raises TypeError or ValueError.
    """
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class StoredStage:
    """One entry of the store."""

    key: str
    name: str
    """What `put` was told under `name`, or an empty string."""
    size_mb: float
    """Megabytes (10^6 bytes) of its files."""
    created: datetime
    last_used: datetime
    path: Path
    """The folder with the files of the stage."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """What `put` was told: cost, settings, versions."""


_Entries = list[StoredStage]  # inside the class `list` is the method


def default_root() -> Path:
    """Return where the store lives: `BERTCOMPRESS_HOME`, else `~/.cache/bertcompress`."""
    home = os.environ.get("BERTCOMPRESS_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "bertcompress"


def _bound_bytes(bound_gb: float | None) -> float:
    text = os.environ.get("BERTCOMPRESS_STORE_GB", "")
    if bound_gb is None:
        try:
            bound_gb = float(text) if text else DEFAULT_BOUND_GB
        except ValueError:
            bound_gb = -1.0
    if not bound_gb >= 0:
        raise OutputError(f"BERTCOMPRESS_STORE_GB: '{text}' is not a number of gigabytes >= 0")
    return bound_gb * 1e9


class StageStore:
    """A folder of finished stages, bounded in size; the least recently used go first.

    Several processes may use one store. What `get` returns may be evicted later by another
    process: load or copy it at once.
    """

    def __init__(self, root: Path | None = None, bound_gb: float | None = None) -> None:
        """Open the store; nothing is created before the first `put`.

        `bound_gb`: gigabytes (10^9 bytes), >= 0; default `BERTCOMPRESS_STORE_GB`, else 20.
        """
        self.root = (root or default_root()) / "stages"
        self.bound_bytes = _bound_bytes(bound_gb)

    def get(self, key: str) -> Path | None:
        """Return a stage's folder and mark it as used now, or None; a damaged one is removed."""
        entry = self._read(key)
        if entry is None:
            return None
        with contextlib.suppress(OSError):  # a read-only store still serves
            os.utime(entry.path.parent / "entry.json")
        return entry.path

    def info(self, key: str) -> Mapping[str, Any]:
        """Return what `put` was told about a stage; empty where it is not there."""
        entry = self._read(key)
        return entry.info if entry else {}

    def put(self, key: str, folder: Path, info: Mapping[str, Any]) -> Path:
        """Copy a stage into the store, evict what is over size, and return its folder there.

        `info` is JSON-plain; its `name` is shown by `list`. Where another process was first, its
        copy stays. Raises OutputError where the store cannot be written to.
        """
        present = self._read(key)
        if present is None:
            with contextlib.suppress(_LostRace), _losing(self._entry(key)) as temporary:
                shutil.copytree(folder, temporary / "content")
                entry = {
                    "key": key,
                    "created": datetime.now(UTC).isoformat(),
                    "info": dict(info),
                    "files": _sizes(temporary / "content"),
                }
                (temporary / "entry.json").write_text(json.dumps(entry), encoding="utf-8")
        self._evict(spare=key)
        return self._entry(key) / "content"

    def list(self) -> _Entries:
        """Return the entries, most recently used first; damaged ones are removed."""
        keys = [p.name for p in self.root.iterdir()] if self.root.is_dir() else []
        entries = [self._read(key) for key in keys if _KEY.fullmatch(key)]
        found = [entry for entry in entries if entry is not None]
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def clear(self, older_than_days: float | None = None) -> int:
        """Remove entries not used for so many days (all by default); return how many."""
        limit = None if older_than_days is None else time.time() - older_than_days * 86_400
        doomed = [e for e in self.list() if limit is None or e.last_used.timestamp() < limit]
        for entry in doomed:
            self._discard(entry.key)
        return len(doomed)

    def _entry(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"'{key}' is no stage key: expected 64 hexadecimal digits")
        return self.root / key

    def _read(self, key: str) -> StoredStage | None:
        folder = self._entry(key)
        if not folder.is_dir():
            return None
        try:
            record = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            if record["key"] != key or _sizes(folder / "content") != record["files"]:
                raise ValueError("the files are not those that were stored")
            return StoredStage(
                key=key,
                name=str(record["info"].get("name", "")),
                size_mb=sum(record["files"].values()) / 1e6,
                created=datetime.fromisoformat(record["created"]),
                last_used=datetime.fromtimestamp((folder / "entry.json").stat().st_mtime, UTC),
                path=folder / "content",
                info=record["info"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._discard(key)
            return None

    def _discard(self, key: str) -> None:
        doomed = sibling(self._entry(key), "old")
        # Renamed first: nobody ever reads an entry that is being deleted.
        with contextlib.suppress(OSError):
            self._entry(key).rename(doomed)
            remove(doomed)

    def _evict(self, spare: str) -> None:
        entries = self.list()
        total = sum(entry.size_mb for entry in entries) * 1e6
        for entry in reversed(entries):
            if total > self.bound_bytes and entry.key != spare:
                self._discard(entry.key)
                total -= entry.size_mb * 1e6
        for path in self.root.iterdir():
            with contextlib.suppress(OSError):
                stale = time.time() - path.stat().st_mtime > _STALE_AFTER_S
                if stale and is_leftover(path):
                    remove(path)


class _LostRace(Exception):
    """Another process stored the same stage first."""


@contextlib.contextmanager
def _losing(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target`, unless somebody else's is there by then."""
    try:
        with write_atomically(target) as temporary:
            temporary.mkdir()
            yield temporary
    except (OutputError, OSError) as error:
        if target.is_dir():
            raise _LostRace from error
        raise


def _sizes(folder: Path) -> dict[str, int]:
    files = files_below(folder)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
