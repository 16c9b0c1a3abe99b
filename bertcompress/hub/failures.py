"""What went wrong with the Hub, in words; and a second try where that helps. Never a token."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from bertcompress.hub.bounding import bounded
from bertcompress.wording import plain

__all__ = ["failures", "hub", "patiently", "reason", "status", "token", "without_secrets"]

_Result = TypeVar("_Result")

WAITS_S = (1.0, 2.0, 4.0)
"""Between tries: some requests the client repeats by itself, others not; that differs too."""

PATIENCE_S = 10.0
"""A try that took longer is the last one: the client had been trying, or there was much to send."""

NONSENSE = (
    *(AssertionError, AttributeError, LookupError, TypeError),
    *(RecursionError, json.JSONDecodeError),
)
"""What the client raises where an answer is not of the shape that it expects."""

BUSY = (429, 500, 502, 503, 504)
"""Answers that another try may mend."""


def token() -> str | None:
    """Return the token of the environment or of `hf auth login`."""
    from huggingface_hub import get_token

    return get_token()


def without_secrets(text: str) -> str:
    """Return a text without tokens and without passwords in addresses."""
    known = token()
    text = text.replace(known, "(token)") if known else text
    return plain(text)


def hub() -> str:
    """Return the name of the server: the Hub, or the mirror that `HF_ENDPOINT` names."""
    from huggingface_hub import constants

    address = constants.ENDPOINT
    plain = address.rstrip("/") == "https://huggingface.co"
    return "the Hub" if plain else f"the Hub ({without_secrets(address)})"


def failures() -> tuple[type[BaseException], ...]:
    """Return what the client raises; its HTTP library differs from version to version.

    It takes answers apart without looking: of a server that answers nonsense it raises anything.
    """
    from huggingface_hub.errors import HfHubHTTPError

    library = (each for each in HfHubHTTPError.__bases__ if issubclass(each, Exception))
    return (*library, OSError, RuntimeError, ValueError, *NONSENSE)


def patiently(call: Callable[[], _Result]) -> _Result:
    """Return what a call returns, tried again where the server was busy or broke down.

    Answers are read up to a bound.
    """
    bounded()
    for wait in WAITS_S:
        began = time.monotonic()
        try:
            return call()
        except failures() as error:
            if status(error) not in BUSY or time.monotonic() - began > PATIENCE_S:
                raise
        time.sleep(wait)
    return call()


def status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, None where no answer came."""
    for each in _chain(error):
        found = getattr(getattr(each, "response", None), "status_code", None)
        if found is not None:
            return int(found)
    return None


def reason(error: BaseException) -> str:
    """Return what kind of failure it was, and what to do about it."""
    from huggingface_hub import errors

    chain = list(_chain(error))
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
        (errors.HFValidationError, f"not a valid Hub id, which is owner/name ({error})"),
        (errors.GatedRepoError, "gated: ask for access on its page first"),
        (errors.RepositoryNotFoundError, f"no such repository on {hub()}, or it is {_private()}"),
        (errors.RevisionNotFoundError, "the repository exists, this revision does not"),
    )
    for kind, words in kinds:
        if any(isinstance(each, kind) for each in chain):
            return words
    code = status(error)
    if code is None:
        return _without_answer(error, chain)
    said = _said(chain)
    known = {
        401: f"{hub()} refused the token; check HF_TOKEN, or log in again by `hf auth login`",
        403: f"this token has no right to do that{said}",
        412: "somebody else changed the branch meanwhile",
    }
    if code in BUSY:
        return f"{hub()} is busy or broken: it keeps answering {code}{said}"
    return known.get(code, f"{hub()} answered {code}{said}")


def _private() -> str:
    return "private and this token may not see it" if token() else "private and no token is set"


def _without_answer(error: BaseException, chain: list[BaseException]) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    library = HfHubHTTPError.__bases__[0]
    if any(isinstance(each, library | OSError) for each in chain):
        return f"{hub()} cannot be reached ({type(chain[-1]).__name__})"
    if isinstance(error, NONSENSE):
        return f"{hub()} answers nonsense ({type(error).__name__}: {_short(error)})"
    lines = str(error).strip().splitlines() or [""]
    return without_secrets(f"{type(error).__name__}: {lines[0][:300]}")


def _short(error: BaseException) -> str:
    return without_secrets(" ".join(str(error).split())[:200])


def _said(chain: list[BaseException]) -> str:
    """Return the server's own words, in brackets."""
    for each in chain:
        words = getattr(each, "server_message", None)
        if words:
            return f" ({without_secrets(' '.join(str(words).split()))[:300]})"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it, what caused that."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
