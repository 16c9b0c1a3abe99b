"""Which address does what: one function for each, in the order of the client's life."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from hub.cards import front_matter, problems
from hub.commits import make_commit, preupload
from hub.repositories import Commit, File, Hub, Refused, Repository, User, may_write

__all__ = ["Reply", "Request", "answer"]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    base: str
    user: User | None

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def known(self) -> User:
        """Return who asks; nobody may ask this without a token."""
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        return self.user


@dataclass(frozen=True)
class Reply:
    content: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Route = Callable[..., Reply]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
REPO = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+?)"


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    def register(function: Route) -> Route:
        ROUTES.append((methods, re.compile(pattern), function))
        return function

    return register


def answer(hub: Hub, request: Request) -> Reply:
    """Return the answer to a request; Refused where it is not 2xx."""
    for methods, pattern, function in ROUTES:
        found = pattern.fullmatch(request.path)
        if found and request.method in methods.split():
            parts = {key: unquote(value) for key, value in found.groupdict().items() if value}
            return function(hub, request, **parts)
    raise Refused(404, f"no such address: {request.method} {request.path}")


# -- who, and which repositories


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Reply:
    user = request.known()
    role = "write" if user.writes else "read"
    access = {"accessToken": {"displayName": "test", "role": role}}
    return Reply({"type": "user", "name": user.name, "orgs": [], "auth": access})


@route("POST", "/api/repos/create")
def create(hub: Hub, request: Request) -> Reply:
    user, asked = request.known(), request.json()
    name = f"{asked.get('organization') or user.name}/{asked['name']}"
    kind = f"{asked.get('type') or 'model'}s"
    url = f"{request.base}/{'' if kind == 'models' else f'{kind}/'}{name}"
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    try:
        hub.create(kind, name, user, private=private)
    except Refused as refused:
        refused.body["url"] = url
        raise
    return Reply({"url": url, "name": name})


@route("DELETE", "/api/repos/delete")
def delete(hub: Hub, request: Request) -> Reply:
    asked = request.json()
    owner = asked.get("organization") or request.known().name
    kind, name = f"{asked.get('type') or 'model'}s", f"{owner}/{asked['name']}"
    hub.writable(kind, name, request.user)
    del hub.repositories[kind, name]
    return Reply()


@route("POST", "/api/repos/move")
def move(hub: Hub, request: Request) -> Reply:
    asked = request.json()
    kind = f"{asked.get('type') or 'model'}s"
    repository = hub.writable(kind, asked["fromRepo"], request.user)
    may_write(request.user, asked["toRepo"])
    if (kind, asked["toRepo"]) in hub.repositories:
        raise Refused(409, "A repository of this name exists")
    del hub.repositories[kind, repository.id]
    repository.id = asked["toRepo"]
    hub.repositories[kind, repository.id] = repository
    return Reply()


@route("PUT", f"{REPO}/settings")
def settings(hub: Hub, request: Request, kind: str, name: str) -> Reply:
    repository, asked = hub.writable(kind, name, request.user), request.json()
    if "visibility" in asked or "private" in asked:
        repository.private = asked.get("visibility") == "private" or bool(asked.get("private"))
    return Reply({"private": repository.private})


@route("GET", "/api/(?P<kind>models|datasets)")
def listing(hub: Hub, request: Request, kind: str) -> Reply:
    author, words = request.query.get("author"), request.query.get("search", "")
    seen = [
        repository
        for (of, name), repository in sorted(hub.repositories.items())
        if of == kind and words in name and author in (None, repository.owner)
        and (not repository.private or (request.user and request.user.name == repository.owner))
    ]  # fmt: skip
    return Reply([_info(hub, r, r.resolve("main")) for r in seen])


# -- up


@route("POST", "/api/validate-yaml")
def validate(hub: Hub, request: Request) -> Reply:
    errors = [{"message": words} for words in problems(request.json()["content"])]
    return Reply({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", f"{REPO}/preupload/(?P<revision>[^/]+)")
def upload_modes(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Reply:
    pull = "create_pr" in request.query
    find = hub.readable if pull else hub.writable
    repository = find(kind, name, request.user)
    files = preupload(repository.resolve(revision), request.json()["files"])
    return Reply({"files": files})


@route("POST", f"{PAGE}\\.git/info/lfs/objects/batch")
def batch(hub: Hub, request: Request, name: str, kind: str = "models") -> Reply:
    asked = request.json()
    hub.readable(kind, name, request.user)
    objects: list[dict[str, Any]] = []
    for each in asked["objects"]:
        told = {"oid": each["oid"], "size": each["size"]}
        if not hub.has(each["oid"]):
            href = f"{request.base}/lfs/{each['oid']}?signed=yes"
            told["actions"] = {
                "upload": {"href": href},
                "verify": {"href": f"{request.base}/lfs-verify"},
            }
        objects.append(told)
    headers = {"Content-Type": "application/vnd.git-lfs+json"}
    return Reply({"transfer": "basic", "objects": objects}, headers=headers)


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def upload(hub: Hub, request: Request, oid: str) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refused(400, "The content is not what its hash says")
    hub.put(request.body, oid)
    return Reply()


@route("POST", "/lfs-verify")
def verify(hub: Hub, request: Request) -> Reply:
    if not hub.has(request.json()["oid"]):
        raise Refused(404, "No such object")
    return Reply()


@route("POST", f"{REPO}/commit/(?P<revision>[^/]+)")
def commit(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Reply:
    pull = "create_pr" in request.query
    repository = (hub.readable if pull else hub.writable)(kind, name, request.user)
    user = request.known()
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    ref = f"refs/pr/{len(repository.pulls) + 1}" if pull else revision
    made = make_commit(hub, repository, revision, lines, user, ref)
    page = f"{request.base}/{'' if kind == 'models' else f'{kind}/'}{name}"
    told = {"success": True, "commitOid": made.id, "commitUrl": f"{page}/commit/{made.id}"}
    if pull:
        told["pullRequestUrl"] = f"{page}/discussions/{ref.rpartition('/')[2]}"
    return Reply(told)


@route("POST DELETE", f"{REPO}/branch/(?P<branch>.+)")
def branch(hub: Hub, request: Request, kind: str, name: str, branch: str) -> Reply:
    repository = hub.writable(kind, name, request.user)
    start = None if request.method == "DELETE" else request.json().get("startingPoint") or "main"
    return _ref(repository, repository.branches, branch, start)


@route("POST", f"{REPO}/tag/(?P<revision>[^/]+)")
def tag(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Reply:
    repository = hub.writable(kind, name, request.user)
    return _ref(repository, repository.tags, request.json()["tag"], revision)


@route("DELETE", f"{REPO}/tag/(?P<tag>.+)")
def untag(hub: Hub, request: Request, kind: str, name: str, tag: str) -> Reply:
    repository = hub.writable(kind, name, request.user)
    return _ref(repository, repository.tags, tag, None)


def _ref(repository: Repository, refs: dict[str, str], name: str, start: str | None) -> Reply:
    """Set a reference to a revision; drop it where there is none."""
    if start is not None and name in refs:
        raise Refused(409, f"Reference already exists: {name}")
    if start is None and refs.pop(name, None) is None:
        raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
    if start is not None:
        refs[name] = repository.resolve(start).id
    return Reply()


# -- down


@route("GET", f"{REPO}(?:/revision/(?P<revision>[^/]+))?")
def info(hub: Hub, request: Request, kind: str, name: str, revision: str = "main") -> Reply:
    repository = hub.readable(kind, name, request.user)
    sizes = "blobs" in request.query
    return Reply(_info(hub, repository, repository.resolve(revision), sizes=sizes))


@route("GET", f"{REPO}/refs")
def refs(hub: Hub, request: Request, kind: str, name: str) -> Reply:
    repository = hub.readable(kind, name, request.user)
    told = {
        group: [
            {"name": n, "ref": n if n.startswith("refs/") else f"{place}/{n}", "targetCommit": c}
            for n, c in names.items()
        ]
        for group, place, names in (
            ("branches", "refs/heads", repository.branches),
            ("tags", "refs/tags", repository.tags),
            ("pullRequests", "", repository.pulls),
        )
    }
    return Reply({**told, "converts": []})


@route("GET", f"{REPO}/commits/(?P<revision>[^/]+)")
def commits(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Reply:
    repository = hub.readable(kind, name, request.user)
    chain = repository.history(repository.resolve(revision))
    fields = ("id", "title", "message", "date")
    return Reply(
        [{**{f: getattr(c, f) for f in fields}, "authors": [{"user": c.author}]} for c in chain]
    )


@route("GET", f"{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
def tree(
    hub: Hub, request: Request, kind: str, name: str, revision: str, folder: str = ""
) -> Reply:
    there = hub.readable(kind, name, request.user).resolve(revision)
    start = f"{folder.strip('/')}/" if folder.strip("/") else ""
    deep = request.query.get("recursive", "false").lower() in ("true", "1")
    told: dict[str, dict[str, Any]] = {}
    for path in sorted(there.files):
        if not path.startswith(start):
            continue
        steps = path[len(start) :].split("/")
        for depth in range(1, len(steps) if deep else min(2, len(steps))):
            told.setdefault(inner := start + "/".join(steps[:depth]), _folder(inner))
        if deep or len(steps) == 1:
            told[path] = _file(path, there.files[path])
    if start and not told:
        raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return Reply(list(told.values()))


@route("POST", f"{REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Reply:
    there = hub.readable(kind, name, request.user).resolve(revision)
    wanted = [path.strip("/") for path in parse_qs(request.body.decode()).get("paths", [])]
    files = [_file(path, there.files[path]) for path in wanted if path in there.files]
    folders = [p for p in wanted if any(path.startswith(f"{p}/") for path in there.files)]
    return Reply(files + [_folder(path) for path in folders])


@route("GET HEAD", f"{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(
    hub: Hub, request: Request, name: str, revision: str, path: str, kind: str = "models"
) -> Reply:
    there = hub.readable(kind, name, request.user).resolve(revision)
    file = there.files.get(path)
    if file is None:
        missing = Refused(404, "Entry not found", "EntryNotFound")
        missing.commit = there.id
        raise missing
    content = hub.content(file)
    headers = {"X-Repo-Commit": there.id, "ETag": f'"{file.address}"', "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream"
    if file.sha256:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if span is None:
        return Reply(content, headers=headers)
    first, last = int(span[1]), min(int(span[2] or file.size - 1), file.size - 1)
    if first > last:
        raise Refused(416, "Range not satisfiable")
    headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
    return Reply(content[first : last + 1], 206, headers)


def _file(path: str, file: File) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    if file.sha256:
        told["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
    return told


def _folder(path: str) -> dict[str, Any]:
    oid = hashlib.sha1(path.encode()).hexdigest()
    return {"type": "directory", "path": path, "oid": oid, "size": 0}


def _info(
    hub: Hub, repository: Repository, there: Commit, *, sizes: bool = False
) -> dict[str, Any]:
    readme = there.files.get("README.md")
    card = front_matter(hub.content(readme).decode()) if readme else {}
    siblings = []
    for path, file in sorted(there.files.items()):
        told: dict[str, Any] = {"rfilename": path}
        if sizes:
            told |= {"size": file.size, "blobId": file.oid}
        if sizes and file.sha256:
            told["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 130}
        siblings.append(told)
    return {
        "id": repository.id,
        "author": repository.owner,
        "sha": there.id,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(card.get("tags") or ()),
        "cardData": card or None,
        "pipeline_tag": card.get("pipeline_tag"),
        "library_name": card.get("library_name"),
        "lastModified": there.date,
        "createdAt": repository.created,
        "siblings": siblings,
    }
