"""A Hub on loopback: HTTP in front of `repositories.Hub`, enough for the real client.

Not there: Xet, discussions, gated repositories, multipart uploads. Needs the standard library and
PyYAML. By hand: `python tests/hub/server.py 8080`, then `HF_ENDPOINT=http://127.0.0.1:8080` and the
token `hf_ann` or `hf_bob`.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from hub.faults import Fault, Faults
from hub.repositories import Hub, Refused, User
from hub.routes import Reply, Request, answer

__all__ = ["CONTROL", "Entry", "LocalHub"]

CONTROL = "/control/faults"
"""Takes a list of faults by POST, for programs in other processes; not of the real Hub."""


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    method: str
    path: str
    status: int
    """0 where the connection was dropped."""


class LocalHub:
    """A server that runs in this process between `with` and the end of its block."""

    def __init__(self, folder: Path, users: list[User], port: int = 0) -> None:
        self.hub = Hub(folder, users)
        self.faults = Faults()
        self.log: list[Entry] = []
        fields = {"hub": self.hub, "faults": self.faults, "log": self.log}
        self._server = Server(("127.0.0.1", port), type("Bound", (Handler,), fields))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def uploads(self) -> list[str]:
        """Return the addresses that large files were sent to."""
        return [entry.path for entry in self.log if entry.method == "PUT"]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    faults: Faults
    log: list[Entry]

    def log_message(self, format: str, *args: Any) -> None:
        """The log is a list."""

    def _serve(self) -> None:
        if self.path == CONTROL:
            self._control(json.loads(self._body()))
            return
        fault = self.faults.take(f"{self.command} {self.path}")
        if fault is not None and fault.status is None and not fault.answers:
            self._drop()
            return
        body = self._body()
        if fault is not None and fault.answers:
            self._send_altered(self._answer(body), fault)
            return
        # A fault that comes after the change is made answers in place of what was made.
        reply = None if fault and not fault.after else self._answer(body)
        self._send(reply if reply and not fault else self._failed(fault))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _control(self, faults: list[dict[str, Any]]) -> None:
        """Replace the faults that are to come."""
        self.faults.clear()
        for fault in faults:
            self.faults.add(**fault)
        self._send(Reply())

    def _answer(self, body: bytes) -> Reply:
        url = urlsplit(self.path)
        try:
            request = Request(
                method=self.command,
                path=url.path,
                query={key: values[0] for key, values in parse_qs(url.query).items()},
                headers={key.lower(): value for key, value in self.headers.items()},
                body=body,
                base=f"http://{self.headers['Host']}",
                user=self._user(),
            )
            with self.hub.lock:
                return answer(self.hub, request)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            if refused.commit:
                headers["X-Repo-Commit"] = refused.commit
            return Reply({"error": refused.message, **refused.body}, refused.status, headers)

    def _user(self) -> User | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        user = self.hub.tokens.get(given.removeprefix("Bearer ").strip())
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def _failed(self, fault: Fault | None) -> Reply:
        assert fault is not None and fault.status is not None
        # What a proxy might do: repeat the request, secrets included.
        words = f"{fault.message} (asked with {self.headers.get('Authorization')})"
        said = {"X-Error-Message": words} if words.isprintable() else {}
        return Reply({"error": words}, fault.status, said)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _drop(self) -> None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            self.rfile.read(int(self.rfile.readline().split(b";")[0], 16) // 2)
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        self.log.append(Entry(self.command, self.path, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send_altered(self, reply: Reply, fault: Fault) -> None:
        content = reply.content
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        if fault.body is not None:
            content = fault.body.encode()
        if fault.corrupt and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._send(Reply(content, reply.status, reply.headers), drip_s=fault.drip_s)

    def _send(self, reply: Reply, drip_s: float = 0.0) -> None:
        self.log.append(Entry(self.command, self.path, reply.status))
        content = reply.content
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for key, value in {**headers, **reply.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        for start in range(len(content)) if drip_s and self.command != "HEAD" else ():
            self.wfile.write(content[start : start + 1])
            self.wfile.flush()
            time.sleep(drip_s)
        if self.command != "HEAD" and not drip_s:
            self.wfile.write(content)


def main() -> None:
    users = [User("ann", "hf_ann"), User("bob", "hf_bob")]
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory() as folder, LocalHub(Path(folder), users, port) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
