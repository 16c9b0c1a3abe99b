"""The Hub's answers have an end: a server that sends JSON without one is cut off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["MOST_BYTES", "bounded"]

MOST_BYTES = 64_000_000
"""Of an answer in JSON: the list of a repository of 100,000 files has about 30 MB."""


def bounded() -> None:
    """Let this thread's HTTP client of `huggingface_hub` read answers in JSON up to `MOST_BYTES`.

    Files are not touched: they go to disk, and their size is known. A longer answer raises
    ValueError, as one that makes no sense does.
    """
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    client: Any = get_session()
    if hasattr(client, "event_hooks"):  # httpx, since huggingface_hub 1
        hooks = client.event_hooks
        if _cut not in hooks["response"]:
            client.event_hooks = {**hooks, "response": [*hooks["response"], _cut]}
    elif _cut_requests not in client.hooks["response"]:
        client.hooks["response"].append(_cut_requests)


def _too_long(address: object) -> ValueError:
    return ValueError(f"{address}: an answer of more than {MOST_BYTES / 1e6:,.0f} MB")


def _is_json(response: Any) -> bool:
    return "json" in response.headers.get("content-type", "")


def _cut(response: Any) -> None:
    """Replace the stream of an answer by one that ends; called before it is read."""
    if not _is_json(response):
        return
    library = sys.modules[type(response).__module__.partition(".")[0]]
    stream, address = response.stream, response.url.path

    class Bounded(library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[bytes]:
            read = 0
            for chunk in stream:
                read += len(chunk)
                if read > MOST_BYTES:
                    raise _too_long(address)
                yield chunk

        def close(self) -> None:
            stream.close()

    response.stream = Bounded()


def _cut_requests(response: Any, **_: Any) -> None:
    """Read the body of an answer here, up to its end or the bound."""
    if not _is_json(response):
        return
    body = bytearray()
    for chunk in response.iter_content(65_536):
        body += chunk
        if len(body) > MOST_BYTES:
            response.close()
            raise _too_long(response.url.partition("?")[0])
    response._content = bytes(body)  # what `requests` itself reads once
