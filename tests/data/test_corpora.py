"""Corpora that may be larger than memory: what is read, tokenized and trained on stays the same."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from embedder_support import sentences, tiny_embedder
from tests_support import tiny_tokenizer

import bertcompress as bc
from bertcompress.data import json_files, load_data
from bertcompress.data.line_files import numbered_lines, read_lines
from bertcompress.data.text_column import TextColumn, rows_kept
from bertcompress.data.transfer import TransferText, read_transfer
from bertcompress.engines.distillation.stored_rows import StoredRows
from bertcompress.errors import DataError, OutputError
from bertcompress.support import spooling
from bertcompress.support.spooling import SpooledNumbers, spooled_texts

ROOT = Path(__file__).parents[2]
TEXTS = [f"{text} {text}" for text in dict.fromkeys(sentences(500, longest=12))][:400]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "bertcompress"


@pytest.fixture
def in_files(monkeypatch):
    """Keep nothing in memory: every corpus is a large one."""
    monkeypatch.setattr(spooling, "IN_MEMORY", 0)
    monkeypatch.setattr(json_files, "LONG", 0)


def written(folder: Path, form: str) -> bc.Task:
    """The texts as a task, in one of the forms that people have."""
    folder.mkdir(exist_ok=True)
    if form in IN_MEMORY:
        return IN_MEMORY[form]()
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
    table = pa.table({"id": range(len(TEXTS)), "text": TEXTS})
    if form == "saved":
        DatasetDict(train=Dataset(table)).save_to_disk(folder / "saved")
        return bc.Task.from_texts(folder / "saved")
    if form.startswith("folder of "):
        half = len(TEXTS) // 2
        place = folder / "several"
        place.mkdir()
        for name, some in (("a", slice(half)), ("b", slice(half, None))):
            rows = ["", *TEXTS[some]] if "txt" in form else lines[some]
            write_file(place / f"train-{name}.{form.split()[-1]}", rows, table[some])
        return bc.Task.from_texts(place)
    path = folder / {"categories": "corpus.parquet"}.get(form, f"corpus.{form}")
    if form == "categories":
        table = table.set_column(1, "text", table.column(1).dictionary_encode())
    write_file(path, ["", *TEXTS, " "] if form.startswith("txt") else lines, table)
    return bc.Task.from_texts(path)


def write_file(path: Path, lines: list[str], table: pa.Table) -> None:
    raw = "\n".join(lines).encode()
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, row_group_size=70)
    else:
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def shuffled() -> bc.Task:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    rows = Dataset.from_dict({"text": [TEXTS[i] for i in np.argsort(order)]}).select(order)
    return bc.Task.from_dataset(rows, text="text", problem="vectors")


def lists() -> bc.Task:
    """As all were read before: lists of Python."""
    frame = Dataset.from_dict({"text": TEXTS}).to_pandas()
    return bc.Task.from_dataset(frame, text="text", problem="vectors")


IN_MEMORY = {"memory": lambda: bc.Task.from_texts(TEXTS), "shuffled": shuffled, "lists": lists}
FORMS = ["memory", "shuffled", "txt", "txt.gz", "jsonl", "jsonl.gz", "parquet", "categories",
         "saved", "folder of txt", "folder of txt.gz",
         "folder of jsonl", "folder of parquet"]  # fmt: skip


def read(task: bc.Task, **options):
    """All that is made of a task's rows, as plain values."""
    data = load_data(task, **options)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 16
    data = data.fitted(tokenizer)
    splits = {name: data.split(name)[:] for name in ("train", "selection", "validation")}
    encoded = {name: data.encode(tokenizer, name)[:] for name in splits}
    rows = [{k: np.asarray(v).tolist() for k, v in row.items()}
            for row in data.rows([0, 17, 399 if not options else 5], tokenizer)]  # fmt: skip
    return data.fingerprint, data.notes, data.said, splits, encoded, data.cut, rows


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"limit": 150}], ids=["all", "limit"])
def test_every_form_gives_the_rows_that_lists_gave(tmp_path, form, options, in_files):
    with pytest.MonkeyPatch.context() as small:
        small.setattr(spooling, "IN_MEMORY", 10**9)
        wanted = read(written(tmp_path / "lists", "lists"), **options)
    assert read(written(tmp_path / "files", form), **options) == wanted


@pytest.mark.slow
def test_runs_end_the_same_whether_the_corpus_is_in_memory_or_not(tmp_path):
    model = tiny_embedder(tmp_path / "m")
    train = {"learning_rate": 1e-3, "precision": "fp32", "max_steps": 12, "batch_size": 8}
    methods = ["trim_vocabulary", {"prune_structured": {"keep": 0.6}},
               {"factorize_embedding": {"size": 8}}, {"distill": train}]  # fmt: skip
    weights = []
    for place in ("memory", "files"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spooling, "IN_MEMORY", 10**9 if place == "memory" else 0)
            task = written(tmp_path / place, "txt")
            recipe = {"model": str(model), "task": task, "methods": methods,
                      "measure": {"latency": False, "controls": False}}  # fmt: skip
            done = bc.run(bc.Recipe.parse(recipe), tmp_path / place / "run", fresh=True)
        weights.append(bc.load(done.model).model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_what_was_read_is_read_again_only_if_the_file_changed(tmp_path, cache, in_files):
    task = written(tmp_path, "txt")
    path = tmp_path / "corpus.txt"
    first = [*read_lines(path, task).columns["text"]]
    (kept,) = cache.iterdir()
    mark = kept.stat().st_mtime_ns
    assert [*read_lines(path, task).columns["text"]] == first == TEXTS
    assert [file.stat().st_mtime_ns for file in cache.iterdir()] == [mark]
    path.write_text("another text\nand one more\n")
    assert [*read_lines(path, task).columns["text"]] == ["another text", "and one more"]


def test_nothing_is_kept_of_a_corpus_that_cannot_be_read(tmp_path, cache, in_files):
    path = tmp_path / "corpus.txt"
    path.write_bytes("\n".join([*TEXTS, *TEXTS] * 40).encode() + b"\n\xff\n")
    with pytest.raises(DataError, match=r"corpus.txt:32001: not UTF-8 \(byte 0xff\)"):
        load_data(bc.Task.from_texts(path))
    assert not [*cache.iterdir()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": 3}', r"corpus.jsonl:402: column 'text' holds int, not text"),
        ('{"text": "cut \\ud83d"}', r":402: column 'text' holds half of a character"),
        ('["text"]', r":402: expected an object with columns, found list"),
        ('{"text": "a", "text": "b"}', r":402: the key 'text' stands twice in one row"),
        ('{"text": "a"', r":402: not JSON"),
        ('{"other": "a"}', r"corpus: train: column 'text' has no text in row 401"),
    ],
)
def test_a_bad_line_of_a_long_file_is_named(tmp_path, line, words, in_files):
    path = tmp_path / "corpus.jsonl"
    good = [json.dumps({"text": text}) for text in TEXTS]
    path.write_text("\n".join([*good, "", line, good[0]]))
    with pytest.raises(DataError, match=words):
        load_data(bc.Task.from_texts(path))


def test_a_column_that_no_line_has_is_named_with_those_that_there_are(tmp_path, in_files):
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"body": {"txt": text}}) for text in TEXTS))
    with pytest.raises(DataError, match=r"unknown column 'text'; .*body\.txt"):
        load_data(bc.Task.from_texts(path))
    assert load_data(bc.Task.from_texts(path, text="body.txt")).train[0]["text"] in TEXTS


def test_a_stream_is_read_as_far_as_it_is_asked_for(monkeypatch, in_files):
    monkeypatch.setattr("bertcompress.data.tables.STREAM_ROWS", 100)
    stream = IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))
    task = bc.Task.from_dataset(stream, text="text", problem="vectors")
    with pytest.raises(DataError, match="a stream of more than 100 rows; say how many"):
        load_data(task)
    data = load_data(task, limit=250)
    parts = (data.train, data.selection, data.validation)
    assert {text for part in parts for text in part["text"]} == {*TEXTS[:250]}
    numbers = IterableDataset.from_generator(lambda: ({"text": i} for i in range(9)))
    with pytest.raises(DataError, match="column 'text' holds int, not text, in row 1"):
        load_data(bc.Task.from_dataset(numbers, text="text", problem="vectors"))


def test_no_room_is_said(tmp_path, monkeypatch, in_files):
    monkeypatch.setattr(spooling, "_cache", lambda: tmp_path / "nowhere")
    with pytest.raises(OutputError, match="set HF_DATASETS_CACHE to a folder with room"):
        load_data(written(tmp_path, "txt"))
    with pytest.raises(OutputError, match="set HF_DATASETS_CACHE to a folder with room"):
        SpooledNumbers(np.int8).append(np.arange(3))  # nothing was opened


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, in_files):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    assert [*read_lines(tmp_path / "corpus.txt", written(tmp_path, "txt")).columns["text"]] == (
        TEXTS
    )


@pytest.mark.parametrize("limit", [0, 10**9], ids=["file", "memory"])
def test_numbers_come_back_as_they_went(limit, monkeypatch):
    monkeypatch.setattr(spooling, "IN_MEMORY", limit)
    spool = SpooledNumbers(np.int32)
    pieces = [np.random.default_rng(i).integers(0, 2**31 - 1, 50) for i in range(7)]
    for piece in pieces:
        spool.append(piece)
    whole = spool.whole()
    spool.close()
    assert isinstance(whole, np.memmap) is (limit == 0)
    np.testing.assert_array_equal(whole, np.concatenate(pieces))
    assert SpooledNumbers(np.int8).whole().tolist() == []


@pytest.mark.parametrize("limit", [0, 10**9], ids=["file", "memory"])
def test_texts_are_taken_in_any_order(limit, monkeypatch):
    monkeypatch.setattr(spooling, "IN_MEMORY", limit)
    texts = [None if i % 97 == 5 else f"text {i} é" for i in range(1_000)]
    column = TextColumn(spooled_texts(texts[i : i + 70] for i in range(0, 1_000, 70)))
    plain = [text or "" for text in texts]
    assert [*column] == plain and column[3] == plain[3] and column[2:900:7] == plain[2:900:7]
    rng = np.random.default_rng(0)
    for places in (rng.permutation(1_000), np.arange(100, 900), np.arange(0), [5, 4, 999, 5],
                   np.setdiff1d(np.arange(1_000), [13, 500])):  # fmt: skip
        taken = column.take(places)
        assert [*taken] == [plain[int(i)] for i in places] and len(taken) == len(places)
    assert [*TextColumn.joined([column, ["a"], column])] == [*plain, "a", *plain]


def test_kept_rows_are_those_that_were_asked_for():
    rows = Dataset.from_dict({"row_id": range(1_000), "text": [f"text {i}" for i in range(1_000)]})
    for places in (np.setdiff1d(np.arange(1_000), [3, 400]), np.arange(0, 1_000, 3), np.arange(0)):
        kept = rows_kept(rows, places)
        assert kept[:] == rows.select(places)[:] and kept.features == rows.features
    twice = rows_kept(rows_kept(rows, np.arange(0, 1_000, 2)), np.arange(100, 400))
    assert twice["row_id"][:] == [*range(200, 800, 2)]


def test_rows_of_numbers_are_a_file_of_safetensors(tmp_path):
    import torch
    from safetensors import safe_open

    wanted = torch.randn(7, 3)
    rows = StoredRows(tmp_path / "a.safetensors", "logits", (7, 3), {"for": "tests"})
    for place in (6, 0, 4, 5, 3):
        rows.put(place, wanted[place])
    rows.put(1, wanted[1:3])
    rows.close()
    with safe_open(tmp_path / "a.safetensors", framework="pt") as stored:
        assert stored.metadata() == {"for": "tests"}
        assert stored.get_tensor("logits").equal(wanted)
    with pytest.raises(OutputError, match=r"b\.safetensors: cannot be written"):
        StoredRows(tmp_path / "none" / "b.safetensors", "logits", (7, 3), {})


@pytest.mark.slow
def test_each_further_text_costs_hardly_any_memory(tmp_path, in_files):
    """Of Python and numpy, as tracemalloc counts; Arrow's own are in mapped files."""

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.txt"
        path.write_text("\n".join(f"{TEXTS[i % 400]} {i}" for i in range(rows)))
        tokenizer = tiny_tokenizer()
        arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        load_data(bc.Task.from_texts(path)).encode(tokenizer, "train")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most + pa.total_allocated_bytes() - arrow

    peak(100)  # what is imported once
    few, many = peak(11_000), peak(22_000)  # more than is read at a time
    assert (many - few) / 11_000 < 300  # bytes a text; as lists of Python they took 1,500


def test_each_further_transfer_text_costs_hardly_any_memory(tmp_path, in_files):
    columns = {"text": TEXTS, "label": [i % 2 for i in range(len(TEXTS))]}
    rows = DatasetDict(train=Dataset.from_dict(columns))
    data = load_data(bc.Task.from_dataset(rows, text="text", label="label"))

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.txt"
        path.write_text("\n".join(f"{TEXTS[i % 400]} {i}" for i in range(rows)))
        arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        read = read_transfer(TransferText(source=str(path)), data)
        assert len(read.rows) == rows
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most + pa.total_allocated_bytes() - arrow

    peak(100)  # what is imported once
    few, many = peak(11_000), peak(22_000)  # more than is read at a time
    assert (many - few) / 11_000 < 250  # bytes a text; as lists of Python they took 350


GROWN = """
import resource, sys
from pathlib import Path
import datasets
datasets.config.HF_DATASETS_CACHE = Path(sys.argv[2])
import bertcompress as bc
from bertcompress.data import load_data
from tests_support import tiny_tokenizer

tokenizer = tiny_tokenizer()
data = load_data(bc.Task.from_texts(sys.argv[1])).fitted(tokenizer)
features = data.encode(tokenizer, "train")
print(len(features), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_thirty_times_as_many_texts_take_a_few_hundred_megabytes_more(tmp_path):
    most = {}
    for rows in (20_000, 600_000):
        path = tmp_path / f"{rows}.txt"
        with path.open("w") as file:
            file.writelines(f"{TEXTS[i % 400]} {i}\n" for i in range(rows))
        path_of_code = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        done = subprocess.run(
            [sys.executable, "-c", GROWN, str(path), str(tmp_path / "cache")],
            env={**os.environ, "PYTHONPATH": path_of_code},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        features, kib = map(int, done.stdout.split())
        assert features > 0.9 * rows - 6_000
        most[rows] = kib * 1024 / 1e6
    # Mapped files count here as far as they were read, though the system may drop them.
    assert most[600_000] - most[20_000] < 300


@pytest.mark.parametrize("form", ["utf-16", "utf-16-be", "gz"])
def test_lines_of_utf_16_are_read(tmp_path, form):
    """As those of every other format are."""
    text = "eins\r\nzwei \u00e4\n\ndrei\u010d\n"
    raw = codecs.BOM_UTF16_BE + text.encode(form) if form.endswith("be") else text.encode("utf-16")
    path = tmp_path / ("a.txt.gz" if form == "gz" else "a.txt")
    path.write_bytes(gzip.compress(raw) if form == "gz" else raw)
    assert [line for _, line in numbered_lines(path)] == ["eins", "zwei \u00e4", "drei\u010d"]
    path.write_bytes(codecs.BOM_UTF16_LE + b"a\0\0\xd8b\0")
    with pytest.raises(DataError, match=r"behind line 0: not UTF-16"):
        list(numbered_lines(path))
