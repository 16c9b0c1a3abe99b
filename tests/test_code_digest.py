"""A stage depends on the code that made it, and on no other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertcompress.runs import code_digest as code
from bertcompress.runtimes import RUNTIMES


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copy the package to where it can be changed, and let the digest read the copy."""
    copied = tmp_path / code._PACKAGE.name
    shutil.copytree(code._PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "_PACKAGE", copied)
    code._read.cache_clear()  # the module's own file is no copy, but what it imports now is
    yield copied
    code._read.cache_clear()


def _digest(package: Path, edited: bool = False) -> str:
    # The module's own file is found through sys.modules; its imports are those of the copy.
    return code.code_digest.__wrapped__("bertcompress.methods.training.finetune", edited)


@pytest.mark.parametrize(
    ("file", "edited", "depends"),
    [
        ("training/steps.py", False, True),
        ("training/label_loss.py", False, True),
        ("engines/distillation/objectives.py", False, False),
        ("engines/pruning/kprune.py", False, False),
        ("shapes/parts.py", False, False),
        ("shapes/parts.py", True, True),
        ("shapes/families/albert.py", False, False),
        ("shapes/families/albert.py", True, True),
        ("data/encoding.py", False, True),
        ("report/rows.py", True, False),
        ("metrics/table.py", False, True),  # early stopping goes by it
        ("measure/timing/candidates.py", False, False),
    ],
)
def test_depends_on_what_it_imports(package: Path, file: str, edited: bool, depends: bool) -> None:
    import bertcompress.methods.training.finetune  # noqa: F401

    before = _digest(package, edited)
    target = package / file
    target.write_text(target.read_text("utf-8") + "\nCHANGED = 1\n", "utf-8")
    assert (_digest(package, edited) != before) == depends


@pytest.mark.parametrize("file", ["shapes/cutting.py", "shapes/families/albert.py"])
def test_what_a_lazy_room_and_a_table_name_counts(package: Path, file: str) -> None:
    import bertcompress.methods.pruning.structured as module

    before = code.code_digest.__wrapped__(module.__name__, False)
    target = package / file
    target.write_text(target.read_text("utf-8") + "\nCHANGED = 1\n", "utf-8")
    assert code.code_digest.__wrapped__(module.__name__, False) != before


def test_what_a_guard_decides_by_counts(package: Path) -> None:
    import bertcompress.methods.quantization.int8

    def digest() -> str:
        return code.code_digest.__wrapped__(bertcompress.methods.quantization.int8.__name__, False)

    before = digest()
    target = package / "measure" / "scores.py"
    target.write_text(target.read_text("utf-8") + "\nCHANGED = 1\n", "utf-8")
    assert digest() != before


def test_comments_and_docstrings_do_not_count(package: Path) -> None:
    import bertcompress.methods.training.finetune  # noqa: F401

    before = _digest(package)
    target = package / "training" / "settings.py"
    target.write_text(
        '"""Another text."""\n# a comment\n' + target.read_text("utf-8").split('"""', 2)[2], "utf-8"
    )
    assert _digest(package) == before


def test_files_depend_on_every_runtime_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bertcompress.methods.quantization.int8

    outside = tmp_path / "runtime_from_outside.py"
    outside.write_text("A = 1\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(RUNTIMES, "outside", "runtime_from_outside:Runtime")

    def digest(makes_files: bool) -> str:
        module = bertcompress.methods.quantization.int8.__name__
        return code.code_digest.__wrapped__(module, False, makes_files)

    before = [digest(makes_files) for makes_files in (True, False)]
    outside.write_text("A = 2\n", "utf-8")
    assert digest(True) != before[0]
    assert digest(False) == before[1]
