"""A finished run to the Hub, in one commit, without what is local or secret; and back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bertcompress.errors import InputError, NotFound, OutputError
from bertcompress.fetching import fetch
from bertcompress.publish.contents import contents
from bertcompress.remote import failures, patiently, reason, status, token, without_secrets
from bertcompress.report import Report
from bertcompress.store import write_atomically

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

__all__ = ["pull", "push"]

Say = Callable[[str], None]
"""Takes one line at a time about what was done."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OURS = re.compile(
    r"(onnx|openvino|bf16|figures)/.*|model[\w.-]*\.safetensors|modeling_bertcompress\.py|probe\.npz"
)
"""What a push puts there and another push may leave out; all other files are the user's."""


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    say: Say = lambda _: None,
) -> str:
    """Upload a run to `owner/name` in one commit and return the commit's URL.

    The model goes to the top of the repository, so that `from_pretrained("owner/name")` finds it;
    ONNX and OpenVINO files, report and figures keep their places. What goes up holds no token, no
    password and no absolute path; the run itself stays as it is. Files that are there already are
    not sent again, and where nothing changed no commit is made. Uses the token of the environment
    or of `hf auth login`.

    Args:
        folder: A finished run.
        repository: `owner/name`; it is created where it does not exist.
        private: Only you see it. A repository that is public already is refused.
        revision: Branch to commit to; it is created where it does not exist. By default `main`.
        create_pr: Open a pull request for `main` of a repository that exists, and return its URL.
        say: Called with a line about what was done.

    Raises:
        NotFound for a folder that is no run, InputError for options that exclude each other,
        OutputError where the Hub refuses or cannot be reached: nothing was committed then.
    """
    from huggingface_hub import HfApi

    run = Path(folder).expanduser()
    _check(run, repository, revision, create_pr)
    files = dict(contents(run, repository))
    api = HfApi()
    with _explained(repository):
        if not create_pr:
            patiently(lambda: _prepare(api, repository, private, revision))
        head = patiently(lambda: str(api.repo_info(repository, revision=revision).sha))
        commit = _settled(lambda: _commit(api, repository, files, head, revision, create_pr))
    url = without_secrets(str(commit.pr_url or commit.commit_url))
    say(f"{repository}: nothing changed, no commit made" if commit.oid == head else repository)
    return url


def pull(repository: str, folder: str | Path, *, revision: str | None = None) -> Path:
    """Write a repository of the Hub into a new folder, whole or not at all, and return it.

    `load`, `evaluate` and `bench` work on the folder as on the id; ONNX files run from it. What was
    downloaded before comes from the cache. Raises OutputError where the folder holds something,
    NotFound for what does not exist or may not be seen, and for a Hub that cannot be reached.
    """
    target = Path(folder).expanduser()
    if target.is_file():
        raise OutputError(f"{target}: is a file; a folder was to be written there")
    with write_atomically(target) as partial:
        source = fetch(repository, revision=revision)
        _check_whole(source, repository)
        shutil.copytree(source, partial)  # follows the links of the cache
    return target


def _check(run: Path, repository: str, revision: str | None, create_pr: bool) -> None:
    """Refuse what cannot work before anything is read or sent."""
    if not (run / "report.json").is_file():
        raise NotFound(f"{run}: no report.json; this is not the folder of a finished run")
    if not (run / "model").is_dir():
        raise NotFound(f"{run}: no model/; what was pulled is a copy: push the run itself")
    if create_pr and revision not in (None, "main"):
        raise InputError("--create-pr and --revision: a pull request is for main; give one of them")
    if not _NAME.fullmatch(repository):
        raise OutputError(
            f"{repository}: not a valid name; it is owner/name, of letters, digits, '-', '_', '.'"
        )
    if token() is None:
        raise OutputError(
            f"{repository}: no token; set HF_TOKEN, or log in by `hf auth login`. "
            "It needs the right to write"
        )


def _prepare(api: HfApi, repository: str, private: bool, revision: str | None) -> None:
    """Create repository and branch where they do not exist."""
    api.create_repo(repository, private=True if private else None, exist_ok=True)
    if private and not api.repo_info(repository).private:
        raise OutputError(
            f"{repository}: exists and is public; make it private in its settings, or choose "
            "another name"
        )
    if revision not in (None, "main"):
        api.create_branch(repository, branch=str(revision), exist_ok=True)


def _settled(commit: Callable[[], CommitInfo]) -> CommitInfo:
    """Return the commit that a call makes, or made before its answer got lost."""
    try:
        return patiently(commit)
    except failures() as error:
        if status(error) != 412:
            raise
    # The branch moved. If it was by this commit, whose answer was an error, then everything is
    # there and nothing is left to commit; if it was by somebody else, this is refused again.
    return patiently(commit)


def _commit(
    api: HfApi,
    repository: str,
    files: dict[str, Path | bytes],
    head: str,
    revision: str | None,
    create_pr: bool,
) -> CommitInfo:
    """Commit on top of `head`, or fail: who pushes meanwhile is not overwritten."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = api.list_repo_files(repository, revision=revision)
    gone = [path for path in there if _OURS.fullmatch(path) and path not in files]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        for path, content in files.items()
    ]
    operations += [CommitOperationDelete(path_in_repo=path) for path in gone]
    return api.create_commit(
        repository,
        operations,
        commit_message="Upload a compressed model",
        revision=revision,
        parent_commit=head,
        create_pr=create_pr,
    )


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn what the client raises into one OutputError, without the traceback of the client."""
    try:
        yield
    except failures() as error:
        words = reason(error)
        if "Invalid metadata in README.md" in str(error):
            words = "the card was refused: " + without_secrets(" ".join(str(error).split()))
        if "xet" in str(error).lower():
            words = f"the upload by Xet failed ({words}); without Xet: HF_HUB_DISABLE_XET=1"
        if status(error) == 412:
            words += "; push again"
        raise OutputError(f"{repository}: nothing was committed: {words}") from None


def _check_whole(source: Path, repository: str) -> None:
    """Refuse a cache that holds a part: offline, older clients cannot tell."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE or not (source / "report.json").is_file():
        return
    shipped = [row.path for row in Report.load(source).last.deployments if not row.simulated]
    files = ["model*.safetensors" if path == "model" else path for path in shipped]
    missing = [file for file in files if not any(source.glob(file))]
    if missing:
        raise NotFound(f"{repository}: offline, and {missing[0]} is not in the cache; pull it once")
