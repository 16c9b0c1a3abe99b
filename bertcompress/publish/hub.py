"""A finished run to the Hub, in one commit."""

from __future__ import annotations

from pathlib import Path

from bertcompress.errors import NotFound, OutputError

__all__ = ["push"]

_LEFT_OUT = ("stages", "baseline")
"""Intermediate models, and the baseline's files, which others have already."""


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a run to `owner/name` in one commit and return the commit's URL.

    The model goes to the top of the repository, so that `from_pretrained("owner/name")` finds it;
    ONNX and OpenVINO files, report and figures keep their places. Uses the token of the environment
    or of `hf auth login`. Raises NotFound for a folder that is no run, OutputError where the Hub
    refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    run = Path(folder)
    if not (run / "report.json").is_file():
        raise NotFound(f"{run}: no report.json; this is not the folder of a finished run")
    operations = [
        CommitOperationAdd(path_in_repo=_place(path.relative_to(run)), path_or_fileobj=path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.relative_to(run).parts[0] not in _LEFT_OUT
    ]
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository, operations, commit_message="Upload a compressed model"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = type(error).__name__
        raise OutputError(f"{repository}: the Hub refused the upload ({reason})") from None
    return str(commit.commit_url)


def _place(path: Path) -> str:
    return path.relative_to("model").as_posix() if path.parts[0] == "model" else path.as_posix()
