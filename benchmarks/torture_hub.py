"""A Hub on loopback that serves one small model, and whose answers can be damaged."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torture_inputs import mutate_bytes, mutate_json

__all__ = ["BadHub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATE = "2026-01-01T00:00:00.000Z"


class BadHub:
    """Serves the files of a folder as the repository `me/tiny`."""

    def __init__(self, folder: Path) -> None:
        self.draw: random.Random | None = None
        """What damages the answers; None: they are whole."""
        handler = type("Bound", (_Handler,), {"site": self, "folder": folder})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: BadHub
    folder: Path

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:4] == ["api", "models", "me", "tiny"]:
            self._answer(self._tree() if "tree" in parts or "paths-info" in parts else self._info())
        elif parts[:3] == ["me", "tiny", "resolve"] and (self.folder / parts[-1]).is_file():
            self._file((self.folder / parts[-1]).read_bytes())
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD = do_POST = _serve

    def _info(self) -> dict[str, Any]:
        names = sorted(path.name for path in self.folder.iterdir())
        return {
            "_id": "1", "id": "me/tiny", "modelId": "me/tiny", "author": "me", "sha": COMMIT,
            "private": False, "gated": False, "disabled": False, "downloads": 1, "likes": 0,
            "tags": ["bert"], "lastModified": DATE, "createdAt": DATE, "usedStorage": 1,
            "siblings": [{"rfilename": name} for name in names],
        }  # fmt: skip

    def _tree(self) -> list[dict[str, Any]]:
        files = [(path.name, path.read_bytes()) for path in sorted(self.folder.iterdir())]
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            for name, content in files
        ]

    def _answer(self, value: Any) -> None:
        content = json.dumps(value).encode()
        if (draw := self.site.draw) is not None and draw.random() < 0.7:
            if draw.random() < 0.3:
                content = mutate_bytes(content, draw)
            else:
                try:
                    content = json.dumps(mutate_json(value, draw)).encode(errors="replace")
                except (ValueError, KeyError, IndexError, TypeError, RecursionError):
                    content = b"[]"
        self._send(200, content, {})

    def _file(self, content: bytes) -> None:
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT}
        draw, status = self.site.draw, 200
        if draw is not None and draw.random() < 0.3:
            kind = draw.choice(["bytes", "etag", "commit", "status", "length"])
            if kind == "bytes":
                content = mutate_bytes(content, draw)
            elif kind == "status":
                status = draw.choice([204, 302, 400, 401, 403, 404, 416, 500])
            elif kind == "length":
                headers["Content-Length"] = str(draw.choice([0, len(content) - 1, 10**15, "x"]))
            else:
                name = "ETag" if kind == "etag" else "X-Repo-Commit"
                headers[name] = draw.choice(["", "../../x", "a" * 5_000, '"'])
        self._send(status, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        common = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in (common | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.close_connection = True


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
