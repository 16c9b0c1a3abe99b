"""Names resolve, paths are paths, and YAML is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertcompress.errors import InputError, NotFound
from bertcompress.support import catalogue

GLUE = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli", "ax"]


def test_shipped_names():
    names = catalogue.list_names("tasks")
    assert set(names) >= {"embedded", *(f"glue/{name}" for name in GLUE)}
    assert names == sorted(names)
    assert "quickstart" in catalogue.list_names("recipes")


def test_a_name_and_a_path(tmp_path, monkeypatch):
    shipped = catalogue.resolve("tasks", "glue/mrpc")
    assert shipped.name == "mrpc.yaml" and shipped.parent.name == "glue"
    own = tmp_path / "own.yaml"
    own.write_text("name: x\n")
    assert catalogue.resolve("tasks", own) == own
    monkeypatch.chdir(tmp_path)
    assert catalogue.resolve("tasks", "own.yaml") == Path("own.yaml")


def test_a_shipped_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "embedded").write_text("name: mine\n")
    (tmp_path / "mine").write_text("name: mine\n")
    monkeypatch.chdir(tmp_path)
    assert catalogue.resolve("tasks", "embedded").parent == catalogue.folder("tasks")
    assert catalogue.resolve("tasks", "mine") == Path("mine")


def test_an_installed_wheel_carries_its_own(tmp_path, monkeypatch):
    package = tmp_path / "site" / "bertcompress"
    (package / "_catalogue" / "tasks").mkdir(parents=True)
    (package / "_catalogue" / "tasks" / "only.yaml").write_text("name: only\n")
    (tmp_path / "site" / "tasks").mkdir()  # of another package
    monkeypatch.setattr(catalogue, "__file__", str(package / "support" / "catalogue.py"))
    catalogue.folder.cache_clear()
    try:
        assert catalogue.list_names("tasks") == ["only"]
        with pytest.raises(NotFound, match="recipes are missing"):
            catalogue.folder("recipes")
    finally:
        monkeypatch.undo()
        catalogue.folder.cache_clear()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("glue/mrcp", "did you mean 'glue/mrpc'"),
        ("zzz", "Shipped: conll2003, embedded"),
        ("missing/own.yaml", "missing/own.yaml: no such file"),
    ],
)
def test_unknown_names(given, says):
    with pytest.raises(NotFound, match=says):
        catalogue.resolve("tasks", given)


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, "key 'a' is given twice"),
        (b"a:\n  x: 1\n  x: 2\n", 3, "key 'x' is given twice"),
        (b"a:\n\tb: 1\n", 2, "tab"),
        (b"a: [1, 2\nb: 3\n", None, "expected"),
        (b"name: caf\xe9\n", 1, "not UTF-8 .byte 0xe9 at position 9"),
        (b"- a\n- b\n", None, "the file is a list"),
        (b"just words\n", None, "the file is a str"),
        (b"", None, "the file is empty"),
        (b"a: !!python/object/apply:os.system [x]\n", 1, "could not determine a constructor"),
        (b"1: a\n", None, "the key 1 is a int; quote it"),
        (b"? [a]\n: 1\n", None, "unhashable key"),
    ],
)
def test_bad_yaml(tmp_path, content, line, says):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        catalogue.read_yaml(path)
    assert str(error.value).startswith(f"{path}:{line}:" if line else str(path))
    assert "\n" not in str(error.value)


def test_good_yaml(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: {b: [1, 2.5, null, true]}\n")
    assert catalogue.read_yaml(path) == {"a": {"b": [1, 2.5, None, True]}}
    with pytest.raises(NotFound, match="no such file"):
        catalogue.read_yaml(tmp_path / "none.yaml")
    with pytest.raises(NotFound, match="is a folder"):
        catalogue.read_yaml(tmp_path)
