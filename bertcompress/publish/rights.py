"""What a token may do, asked before anything is read or sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertcompress.errors import OutputError
from bertcompress.hub.failures import failures, status
from bertcompress.wording import NAME, plain

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["may_write"]


def may_write(api: HfApi, repository: str, create_pr: bool) -> None:
    """Raise OutputError where the token says of itself that it may not write there."""
    try:
        who: Any = api.whoami()
    except failures() as error:
        if status(error) == 404:  # a server that does not tell
            return
        raise
    role = _inside(who, "auth", "accessToken", "role")
    if role == "read":
        raise OutputError(f"{repository}: this token has no right to write; it may only read")
    owner = repository.partition("/")[0]
    orgs = [_inside(org, "name") for org in _inside(who, "orgs") or ()]
    mine = [str(_inside(who, "name")), *map(str, orgs)]
    # What a fine-grained token may do it does not tell.
    if role == "write" and not create_pr and owner not in mine:
        raise OutputError(
            f"{repository}: this token, of {plain(mine[0], NAME)}, has no right to write there; "
            "--create-pr asks the owner"
        )


def _inside(answer: Any, *keys: str) -> Any:
    """Return what lies in an answer under some keys, None where it is of another shape."""
    for key in keys:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    return answer
