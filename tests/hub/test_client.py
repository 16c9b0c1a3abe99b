"""The server itself, by the real client: what the tests beside this one stand on."""

from __future__ import annotations

from hub.support import Site

STORY = """
from pathlib import Path
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete, HfApi
from huggingface_hub import errors, hf_hub_download, snapshot_download
from hub.support import told

api, bob, name = HfApi(), HfApi(token={other!r}), {name!r}
def kind(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except (errors.HfHubHTTPError, ValueError) as error:
        return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", 0)]
    return ["fine", 200]

seen = {{"missing": kind(api.repo_info, name)}}
api.create_repo(name, private=True)
seen["again"] = kind(api.create_repo, name)
api.create_repo(name, exist_ok=True)
seen["squat"] = kind(bob.create_repo, name + "-2")
first = api.create_commit(name, commit_message="first", operations=[
    Add("README.md", b"---\\nlicense: mit\\n---\\nhello"), Add("a/b/large.bin", bytes(range(256))),
    Add("a/small.txt", b"0123456789"), Add("empty.txt", b""),
])
seen["hidden"] = [kind(bob.repo_info, name), kind(HfApi(token=False).repo_info, name)]
seen["forged"] = kind(HfApi(token="hf_nobody").repo_info, name)
unchanged = Add("a/small.txt", b"0123456789")
same = api.create_commit(name, [unchanged], commit_message="same")
seen["no empty commit"] = same.oid == first.oid
api.create_tag(name, tag="v1")
api.create_branch(name, branch="work/one")
second = api.create_commit(name, commit_message="second", revision="work/one", operations=[
    Delete("a/", is_folder=True), Add("new.txt", b"new"),
])
late = {{"operations": [Add("x.txt", b"x")], "commit_message": "late"}}
stale = {{"revision": "work/one", "parent_commit": first.oid}}
seen["stale"] = kind(api.create_commit, name, **late, **stale)
seen["no branch"] = kind(api.create_commit, name, **late, revision="no")
seen["no file"] = kind(hf_hub_download, name, "not.txt")
seen["no revision"] = kind(hf_hub_download, name, "a/small.txt", revision="v2")
seen["main"] = api.list_repo_files(name)
seen["work"] = api.list_repo_files(name, revision="work/one")
seen["titles"] = [c.title for c in api.list_repo_commits(name, revision="work/one")]
tree = api.list_repo_tree(name, "a", revision="v1")
seen["tree"] = sorted(entry.path for entry in tree)
infos = api.get_paths_info(name, ["a/b/large.bin", "a", "not"], revision=first.oid[:12])
seen["infos"] = {{entry.path: getattr(entry, "size", None) for entry in infos}}
refs = api.list_repo_refs(name)
seen["refs"] = sorted(ref.name for ref in refs.branches + refs.tags)
folder = Path(snapshot_download(name, revision="v1"))
seen["content"] = [(folder / path).read_text() for path in ("a/small.txt", "empty.txt")]
from huggingface_hub import HfFileSystem
with HfFileSystem().open(f"{{name}}/a/b/large.bin", "rb", block_size=16) as stream:
    stream.seek(250)
    seen["range"] = list(stream.read(3))
seen["card"] = api.model_info(name).card_data.license
seen["bad card"] = kind(api.upload_file, repo_id=name, path_in_repo="README.md",
                        path_or_fileobj=b"---\\ntags: 7\\n---\\n")
api.delete_tag(name, tag="v1")
api.delete_branch(name, branch="work/one")
seen["gone"] = kind(api.repo_info, name, revision="v1")
seen["not his"] = kind(bob.delete_repo, name)
api.delete_repo(name)
seen["exists"] = api.repo_exists(name)
told(seen)
"""

DENIED = {401, 403, 404}
"""Servers differ in which."""
NO_REPOSITORY = "RepositoryNotFoundError"


def test_the_life_of_a_repository(site: Site) -> None:
    program = STORY.format(name=site.id("life"), other=site.other)
    seen = site.child(program, token=site.token).told
    assert seen["missing"][0] == NO_REPOSITORY
    assert [kind for kind, _ in seen["hidden"]] == [NO_REPOSITORY] * 2
    assert seen["not his"][0] == NO_REPOSITORY
    for what, codes in (("again", {409}), ("stale", {412}), ("squat", DENIED), ("forged", DENIED)):
        assert seen[what][1] in codes, what
    for what in ("no branch", "no revision", "gone"):
        assert seen[what][0] == "RevisionNotFoundError", what
    assert seen["no file"][0].endswith("EntryNotFoundError")
    assert seen["bad card"][0] == "ValueError"
    assert seen["no empty commit"]
    assert set(seen["main"]) == {
        *(".gitattributes", "README.md"),
        *("a/b/large.bin", "a/small.txt", "empty.txt"),
    }
    assert set(seen["work"]) == {".gitattributes", "README.md", "empty.txt", "new.txt"}
    assert seen["titles"] == ["second", "first", "initial commit"]
    assert seen["tree"] == ["a/b", "a/small.txt"]
    assert seen["infos"] == {"a/b/large.bin": 256, "a": None}
    assert seen["refs"] == ["main", "v1", "work/one"]
    assert seen["content"] == ["0123456789", ""]
    assert seen["range"] == [250, 251, 252]
    assert seen["card"] == "mit"
    assert seen["exists"] is False
