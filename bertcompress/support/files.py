"""Files written whole or not at all, and what names, digests and removes them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from bertcompress.errors import OutputError

__all__ = [
    "artefact_digest",
    "copy_linked",
    "file_digest",
    "files_below",
    "is_leftover",
    "remove",
    "remove_leftovers",
    "sibling",
    "write_atomically",
]

_TEMPORARY = re.compile(r"\..+\.(?:tmp|old)-[0-9a-f]{12}")
_LONGEST_NAME = 255
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def file_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 of files, folders included: their names below each path and their bytes."""
    digest = hashlib.sha256()
    for path in paths:
        for file in files_below(path) if path.is_dir() else [path]:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def artefact_digest(path: Path) -> str:
    """Return the sha256 of a folder, or of a file and what lies beside it under its name."""
    if path.is_dir():
        return file_digest([path])
    return file_digest(sorted(each for each in path.parent.iterdir() if each.stem == path.stem))


def files_below(folder: Path) -> list[Path]:
    """Return all files of a folder and of the folders in it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def write_atomically(target: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a path beside `target`; it becomes `target` on success and is removed on failure.

    The body creates it, as a file or as a folder. An existing file is replaced; an existing folder
    only with `replace=True`. Raises OutputError where the place cannot be written to.
    """
    if target.name in ("", ".."):
        target = target.resolve()
    if not target.name:
        raise OutputError(f"{target}: is there already; name a folder or a file in it")
    _refuse_existing(target, replace)
    temporary = sibling(target, "tmp")
    if len(os.fsencode(temporary.name)) > _LONGEST_NAME:
        raise OutputError(f"{target.name[:40]}...: this name is too long to be written safely")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        _let_others_read(temporary)
        _move_into_place(temporary, target, replace)
    except shutil.Error as error:  # of copytree, with one entry per file that failed
        raise OutputError(f"{target}: cannot be written: {error.args[0][0][-1]}") from error
    except OSError as error:
        denied = isinstance(error, PermissionError) and error.filename == str(temporary)
        if error.errno in _CANNOT_WRITE or denied:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
        raise
    finally:
        remove(temporary)


def _let_others_read(made: Path) -> None:
    """Give what was made the modes that the user's umask gives a new file.

    Some libraries write for the owner alone, and a server often runs as somebody else.
    """
    probe = sibling(made, "tmp")
    try:
        probe.touch()
        usual = probe.stat().st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)
    for path in files_below(made) if made.is_dir() else [made]:
        before = path.stat().st_mode & 0o777
        if not path.is_symlink() and before | usual != before:
            path.chmod(before | usual)


def sibling(target: Path, purpose: str) -> Path:
    """Return a new name beside `target`: `.name.tmp-0123456789ab`; `purpose` is tmp or old."""
    return target.with_name(f".{target.name}.{purpose}-{secrets.token_hex(6)}")


def _refuse_existing(target: Path, replace: bool) -> None:
    if target.is_dir() and not replace and any(target.iterdir()):
        raise OutputError(f"{target}: this folder exists and is not empty; choose another one")


def _move_into_place(temporary: Path, target: Path, replace: bool) -> None:
    if temporary.is_dir() and target.is_file():
        raise OutputError(f"{target}: is a file; a folder was to be written there")
    if not temporary.is_dir() or not target.is_dir():
        os.replace(temporary, target)
        return
    _refuse_existing(target, replace)
    old = sibling(target, "old")
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    remove(old)


def remove_leftovers(folder: Path) -> None:
    """Remove from `folder` what killed writers left; only for a folder nobody writes to now."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_leftover(path):
            remove(path)


def copy_linked(source: Path, target: Path) -> None:
    """Copy a folder whole or not at all; files get a second name where the disk can."""
    with write_atomically(target) as copied:
        shutil.copytree(source, copied, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def is_leftover(path: Path) -> bool:
    """Return whether a name is one that `sibling` gave."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove(path: Path) -> None:
    """Remove a file or a folder that may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
