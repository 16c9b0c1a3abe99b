"""A repository of the Hub as a local folder: downloaded once, then found in the cache."""

from __future__ import annotations

import errno
import queue
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from bertcompress.errors import CheckpointError, NotFound, Notice, OutputError
from bertcompress.hub.failures import failures, patiently, reason, status
from bertcompress.hub.integrity import check_bytes, unannounced
from bertcompress.hub.waiting import Say, SlowServer, by_xet, traffic, watched
from bertcompress.support.progress import by_hand

__all__ = ["ALL_FILES", "SMALL_FILES", "TORCH_FILES", "fetch"]

SMALL_FILES = ("README.md", "*.json", "*.txt", "*.model", "*.py")
"""Config, tokenizer, card, report: what says which of the large files are wanted."""

TORCH_FILES = (*SMALL_FILES, "model*.safetensors", "0_Transformer/model*.safetensors")
"""With the second place where sentence-transformers keeps weights."""

ALL_FILES = ("*",)

THREADS = 4
"""Files that are downloaded at a time."""
MOST_FILES = 10_000
CHUNK = 1 << 16
"""Bytes after which an arriving file is seen to grow; the client waits for 10 MB."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def _warn(line: str) -> None:
    warnings.warn(line, Notice, stacklevel=2)


def fetch(
    name: str,
    *,
    revision: str | None = None,
    files: Sequence[str] = ALL_FILES,
    whole: bool = False,
    say: Say = _warn,
) -> Path:
    """Return the folder of a model repository, in the cache, with the files that match a pattern.

    `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` say where from, where to, as whom, and
    whether at all. What was downloaded now has the bytes that the server announced; with `whole`
    everything is checked, also what was in the cache. `say` is told where a server is slow.

    Raises:
        NotFound for a repository or revision that does not exist or may not be seen, for a refused
        token, and for a server that cannot be reached or is too slow; CheckpointError for bytes
        that are not those announced, and for names that no file has.
    """
    from huggingface_hub import constants, snapshot_download

    where = f"model '{name}'" + (f" at revision '{revision}'" if revision else "")
    began = time.time()

    def download() -> str:
        return str(snapshot_download(name, revision=revision, allow_patterns=list(files)))

    try:
        if not constants.HF_HUB_OFFLINE:
            _download(name, revision, files, where, say)
        folder = Path(watched(lambda: patiently(download), what=where, say=say))
    except SlowServer as error:
        raise NotFound(f"{where}: given up, the server is too slow ({error})") from None
    except failures() as error:
        words = reason(error)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise OutputError(f"{where}: the cache cannot be written ({error.strerror})") from None  # type: ignore[attr-defined]
        if status(error) is None and isinstance(error, OSError):
            words = (
                f"no such folder here, not in the cache, and the Hub cannot be reached ({words}); "
                "give a local folder or 'embedded:minilm-l6'"
            )
        raise NotFound(f"{where}: {words}") from None
    there = [path for path in folder.rglob("*") if path.is_file()]
    check_bytes([p for p in there if whole or p.stat().st_mtime >= began - 1.0], where)
    if whole and (unknown := unannounced(there)):
        say(f"{where}: no hash was announced for {unknown[0].name}, which cannot be checked")
    return folder


@dataclass(frozen=True)
class _Listing:
    """What a repository holds at a commit."""

    commit: str
    sizes: dict[str, int]
    """Bytes, by name; 0 where the server does not tell."""


def _download(name: str, revision: str | None, files: Sequence[str], where: str, say: Say) -> None:
    """Bring what is not in the cache, in threads that nobody has to wait for.

    What cannot even be listed is left to the client, which knows how to do with what it has.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        listed = watched(
            lambda: patiently(lambda: _list(name, revision, files, where)), what=where, say=say
        )
    except SlowServer:
        raise
    except failures():
        return
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    missing = [f for f in listed.sizes if not (folder / "snapshots" / listed.commit / f).exists()]
    if not missing:
        return

    def arrived() -> int:
        if by_xet():
            return traffic()
        blobs = folder / "blobs"
        found = list(blobs.iterdir()) if blobs.is_dir() else []
        return sum(_size(path) for path in found)

    total = sum(listed.sizes[file] for file in missing)
    with _small_chunks(), by_hand("downloading", total, unit="B") as bar:
        watched(
            lambda: _in_threads(name, listed.commit, missing),
            arrived,
            what=where,
            say=say,
            moved=bar.update,
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it was moved into place
        return 0


def _list(name: str, revision: str | None, files: Sequence[str], where: str) -> _Listing:
    from huggingface_hub import HfApi

    info: Any = HfApi().model_info(name, revision=revision, files_metadata=True)
    siblings = list(info.siblings or ())
    if not _COMMIT.fullmatch(str(info.sha)) or len(siblings) > MOST_FILES:
        raise CheckpointError(
            f"{where}: the server answers nonsense: commit {info.sha}, {len(siblings):,} files"
        )
    sizes = {str(each.rfilename): max(0, int(each.size or 0)) for each in siblings}
    for file in sizes:
        _check_name(file, where)
    wanted = {f: size for f, size in sizes.items() if any(fnmatch(f, each) for each in files)}
    return _Listing(str(info.sha), wanted)


def _check_name(file: str, where: str) -> None:
    """Raise CheckpointError for a name that would lead out of a folder."""
    parts = PurePosixPath(file).parts
    if not parts or file.startswith("/") or ".." in parts or "\\" in file or len(file) > 1000:
        raise CheckpointError(f"{where}: the server lists '{file}', which is no name of a file")


def _in_threads(name: str, commit: str, missing: Sequence[str]) -> None:
    """Download files, a few at a time; the first failure is raised at once."""
    from huggingface_hub import hf_hub_download

    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for file in missing:
        waiting.put(file)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                file = waiting.get_nowait()
                patiently(lambda: hf_hub_download(name, file, revision=commit))  # noqa: B023
        except queue.Empty:
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    count = min(THREADS, len(missing))
    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(count):
        if (error := ended.get()) is not None:
            stop.set()
            raise error


@contextmanager
def _small_chunks() -> Iterator[None]:
    """Let the client write what arrives soon, so that it can be seen to arrive."""
    from huggingface_hub import constants

    library: Any = constants
    before = library.DOWNLOAD_CHUNK_SIZE
    library.DOWNLOAD_CHUNK_SIZE = min(before, CHUNK)
    try:
        yield
    finally:
        library.DOWNLOAD_CHUNK_SIZE = before
