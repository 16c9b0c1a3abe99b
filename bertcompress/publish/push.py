"""A finished run to the Hub, in one commit, without what is local or secret; and back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bertcompress.deployment import KNOWN_ANSWERS_FILE, Layout
from bertcompress.errors import InputError, NotFound, OutputError
from bertcompress.hub.download import fetch
from bertcompress.hub.failures import failures, patiently, reason, status, token, without_secrets
from bertcompress.hub.waiting import Say, SlowServer, by_xet, traffic, watched
from bertcompress.publish.contents import contents
from bertcompress.publish.manifest import own_files, strangers
from bertcompress.publish.rights import may_write
from bertcompress.report import Report
from bertcompress.runtimes import known_runtime
from bertcompress.runtimes.table import shipped_folders
from bertcompress.support.files import write_atomically
from bertcompress.support.progress import by_hand
from bertcompress.wording import NAME, plain

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

__all__ = ["pull", "push"]

_Answer = TypeVar("_Answer")
_SHOWN = 10
"""Names of what is left here that are listed."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _ours() -> re.Pattern[str]:
    """Return what a push puts there and another may leave out; other files are the user's."""
    beside = [name for name in shipped_folders() if name != Layout().model.name]
    folders = "|".join(map(re.escape, [*beside, Layout().figures.name]))
    return re.compile(
        rf"({folders})/.*|model[\w.-]*\.safetensors|modeling_bertcompress\.py|"
        rf"{re.escape(KNOWN_ANSWERS_FILE)}"
    )


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
    ONNX and OpenVINO files, report and figures keep their places. Only the run's own files go up,
    which its `manifest.json` lists: `say` names what else lies in the folder and stays, and no link
    is followed. What goes up holds no token, no password and no absolute path; the run itself stays
    as it is. Files that are there already are not sent again, and where nothing changed no commit
    is made. Uses the token of the environment or of `hf auth login`, which is asked first whether
    it may write.

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

    run, api = Path(folder).expanduser(), HfApi()
    _check(run, repository, revision, create_pr)

    def asked(call: Callable[[], _Answer]) -> _Answer:
        return watched(lambda: patiently(call), what=repository, say=say)

    with _explained(repository):
        asked(lambda: may_write(api, repository, create_pr))
    files = _gathered(run, repository, say)
    with _explained(repository):
        if not create_pr:
            asked(lambda: _prepare(api, repository, private, revision))
        head = asked(lambda: str(api.repo_info(repository, revision=revision).sha))
        commit = _settled(lambda: _sent(api, repository, files, head, revision, create_pr, say))
        url = without_secrets(str(commit.pr_url or commit.commit_url))
    say(f"{repository}: nothing changed, no commit made" if commit.oid == head else repository)
    return url


def pull(
    repository: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Write a repository of the Hub into a new folder, whole or not at all, and return it.

    `load`, `evaluate` and `bench` work on the folder as on the id; ONNX files run from it. What was
    downloaded before comes from the cache. Every file is checked against the hash that the server
    announced for it. `say` is told of a slow server.

    Raises:
        OutputError where the folder holds something or may not be written, before anything is
        downloaded; NotFound for what does not exist or may not be seen, and for a Hub that cannot
        be reached; CheckpointError for bytes that are not those announced: nothing is left then.
    """
    target = Path(folder).expanduser()
    if target.is_file():
        raise OutputError(f"{target}: is a file; a folder was to be written there")
    with write_atomically(target) as partial:
        partial.mkdir()
        source = fetch(repository, revision=revision, whole=True, say=say)
        _check_whole(source, repository)
        # Follows the links of the cache.
        shutil.copytree(source, partial, dirs_exist_ok=True)
    return target


def _gathered(run: Path, repository: str, say: Say) -> dict[str, Path | bytes]:
    """Return what goes up; what lies in the folder besides is named and left."""
    files = dict(contents(run, repository))
    left = strangers(run, own_files(run))
    if left:
        shown = ", ".join(plain(name, NAME) for name in left[:_SHOWN])
        more = f", and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        say(f"left here, since the run did not make it: {shown}{more}")
    for line in _not_portable(run):
        say(line)
    size = sum(map(_size, files.values()))
    say(f"{repository}: {len(files)} files, {size / 1e6:,.1f} MB")
    return files


def _not_portable(run: Path) -> Iterator[str]:
    """Yield a line for each file that runs nowhere else than where it was built."""
    for row in Report.load(run).last.deployments:
        runtime = known_runtime(row.runtime)
        if runtime is not None and not runtime.portable:
            yield f"{row.path}: a file of {row.runtime} does not travel; it loads in {row.loads_in}"


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _check(run: Path, repository: str, revision: str | None, create_pr: bool) -> None:
    """Refuse what cannot work before anything is read or sent."""
    if not Layout(run).is_run:
        raise NotFound(f"{run}: no report.json; this is not the folder of a finished run")
    if not Layout(run).model.is_dir():
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


def _sent(
    api: HfApi,
    repository: str,
    files: dict[str, Path | bytes],
    head: str,
    revision: str | None,
    create_pr: bool,
    say: Say,
) -> CommitInfo:
    """Return the commit with these files, sent while their sending is watched."""
    paths = {str(path.resolve()) for path in files.values() if isinstance(path, Path)}
    total = sum(map(_size, files.values()))
    with by_hand("sending", total, unit="B") as bar:
        return watched(
            lambda: _commit(api, repository, files, head, revision, create_pr),
            lambda: _read_so_far(paths),
            what=repository,
            say=say,
            moved=bar.update,
        )


def _read_so_far(paths: set[str]) -> int:
    """Return how far the files that are being sent were read, where the system tells that."""
    import psutil

    if by_xet() or not psutil.LINUX:
        return traffic()
    opened = psutil.Process().open_files()
    return sum(int(getattr(each, "position", 0)) for each in opened if each.path in paths)


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
    ours = _ours()
    gone = [path for path in there if ours.fullmatch(path) and path not in files]
    added = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        for path, content in files.items()
    ]
    for operation in added:
        # One by one, in this thread: several would use threads that Ctrl-C has to wait for.
        if isinstance(files[operation.path_in_repo], Path):
            api.preupload_lfs_files(
                repository, [operation], revision=revision, create_pr=create_pr, num_threads=1
            )
    operations: list[CommitOperationAdd | CommitOperationDelete] = [*added]
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
    except SlowServer as error:
        words = f"given up, the server is too slow ({error})"
        raise OutputError(f"{repository}: nothing was committed: {words}") from None
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

    if not constants.HF_HUB_OFFLINE or not Layout(source).is_run:
        return
    model = Layout().model.name
    shipped = [row.path for row in Report.load(source).last.deployments if not row.simulated]
    files = ["model*.safetensors" if path == model else path for path in shipped]
    missing = [file for file in files if not any(source.glob(file))]
    if missing:
        raise NotFound(f"{repository}: offline, and {missing[0]} is not in the cache; pull it once")
