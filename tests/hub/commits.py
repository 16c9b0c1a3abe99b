"""From the lines of an upload to a commit, whole or not at all."""

from __future__ import annotations

import base64
from typing import Any

from hub.repositories import Commit, File, Hub, Refused, Repository, User

__all__ = ["make_commit", "preupload"]

LARGE = (".safetensors", ".onnx", ".parquet", ".bin", ".png", ".npz")
LIMIT = 10_000_000


def preupload(there: Commit, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how each file is to be sent, and what lies in its place: the client skips the same."""
    told = []
    for each in files:
        binary = b"\0" in base64.b64decode(each.get("sample") or "")
        large = each["path"].endswith(LARGE) or each["size"] > LIMIT or binary
        entry = {
            "path": each["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
        }
        if (old := there.files.get(each["path"])) is not None:
            entry["oid"] = old.address
        told.append(entry)
    return told


def make_commit(
    hub: Hub,
    repository: Repository,
    revision: str,
    lines: list[dict[str, Any]],
    user: User,
    ref: str,
) -> Commit:
    """Do what the lines say on top of a branch, and move `ref` there."""
    there = repository.resolve(revision)
    if revision not in repository.branches and not revision.startswith("refs/pr/"):
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, there.id):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(there.files)
    for line in lines:
        _apply(hub, files, line["key"], line["value"])
    title, message = header.get("summary", ""), header.get("description") or ""
    return hub.commit(repository, ref, files, title, message, user, there)


def _apply(hub: Hub, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    if key == "file":
        files[value["path"]] = hub.regular(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        size = value.get("size") or (hub.folder / value["oid"]).stat().st_size
        files[value["path"]] = hub.large(value["oid"], size)
    elif key == "deletedFile":
        if files.pop(value["path"], None) is None:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
    elif key == "deletedFolder":
        inside = [path for path in files if path.startswith(f"{value['path'].strip('/')}/")]
        for path in inside:
            del files[path]
