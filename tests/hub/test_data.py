"""Rows from a server by their Hub id: the real `load_dataset`."""

from __future__ import annotations

import pytest

from hub.conftest import Runs
from hub.support import Site

READ = """
from hub.stories import as_user
from hub.support import told
import bertcompress as bc

def read(dataset, token, **fields):
    fields = {{"dataset": dataset, **fields}}
    task = bc.Task.load("glue/mrpc").model_copy(update=fields)
    with as_user(token):
        try:
            data = bc.load_data(task)
        except bc.errors.DataError as error:
            return str(error)
    return [len(data.validation), data.validation[0]["text_pair"], data.task.labels]

told({{name: read(*arguments, **fields) for name, arguments, fields in {wanted!r}}})
"""


TURNED = """
from pathlib import Path
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import HfApi
from hub.support import told
import bertcompress as bc

folder = Path({folder!r})
folder.mkdir()
for split, names, start in (("train", ["no", "yes"], 0), ("test", ["yes", "no"], 50)):
    rows = {{"text": [f"text {{start + i}}" for i in range(24)],
            "label": [names.index(["no", "yes"][i % 2]) for i in range(24)]}}
    features = Features(text=Value("string"), label=ClassLabel(names=names))
    Dataset.from_dict(rows, features=features).to_parquet(folder / f"{{split}}.parquet")
HfApi().create_repo({name!r}, repo_type="dataset")
HfApi().upload_folder(repo_id={name!r}, repo_type="dataset", folder_path=folder)
data = bc.load_data(bc.Task.from_files({name!r}, text="text", label="label"))
told([data.labels, {{row["text"]: data.labels[row["label"]] for row in data.validation}}])
"""


def read(site: Site, *wanted: object, **options: object) -> dict[str, object]:
    done = site.child(READ.format(wanted=list(wanted)), **options)  # type: ignore[arg-type]
    return done.told  # type: ignore[no-any-return]


def test_glue_comes_by_its_id_and_then_from_the_cache(site: Site, runs: Runs) -> None:
    cache = site.cache()
    glue = ("glue", (site.glue, None), {})
    online = read(
        site,
        glue,
        ("missing", (f"{site.me}/not-there{site.tag}", site.token), {}),
        ("revision", (site.glue, site.token), {"revision": "no-such-branch"}),
        ("config", (site.glue, None), {"config": "cola"}),
        cache=cache,
    )
    rows, text, labels = online["glue"]  # type: ignore[misc]
    assert (rows, labels) == (24, ["not_equivalent", "equivalent"])
    assert len(text.split()) == 5
    assert "no such data set" in str(online["missing"])
    assert "no-such-branch" in str(online["revision"])
    assert "cola" in str(online["config"])
    assert "mrpc" in str(online["config"])
    offline = read(
        site,
        glue,
        ("new", (f"{site.me}/never-read", None), {}),
        cache=cache,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_OFFLINE="1",
    )
    assert offline["glue"] == online["glue"]
    assert "not in the cache" in str(offline["new"])


def test_splits_that_name_the_classes_in_another_order_go_by_name(site: Site) -> None:
    """`datasets` gives all of them the names of the first split, by number."""
    program = TURNED.format(folder=str(site.folder / "turned"), name=site.id("turned"))
    labels, found = site.child(program, token=site.token).told
    assert labels == ["no", "yes"]
    assert found == {f"text {50 + i}": ["no", "yes"][i % 2] for i in range(24)}


MADE = """
import json
from pathlib import Path
from huggingface_hub import HfApi
from search_support import parts

folder = Path({folder!r})
rows = parts()
for name, part in rows.items():
    place = "" if name in ("corpus", "queries") else "qrels/"
    file = folder / f"{{place}}{{name}}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\\n".join(map(json.dumps, part)))
configs = {{"default": ["train: qrels/train", "test: qrels/test"],
           "corpus": ["corpus: corpus"], "queries": ["queries: queries"]}}
head = ["---", "configs:"]
for config, files in configs.items():
    head += [f"- config_name: {{config}}", "  data_files:"]
    for split, _, file in (each.partition(": ") for each in files):
        head += [f"  - split: {{split}}", f"    path: {{file}}.jsonl"]
(folder / "README.md").write_text("\\n".join([*head, "---", ""]))
HfApi().create_repo({name!r}, repo_type="dataset")
HfApi().upload_folder(repo_id={name!r}, repo_type="dataset", folder_path=folder)
"""

SEARCHED = """
from hub.support import told
import bertcompress as bc

task = bc.Task.load("scifact").model_copy(update={{"dataset": {name!r}}})
data = bc.load_data(task)
told([data.task.validation, len(data.validation), data.fingerprint])
"""


def test_a_search_comes_by_its_id_and_then_from_the_cache(site: Site) -> None:
    """In the form of MTEB: the configurations `corpus`, `queries` and `default`."""
    name, cache = site.id("search"), site.cache()
    program = MADE.format(folder=str(site.folder / "search"), name=name)
    site.child(program, token=site.token)
    online = site.child(SEARCHED.format(name=name), token=site.token, cache=cache).told
    assert online[:2] == ["test", 60 + 15]
    offline = site.child(
        SEARCHED.format(name=name),
        cache=cache,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_OFFLINE="1",
    ).told
    assert offline == online


APART = """
import json
from pathlib import Path
from huggingface_hub import HfApi
from search_support import parts

rows = parts()
for part in rows.values():
    for row in part:
        row.update({{k: v[1:] for k, v in row.items() if k.endswith("id")}})
for name, kept in (({name!r}, ("corpus", "queries")), ({qrels!r}, ("train", "test"))):
    folder = Path({folder!r}) / name
    folder.mkdir(parents=True)
    head = ["---", "configs:"]
    for part in kept:
        if part in ("corpus", "queries"):
            (folder / f"{{part}}.jsonl").write_text("\\n".join(map(json.dumps, rows[part])))
            head += [f"- config_name: {{part}}", "  data_files:", f"  - split: {{part}}",
                     f"    path: {{part}}.jsonl"]
        else:
            lines = ["\\t".join(map(str, row.values())) for row in rows[part]]
            table = "\\n".join(["\\t".join(rows[part][0]), *lines])
            (folder / f"{{part}}.tsv").write_text(table)
    if kept[0] == "corpus":
        (folder / "README.md").write_text("\\n".join([*head, "---", ""]))
    HfApi().create_repo(name, repo_type="dataset")
    HfApi().upload_folder(repo_id=name, repo_type="dataset", folder_path=folder)
"""

FOUND = """
from hub.support import told
import bertcompress as bc

fields = dict(dataset={name!r}, qrels={qrels!r}, text="text", label="score",
              problem="retrieval")
data = bc.load_data(bc.Task(name="apart", **fields))
told([data.task.validation, len(data.validation), data.fingerprint])
"""


@pytest.mark.slow
def test_judgements_come_from_a_data_set_of_their_own(site: Site) -> None:
    """In the form of BeIR/NAME and BeIR/NAME-qrels, whose ids are numbers."""
    names = {"name": site.id("apart"), "qrels": site.id("apart-qrels")}
    cache = site.cache()
    site.child(APART.format(folder=str(site.folder / "parted"), **names), token=site.token)
    online = site.child(FOUND.format(**names), token=site.token, cache=cache).told
    assert online[:2] == ["test", 60 + 15]
    offline = site.child(
        FOUND.format(**names),
        cache=cache,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_OFFLINE="1",
    ).told
    assert offline == online
