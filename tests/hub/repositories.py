"""What a Hub holds: users, repositories, commits; contents lie in a folder under their hashes."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["Commit", "File", "Hub", "Refused", "Repository", "User"]

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")


class Refused(Exception):
    """An answer that is not 2xx. `code` is how the client tells kinds of failure apart."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: object) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body
        self.commit: str | None = None


@dataclass(frozen=True)
class User:
    name: str
    token: str
    writes: bool = True
    """False for a token that may only read."""


@dataclass(frozen=True)
class File:
    size: int
    oid: str
    """SHA-1 of the git blob; of a large file, of its pointer."""
    sha256: str | None = None
    """Of a large file."""

    @property
    def address(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    id: str
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]
    parent: str | None = None


@dataclass
class Repository:
    kind: str
    """`models` or `datasets`."""
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    """`refs/pr/N` to commit."""
    created: str = field(default_factory=lambda: now())

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    def resolve(self, revision: str) -> Commit:
        """Return the commit that a branch, tag, pull request, id or start of an id stands for."""
        for names in (self.branches, self.tags, self.pulls):
            if revision in names:
                return self.commits[names[revision]]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            for commit in self.commits.values():
                if commit.id.startswith(revision):
                    return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, commit: Commit) -> list[Commit]:
        chain = [commit]
        while chain[-1].parent:
            chain.append(self.commits[chain[-1].parent])
        return chain


class Hub:
    """All repositories. Every change happens under `lock`, so a commit is seen whole or not."""

    def __init__(self, folder: Path, users: list[User]) -> None:
        self.folder = folder
        self.tokens = {user.token: user for user in users}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)

    # -- contents

    def put(self, content: bytes, address: str) -> None:
        (self.folder / address).write_bytes(content)

    def has(self, address: str) -> bool:
        return (self.folder / address).is_file()

    def content(self, file: File) -> bytes:
        return (self.folder / file.address).read_bytes()

    def regular(self, content: bytes) -> File:
        """Keep a small file and return its entry."""
        file = File(len(content), blob_id(content))
        self.put(content, file.oid)
        return file

    def large(self, sha256: str, size: int) -> File:
        """Return the entry of a large file whose content was uploaded before."""
        if not self.has(sha256):
            raise Refused(400, f"LFS pointer points to a file that does not exist: {sha256}")
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{sha256}")
        pointer = "\n".join((*lines, f"size {size}", "")).encode()
        return File(size, blob_id(pointer), sha256)

    # -- repositories and who may do what

    def create(self, kind: str, name: str, user: User, *, private: bool) -> Repository:
        may_write(user, name)
        if not NAME.fullmatch(name.rpartition("/")[2]):
            raise Refused(400, f'Invalid repository name: "{name}"')
        if (kind, name) in self.repositories:
            raise Refused(409, "You already created this repository")
        repository = Repository(kind, name, private)
        self.repositories[kind, name] = repository
        attributes = self.regular(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        self.commit(repository, "main", {".gitattributes": attributes}, "initial commit", "", user)
        return repository

    def readable(self, kind: str, name: str, user: User | None) -> Repository:
        """Return a repository that a user may see; what they may not see does not exist."""
        found = self.repositories.get((kind, name))
        if found is None or (found.private and (user is None or user.name != found.owner)):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        return found

    def writable(self, kind: str, name: str, user: User | None) -> Repository:
        found = self.readable(kind, name, user)
        may_write(user, name)
        return found

    def commit(
        self,
        repository: Repository,
        ref: str,
        files: dict[str, File],
        title: str,
        message: str,
        user: User,
        parent: Commit | None = None,
    ) -> Commit:
        """Add a commit and move a branch, or open a pull request, to it."""
        number = len(repository.commits)
        seed = f"{repository.id} {ref} {number} {title} {sorted(files.items())}"
        oid = hashlib.sha1(seed.encode()).hexdigest()
        before = parent.id if parent else None
        made = Commit(oid, title, message, user.name, now(), files, before)
        repository.commits[oid] = made
        (repository.pulls if ref.startswith("refs/pr/") else repository.branches)[ref] = oid
        return made


def may_write(user: User | None, name: str) -> None:
    if user is None:
        raise Refused(401, "Invalid username or password.")
    if name.partition("/")[0] != user.name or not user.writes:
        raise Refused(403, f"You don't have the rights to write to {name}")


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
