"""What a machine runs out of, in words: disk, memory, open files, rights.

Libraries say it in their own ways, and often without a number: one table knows them.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Iterator

from bertcompress.errors import OutputError
from bertcompress.wording import NAME, plain

__all__ = ["check_temporary", "machine_words"]

MEMORY = "out of memory; try a smaller batch_size, or gradient_checkpointing"
FULL = "make room, or choose another place"
FILE_LIMIT = "a file may not become that large here (ulimit -f)"
OPEN_LIMIT = "raise the limit on open files (ulimit -n)"
NO_SCRATCH = "no temporary folder can be written to; make room, or set TMPDIR to one"

NUMBERS: dict[int, str] = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FILE_LIMIT,
    errno.EMFILE: OPEN_LIMIT,
    errno.ENFILE: OPEN_LIMIT,
    errno.EROFS: "",
    errno.EACCES: "",
    errno.EPERM: "",
    errno.ENOTDIR: "",
    errno.ENAMETOOLONG: "",
    errno.EIO: "",
    errno.ELOOP: "",
    errno.ESTALE: "",
}
"""What is wrong with a place or a limit, and not with this program: error number and advice."""

CAUSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE})
"""Those that explain whatever error they led to."""

WORDINGS: tuple[tuple[str, str], ...] = (
    (r"No usable temporary directory", NO_SCRATCH),
    (r"No space left on device|os error 28\b|not enough space", f"the disk is full; {FULL}"),
    (r"[Dd]isk quota exceeded|os error 122\b", f"the disk quota is used up; {FULL}"),
    (r"File too large|os error 27\b", FILE_LIMIT),
    (r"Too many open files|os error 24\b", f"too many open files; {OPEN_LIMIT}"),
    (r"inline_container\.cc|\d+ requested and \d+ written", f"a file cannot be written; {FULL}"),
    (r"(?i)out of memory|allocate memory|bad_alloc|bad allocation|os error 12\b", MEMORY),
    (r"can't start new thread|could not create a primitive", MEMORY),
    (r"failed to map segment", "out of memory: a library cannot be loaded"),
)
"""How libraries write it (safetensors, torch, ONNX Runtime, pyarrow, the loader), and our words."""


def machine_words(error: BaseException) -> str | None:
    """Return one line for an error that is the machine's; None for any other."""
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return _of_number(error)
    if isinstance(error, OSError | RuntimeError | ImportError) or _foreign(error):
        for pattern, words in WORDINGS:
            if re.search(pattern, str(error)):
                return words
    for cause in _causes(error):
        if isinstance(cause, MemoryError):
            return MEMORY
        if isinstance(cause, OSError) and cause.errno in CAUSES:
            return _of_number(cause)
    return None


def check_temporary() -> None:
    """Raise OutputError where there is no temporary folder, which timing and training need."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise OutputError(NO_SCRATCH) from None


def _of_number(error: OSError) -> str:
    place = plain(error.filename or "disk", NAME)  # what is wrong stands behind it
    advice = NUMBERS[error.errno or 0]
    return f"{place}: {error.strerror}" + (f"; {advice}" if advice else "")


def _foreign(error: BaseException) -> bool:
    """Return whether an error is of a library's own class: those of Python's are bugs here."""
    return type(error).__module__ not in ("builtins", "bertcompress.errors")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    step = error.__cause__ or error.__context__
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or step.__context__
