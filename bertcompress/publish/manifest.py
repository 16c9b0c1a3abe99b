"""What of a run's folder is the run's own: `manifest.json`, written when a run is finished.

Whatever else lies there (a `.env`, a notebook, a link to a key) was put there by somebody, for
other ends than to be published.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertcompress.deployment import KNOWN_ANSWERS_FILE, SERVE_FILE, Layout
from bertcompress.errors import InputError
from bertcompress.support.files import write_atomically
from bertcompress.support.reading import read_json

__all__ = ["own_files", "strangers", "write_manifest"]

FORMAT = 1
KEPT_HERE = tuple(path.as_posix() for path in Layout().kept_here)
"""Intermediate models, and the baseline's files, which others have already: never published."""

_RUN = Layout()
_TOP = tuple(path.as_posix() for path in _RUN.documents)
_OF_RUNTIMES = "|".join(path.as_posix() for path in (_RUN.onnx, _RUN.openvino, _RUN.bf16))
_BESIDE_A_MODEL = (
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|"
    r"special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt|"
    rf"(spm|spiece|sentencepiece\.bpe)\.(model|vocab)|{re.escape(KNOWN_ANSWERS_FILE)}|README\.md|"
    r"modeling_bertcompress\.py|chat_template\.jinja"
)
_KNOWN = re.compile(
    rf"{_RUN.model}/(model[\w-]*\.safetensors|model\.safetensors\.index\.json|{_BESIDE_A_MODEL})|"
    rf"({_OF_RUNTIMES})/(model\w*\.onnx(_data|\.data)?|model[\w-]*\.safetensors|"
    rf"{re.escape(SERVE_FILE)}|"
    rf"{_BESIDE_A_MODEL})|"
    rf"{_RUN.figures}/\w+\.(svg|png)"
)
"""What runs wrote before they kept a manifest."""


class _Manifest(BaseModel):
    """What `manifest.json` holds."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: int = Field(ge=1)
    files: list[str] = Field(max_length=10_000)


def write_manifest(run: Path, folders: Iterable[str]) -> Path:
    """Write `manifest.json`: every plain file in these folders of a run, and its reports."""
    inside = [name for folder in folders for name in _walk(run, run / folder)]
    files = sorted({*inside, *(name for name in _TOP if (run / name).is_file())})
    target = Layout(run).manifest
    with write_atomically(target) as temporary:
        held = _Manifest(format=FORMAT, files=files)
        temporary.write_text(held.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return target


def own_files(run: Path) -> list[str]:
    """Return the run's own files, relative to its folder: plain ones that its manifest lists.

    Of a run without a manifest those that runs are known to write. Raises InputError for a manifest
    that cannot be read, and for one that names what is no file inside the run.
    """
    manifest = Layout(run).manifest
    if not manifest.is_file():
        return [name for name in _walk(run, run) if name in _TOP or _KNOWN.fullmatch(name)]
    try:
        held = _Manifest.model_validate(read_json(manifest))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{manifest}: {place}: {first['msg']}") from None
    for name in held.files:
        if not _inside(name):
            raise InputError(f"{manifest}: '{name}' is no file of a run")
    return [name for name in sorted(set(held.files)) if _is_plain(run, name)]


def strangers(run: Path, own: Iterable[str]) -> list[str]:
    """Return what lies in a run and is not its own, links included; none of it is followed."""
    known = {*own, _RUN.manifest.name}
    return [name for name in _walk(run, run, plain_only=False) if name not in known]


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)
    return bool(parts) and not (name.startswith("/") or hidden or parts[0] in KEPT_HERE)


def _is_plain(run: Path, name: str) -> bool:
    """Return whether a path is a file that no link leads to."""
    parts = PurePosixPath(name).parts
    on_the_way = [run.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
    return not any(map(os.path.islink, on_the_way)) and on_the_way[-1].is_file()


def _walk(run: Path, start: Path, *, plain_only: bool = True) -> Iterator[str]:
    """Yield the files below a folder, in order, without going through links or hidden folders.

    With `plain_only` links, hidden files and whatever is no file are left out; without, a link and
    a hidden folder count as one each.
    """
    for entry in sorted(os.scandir(start), key=lambda entry: entry.name) if start.is_dir() else ():
        name = Path(entry.path).relative_to(run).as_posix()
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            if name not in KEPT_HERE:
                yield from _walk(run, Path(entry.path), plain_only=plain_only)
        elif not plain_only or (_is_plain(run, name) and _inside(name)):
            yield name
