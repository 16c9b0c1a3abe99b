"""What a search is made of: the forms it is read in, its splits, and what is refused or said."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from datasets import Dataset
from search_support import parts, search_task, write_beir
from tests_support import tiny_tokenizer

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.data.local import check_local
from bertcompress.errors import DataError, TaskError


def ids(split):
    """The queries of a split as texts, and its documents."""
    queries, documents = set(), set()
    for row in split:
        for column, number in zip(("text", "text_pair"), row["label"]["texts"], strict=False):
            (queries if number < 0 else documents).add(row[column])
    return queries, documents


def write_configurations(folder: Path, rows, names) -> Path:
    """Write parts as configurations, those of judgements together as `default`."""
    folder.mkdir()
    head = ["---", "configs:"]
    configs = {name: name if name in ("corpus", "queries") else "default" for name in names}
    for config in dict.fromkeys(configs.values()):
        head += [f"- config_name: {config}", "  data_files:"]
        for name in (each for each in names if configs[each] == config):
            Dataset.from_list(rows[name]).to_parquet(folder / f"{name}.parquet")
            head += [f"  - split: {name}", f"    path: {name}.parquet"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]))
    return folder


@pytest.fixture
def rows():
    return parts()


def test_every_form_gives_the_same_rows(tmp_path, rows):
    folder = write_beir(tmp_path / "beir", rows)
    parquet = write_configurations(tmp_path / "configs", rows, [*rows])
    told = {load_data(search_task(each)).fingerprint for each in (folder, parquet, rows)}
    assert len(told) == 1
    hub = search_task(parquet).model_copy(update={"dataset": "nobody/nothing"})
    assert load_data(hub, data_dir=parquet).fingerprint in told
    # Without the folder's list of configurations nothing tells where the corpus is.
    with pytest.raises(DataError, match="needs the configurations 'corpus', 'queries' and one of"):
        load_data(search_task(parquet, config="qrel"))
    with pytest.raises(DataError, match=r"there are default; or a folder of corpus\.jsonl"):
        load_data(search_task(write_beir(tmp_path / "none", {"train": rows["train"]})))


def test_judgements_may_lie_elsewhere(tmp_path, rows):
    """As BeIR has them: `BeIR/scifact` and `BeIR/scifact-qrels`, whose ids are numbers."""
    for part, columns in (("corpus", ["_id"]), ("queries", ["_id"]),
                          ("train", ["query-id", "corpus-id"]),
                          ("test", ["query-id", "corpus-id"])):  # fmt: skip
        for row in rows[part]:
            row |= {name: row[name][1:] for name in columns}
    wanted = load_data(search_task(rows)).fingerprint
    texts = write_configurations(tmp_path / "texts", rows, ("corpus", "queries"))
    qrels = tmp_path / "qrels"
    qrels.mkdir()
    for name in ("train", "test"):
        lines = ["\t".join(map(str, row.values())) for row in rows[name]]
        (qrels / f"{name}.tsv").write_text("\n".join(["\t".join(rows[name][0]), *lines]))
    task = search_task(texts, qrels=str(qrels))
    assert load_data(task).fingerprint == wanted
    files = write_beir(tmp_path / "files", {name: rows[name] for name in ("corpus", "queries")})
    (files / "qrels").rmdir()
    assert load_data(search_task(files, qrels=str(qrels))).fingerprint == wanted
    # A file beside the data names them too, from where it lies.
    (tmp_path / "task.yaml").write_text(
        "name: mine\ndataset: ./texts\nqrels: ./qrels\ntext: text\nlabel: score\n"
        "problem: retrieval\n"
    )
    assert load_data(bc.Task.load(str(tmp_path / "task.yaml"))).fingerprint == wanted
    with pytest.raises(DataError, match="BeIR/NAME say `qrels: BeIR/NAME-qrels`"):
        load_data(search_task(texts))
    with pytest.raises(DataError, match=r"nowhere/at-all: (no such data set|the Hub)"):
        load_data(search_task(texts, qrels="nowhere/at-all"))
    with pytest.raises(TaskError, match=r"qrels: only a search .* has judgements"):
        bc.Task.from_texts(["a"], qrels="nowhere/at-all")


def test_title_and_text_are_joined_as_beir_does(rows):
    data = load_data(search_task(rows))
    wanted = {f"{each['title']} {each['text']}" for each in rows["corpus"]}
    assert ids(data.validation)[1] == wanted
    plain = {
        **rows,
        "corpus": [{k: v for k, v in d.items() if k != "title"} for d in rows["corpus"]],
    }
    assert ids(load_data(search_task(plain)).validation)[1] == {d["text"] for d in plain["corpus"]}


def test_no_query_is_in_two_splits_and_all_documents_are_searched(rows):
    rows = parts(documents=150, train=90)
    data = load_data(search_task(rows))
    (train, taught), (chosen, searched), (judged, whole) = map(
        ids, (data.train, data.selection, data.validation)
    )
    assert not (train & chosen or train & judged or chosen & judged)
    assert len(whole) == len(searched) == 150 and taught == whole  # few: all of them
    assert data.task.validation == "test" and "judged on 'test'" in data.notes[0]
    assert len(train | chosen) >= 80 and len(chosen) >= 15
    labels = data.train["label"][:]
    assert len({r for split in ("train", "selection", "validation")
                for r in data.split(split)["row_id"][:]}) == sum(
        len(data.split(split)) for split in ("train", "selection", "validation"))  # fmt: skip
    assert all(row["texts"][1] in row["relevant"] for row in labels if row["texts"][0] < 0)
    other = load_data(search_task(rows), seed=1)
    assert ids(other.selection)[0] != chosen and ids(other.validation)[0] == judged


def test_of_a_large_corpus_a_part_is_searched_to_choose_by(rows, monkeypatch):
    monkeypatch.setattr("bertcompress.data.retrieval.SELECTION_DOCUMENTS", 30)
    data = load_data(search_task(rows))
    chosen, searched = ids(data.selection)
    assert len(searched) == 30 < len(ids(data.validation)[1]) == 60
    references = data.references("selection")
    assert data.task.head.examples(references) == len(chosen)
    there = {n for each in references for n in each["texts"]}
    assert all(there.issuperset(each["relevant"]) for each in references)
    assert any("among 30 documents, their relevant ones and others" in each for each in data.notes)


def test_a_query_of_both_sides_is_not_trained_on(rows):
    rows["train"][0]["query-id"] = rows["test"][0]["query-id"]  # by id
    twin = next(q for q in rows["queries"] if q["_id"] == rows["test"][1]["query-id"])
    mine = next(q for q in rows["queries"] if q["_id"] == rows["train"][1]["query-id"])
    mine["text"] = f" {twin['text'].upper()}  "  # by text
    data = load_data(search_task(rows))
    judged = {text.casefold() for text in ids(data.validation)[0]}
    for split in (data.train, data.selection):
        assert not judged & {" ".join(text.casefold().split()) for text in ids(split)[0]}
    assert any("training queries are reported on too" in each for each in data.notes)
    rows["train"] = copy.deepcopy(rows["test"])
    with pytest.raises(DataError, match="every query of 'train' is in 'test' too"):
        load_data(search_task(rows))


@pytest.mark.parametrize("only", ["train", "test"])
def test_of_a_single_split_a_fifth_goes_to_the_other_side(rows, only):
    kept = {name: part for name, part in rows.items() if name not in {"train", "test"} - {only}}
    data = load_data(search_task(kept))
    sizes = [len(ids(each)[0]) for each in (data.train, data.selection, data.validation)]
    if only == "test":
        assert sizes[0] == 0 and sizes[1] == 3 and 10 <= sizes[2] <= 12
        assert "no training judgements: 3 of 15 queries" in " ".join(data.notes)
        with pytest.raises(DataError, match="no training queries with relevant documents"):
            data.task.head.labelled(data.encode(tiny_tokenizer(), "train"))
    else:
        assert min(sizes) > 0 and "no split to judge on: 8 of 40 queries" in " ".join(data.notes)


def test_a_limit_bounds_queries_and_texts_but_never_what_is_searched(rows):
    data = load_data(search_task(rows), limit=10)
    assert len(ids(data.validation)[0]) <= 10 and len(ids(data.validation)[1]) == 60
    assert len(ids(data.train)[0] | ids(data.selection)[0]) <= 10
    assert len(data.train) <= 10 + 5
    assert load_data(search_task(rows), limit=10, seed=3).validation[:] == data.validation[:]


def test_grades_and_queries_without_a_relevant_document(rows):
    rows["test"] += [
        {"query-id": "q1", "corpus-id": "d3", "score": 0},
        {"query-id": rows["test"][0]["query-id"], "corpus-id": "d3", "score": -2},
        {"query-id": rows["test"][0]["query-id"], "corpus-id": "d5", "score": 2},
        rows["test"][1],  # twice, and the same
    ]
    rows = {**rows, "train": rows["train"][:30], "dev": rows["train"][30:]}
    data = load_data(search_task(rows, also={"more": "dev"}))
    assert len(ids(data.also["more"])[1]) == 60
    assert any("1 of 16 queries have no relevant document" in each for each in data.notes)
    gains = [each["gains"] for each in data.references("validation") if each["gains"]]
    assert sorted(map(len, gains))[-1] == 2 and max(map(max, gains)) == 2
    assert min(map(min, gains)) == 1


def test_a_document_that_is_the_query_itself_is_not_searched(rows):
    query = next(q for q in rows["queries"] if q["_id"] == rows["test"][0]["query-id"])
    rows["corpus"].append({"_id": query["_id"], "title": "", "text": query["text"]})
    data = load_data(search_task(rows))
    own = [each for each in data.references("validation") if -1.0 in each["gains"]]
    assert len(own) == 1 and own[0]["gains"] == [1.0, -1.0]


def spoiled(rows, part, row, **fields):
    rows = copy.deepcopy(rows)
    rows[part][row] |= fields
    return rows


@pytest.mark.parametrize(
    ("part", "row", "fields", "says"),
    [
        ("test", 2, {"corpus-id": "d999"}, r"column 'corpus-id': 'd999' is not in corpus \(row 3"),
        ("train", 0, {"query-id": "x"}, r"train: column 'query-id': 'x' is not in queries"),
        ("corpus", 4, {"_id": "d1"}, "corpus: the id 'd1' stands in rows 2, 5"),
        ("queries", 4, {"_id": "q1"}, "queries: the id 'q1' stands in rows 2, 5"),
        ("queries", 4, {"text": "  "}, "queries: column 'text' has no text in row 5"),
        ("corpus", 0, {"_id": None}, "corpus: column '_id' holds NoneType, no id, in row 1"),
        ("test", 0, {"score": None}, "column 'score' holds None, no grade, in row 1"),
        ("corpus", 0, {"text": "\ud83d"}, "half of a character"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, part, row, fields, says):
    folder = write_beir(tmp_path / "s", spoiled(rows, part, row, **fields))
    with pytest.raises(DataError, match=says.replace("holds None,", "holds 'None',")):
        load_data(search_task(folder))


def test_contradictions_hidden_labels_and_lacking_columns(rows):
    again = {**rows["test"][0], "score": 2}
    with pytest.raises(DataError, match=r"row 16 grades document 'd\d+' for query 'q40' 2, and"):
        load_data(search_task({**rows, "test": [*rows["test"], again]}))
    hidden = [{**row, "score": 0} for row in rows["test"]]
    with pytest.raises(DataError, match="test: no query has a relevant document"):
        load_data(search_task({**rows, "test": hidden}))
    for label, says in (("grade", "'grade'.*'score'|score"), ("score", "")):
        task = search_task(rows, label=label)
        if says:
            with pytest.raises(DataError, match="unknown column 'grade'"):
                load_data(task)
    with pytest.raises(DataError, match="'dev'"):
        load_data(search_task(rows, validation="dev"))
    with pytest.raises(DataError, match="needs 'corpus' beside its judgements"):
        load_data(search_task({name: rows[name] for name in ("queries", "train", "test")}))


def test_empty_documents_are_said_and_many_are_refused(rows):
    for document in rows["corpus"][:2]:
        document |= {"title": "", "text": ""}
    data = load_data(search_task(rows))
    assert "2 of 60 documents have no text, the first is 'd0'" in data.notes[0]
    assert len(data.encode(tiny_tokenizer(), "validation")) == len(data.validation)
    for document in rows["corpus"][:9]:
        document |= {"title": "", "text": ""}
    with pytest.raises(DataError, match="9 of 60 documents have no text in 'title' or 'text'"):
        load_data(search_task(rows))


def test_ids_may_be_numbers_on_one_side(rows):
    for part in ("train", "test"):
        rows[part] = [{**row, "corpus-id": int(row["corpus-id"][1:])} for row in rows[part]]
    rows["corpus"] = [{**row, "_id": row["_id"][1:]} for row in rows["corpus"]]
    assert len(ids(load_data(search_task(rows)).validation)[1]) == 60


def test_what_is_no_search_is_refused(tmp_path):
    with pytest.raises(TaskError, match="a retrieval task has 1 text column"):
        bc.Task.from_files(tmp_path, text=["a", "b"], label="s", problem="retrieval")
    with pytest.raises(TaskError, match="a retrieval task needs a label column"):
        bc.Task.from_files(tmp_path, text="a", problem="retrieval")
    with pytest.raises(TaskError, match="prompts: name two, that of queries and that of documents"):
        search_task(tmp_path, prompts="query")
    (tmp_path / "rows.csv").write_text("text,score\na,1\n")
    for read in (check_local, load_data):
        with pytest.raises(DataError, match="a search needs a corpus, queries and judgements"):
            read(search_task(tmp_path / "rows.csv"))
    (tmp_path / "corpus.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"no file queries.jsonl beside corpus.jsonl"):
        load_data(search_task(tmp_path))


@pytest.mark.slow
def test_the_shipped_task_reads_the_local_copy():
    folder = Path(__file__).parents[2] / "shared" / "data" / "scifact"
    if not folder.is_dir():
        pytest.skip("no local copy of SciFact")
    data = load_data(bc.Task.load("scifact"), data_dir=folder)
    assert len(data.validation) == 5_183 + 300
    assert data.task.head.examples(data.references("validation")) == 300
