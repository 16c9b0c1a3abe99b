"""The stage store and atomic writing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from bertcompress.errors import OutputError
from bertcompress.runs.store import StageStore, stage_key
from bertcompress.support.files import file_digest, remove_leftovers, write_atomically


def _stage(folder: Path, size: int = 1000, text: str = "w") -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(text.encode() * size)
    (folder / "sub" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "home")


def test_a_key_depends_on_content_and_not_on_order() -> None:
    one = stage_key({"seed": 1, "settings": {"a": 0.5, "b": [1, 2]}})
    assert one == stage_key({"settings": {"b": [1, 2], "a": 0.5}, "seed": 1})
    assert one != stage_key({"settings": {"b": [2, 1], "a": 0.5}, "seed": 1})
    assert one != stage_key({"settings": {"b": [1, 2], "a": 0.5}, "seed": 2})


@pytest.mark.parametrize("value", [Path("x"), float("nan"), {1, 2}])
def test_a_key_refuses_what_is_not_plain(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        stage_key({"value": value})


def test_a_stage_comes_back_with_its_files(store: StageStore, tmp_path: Path) -> None:
    key = stage_key({"a": 1})
    assert store.get(key) is None and not store.root.exists()
    folder = _stage(tmp_path / "stage")
    put = store.put(key, folder, {"name": "finetune", "seconds": 12.5})
    assert store.get(key) == put != folder
    assert file_digest([put]) == file_digest([folder])
    assert store.info(key) == {"name": "finetune", "seconds": 12.5}
    assert [(s.key, s.name, s.size_mb) for s in store.list()] == [(key, "finetune", 1002 / 1e6)]


@pytest.fixture(scope="module")
def roots() -> list[Path]:
    return [StageStore().root]  # of a fixture that outlives a test


def test_the_suite_never_reads_the_users_store(
    roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for root in [*roots, StageStore().root]:
        assert not root.is_relative_to(Path.home() / ".cache")


def test_the_root_and_bound_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTCOMPRESS_HOME", str(tmp_path))
    monkeypatch.setenv("BERTCOMPRESS_STORE_GB", "0.5")
    store = StageStore()
    assert store.root == tmp_path / "stages" and store.bound_bytes == 5e8
    for bad in ("many", "-1", "nan"):
        monkeypatch.setenv("BERTCOMPRESS_STORE_GB", bad)
        with pytest.raises(OutputError, match="BERTCOMPRESS_STORE_GB"):
            StageStore()


def test_a_key_cannot_leave_the_store(store: StageStore) -> None:
    with pytest.raises(ValueError, match="no stage key"):
        store.get("../../etc")


@pytest.mark.parametrize("damage", ["truncated", "missing", "no entry", "half entry", "wrong key"])
def test_a_damaged_entry_is_removed_and_can_be_put_again(
    store: StageStore, tmp_path: Path, damage: str
) -> None:
    key = stage_key({"a": 1})
    folder = _stage(tmp_path / "stage")
    content = store.put(key, folder, {})
    entry = content.parent / "entry.json"
    if damage == "truncated":
        os.truncate(content / "model.safetensors", 10)
    elif damage == "missing":
        (content / "sub" / "config.json").unlink()
    elif damage == "no entry":
        entry.unlink()
    elif damage == "half entry":
        entry.write_text(entry.read_text()[:30])
    else:
        entry.write_text(json.dumps({**json.loads(entry.read_text()), "key": "0" * 64}))
    assert store.get(key) is None
    assert list(store.root.iterdir()) == []
    assert file_digest([store.put(key, folder, {})]) == file_digest([folder])


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "home", bound_gb=2500 / 1e9)
    keys = [stage_key({"n": n}) for n in range(3)]
    for n, key in enumerate(keys[:2]):
        content = store.put(key, _stage(tmp_path / f"s{n}"), {})
        os.utime(content.parent / "entry.json", (n, n))
    assert store.get(keys[0])  # now the second is the older one
    store.put(keys[2], _stage(tmp_path / "s2"), {})
    assert {stage.key for stage in store.list()} == {keys[0], keys[2]}


def test_a_stage_larger_than_the_bound_is_kept_until_the_next(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "home", bound_gb=0)
    first, second = stage_key({"n": 1}), stage_key({"n": 2})
    assert store.put(first, _stage(tmp_path / "a"), {}).is_dir()
    assert store.put(second, _stage(tmp_path / "b"), {}).is_dir()
    assert [stage.key for stage in store.list()] == [second]


def test_clear_by_age_counts_from_the_last_use(store: StageStore, tmp_path: Path) -> None:
    keys = [stage_key({"n": n}) for n in range(3)]
    for n, key in enumerate(keys):
        content = store.put(key, _stage(tmp_path / f"s{n}"), {})
        used = time.time() - n * 10 * 86_400
        os.utime(content.parent / "entry.json", (used, used))
    assert store.clear(older_than_days=15) == 1
    assert [stage.key for stage in store.list()] == keys[:2]
    assert store.clear() == 2 and store.list() == []


def _put(root: Path, key: str, folder: Path, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    StageStore(root).put(key, folder, {"name": folder.name})


def test_writers_of_the_same_key_leave_one_whole_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    key, barrier = stage_key({"a": 1}), context.Barrier(4)
    folders = [_stage(tmp_path / f"w{n}", 200_000, str(n)) for n in range(4)]
    workers = [
        context.Process(target=_put, args=(tmp_path / "home", key, folder, barrier))
        for folder in folders
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    store = StageStore(tmp_path / "home")
    stored = store.get(key)
    winner = next(folder for folder in folders if folder.name == store.info(key)["name"])
    assert stored and file_digest([stored]) == file_digest([winner])
    assert [path.name for path in store.root.iterdir()] == [key]


def test_a_loser_discards_its_copy(
    store: StageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = stage_key({"a": 1}), StageStore(tmp_path / "home")
    first = _stage(tmp_path / "first", text="1")
    real = store._read
    monkeypatch.setattr(
        store, "_read", lambda k: (other.put(key, first, {}) and None) or real("f" * 64)
    )
    store.put(key, _stage(tmp_path / "second", text="2"), {})
    monkeypatch.undo()
    stored = store.get(key)
    assert stored and file_digest([stored]) == file_digest([first])
    assert [path.name for path in store.root.iterdir()] == [key]


def test_old_leftovers_of_killed_writers_go_with_the_next_put(
    store: StageStore, tmp_path: Path
) -> None:
    old, new = store.root / ".x.tmp-0123456789ab", store.root / ".y.tmp-0123456789ab"
    for folder in (old, new):
        _stage(folder)
    os.utime(old, (0, 0))
    store.put(stage_key({}), _stage(tmp_path / "s"), {})
    assert not old.exists() and new.exists()


def test_a_full_disk_is_an_output_error_and_leaves_nothing(
    store: StageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)  # below copytree, which gathers such errors
    with pytest.raises(OutputError, match="No space left"):
        store.put(stage_key({}), _stage(tmp_path / "s"), {})
    assert list(store.root.iterdir()) == []


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.json"
    with write_atomically(target) as temporary:
        temporary.write_text("first")
        assert not target.exists() and temporary.parent == target.parent
    with pytest.raises(RuntimeError), write_atomically(target) as temporary:
        temporary.write_text("second, half")
        raise RuntimeError
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["report.json"]


def test_an_existing_folder_is_only_replaced_when_asked(tmp_path: Path) -> None:
    target = _stage(tmp_path / "model")
    with pytest.raises(OutputError, match="not empty"), write_atomically(target):
        pytest.fail("the body must not run")
    with write_atomically(target, replace=True) as temporary:
        _stage(temporary, text="n")
    assert (target / "model.safetensors").read_bytes() == b"n" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_hold_it_is_an_output_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OutputError, match="is a file"), write_atomically(file) as temporary:
        temporary.mkdir()
    with pytest.raises(OutputError, match="cannot be written"), write_atomically(file / "x" / "y"):
        pytest.fail("the body must not run")
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]


def test_where_one_stands_is_a_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="is there already"), write_atomically(Path("/")):
        pytest.fail("the body must not run")
    long = Path("x" * 250)
    with pytest.raises(OutputError, match="name is too long"), write_atomically(long) as temporary:
        temporary.mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with write_atomically(Path(".")) as temporary:
        _stage(temporary)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_remove_leftovers_takes_only_temporaries(tmp_path: Path) -> None:
    _stage(tmp_path / ".model.tmp-0123456789ab")
    (tmp_path / ".report.json.old-0123456789ab").write_text("")
    keep = [tmp_path / ".hidden", tmp_path / "model.tmp-0123456789ab"]
    for path in keep:
        path.write_text("")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(keep)


def test_a_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    first, same, other = (
        _stage(tmp_path / n, text=t) for n, t in [("a", "w"), ("b", "w"), ("c", "x")]
    )
    assert file_digest([first]) == file_digest([same]) != file_digest([other])
    (same / "sub" / "config.json").rename(same / "sub" / "renamed.json")
    assert file_digest([first]) != file_digest([same])
