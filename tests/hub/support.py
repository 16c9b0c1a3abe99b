"""A server to test against, and processes that talk to it: each with a cache of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.server import LocalHub

__all__ = ["ROOT", "Done", "Site"]

ROOT = Path(__file__).parents[2]
FORGOTTEN = ("HF_", "HUGGING", "BERTCOMPRESS_", "TRANSFORMERS_", "XDG_")
"""What a process must not inherit: whose token, which cache, whether offline, which local GLUE."""


@dataclass(frozen=True)
class Done:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """What it printed last, as JSON."""
        return json.loads(self.out.splitlines()[-1])


@dataclass
class Site:
    """A Hub: the one of these tests, or another one that environment variables name."""

    url: str
    me: str
    token: str
    other: str
    """Token of a second user, who may see nothing of the first one's private repositories."""
    folder: Path
    local: LocalHub | None = None
    """None: the server is not ours, and nothing can be made to go wrong in it."""
    glue: str = ""
    """Id of a data set of the shape of GLUE, its owner's token."""
    glue_token: str = ""
    tag: str = ""
    """Ends each name, so that names are new on a server that others use."""
    made: list[str] = field(default_factory=list)

    def id(self, name: str) -> str:
        """Return `me/name`, to be removed at the end."""
        full = f"{self.me}/{name}{self.tag}"
        if full not in self.made:
            self.made.append(full)
        return full

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.token, self.other, self.glue_token)

    def cache(self) -> Path:
        """Return a new empty folder for `HF_HOME`."""
        return Path(tempfile.mkdtemp(dir=self.folder, prefix="cache-"))

    def environment(self, token: str | None, cache: Path | None, **more: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FORGOTTEN)}
        home = cache or self.cache()
        fixed = {
            "HF_ENDPOINT": self.url,
            # Both are read when the client is imported, and no local server speaks Xet.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HOME": str(home),
            "BERTCOMPRESS_HOME": str(home / "stages"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": "1",
        }
        return {**inherited, **fixed, **({"HF_TOKEN": token} if token else {}), **more}

    def start(
        self, program: str, *, token: str | None, cache: Path | None = None, **more: str
    ) -> subprocess.Popen[str]:
        """Start a process that runs a program."""
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env=self.environment(token, cache, **more),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def child(
        self,
        program: str,
        *,
        token: str | None = None,
        cache: Path | None = None,
        fails: bool = False,
        **more: str,
    ) -> Done:
        """Run a program in a process of its own; what it says holds no token."""
        process = self.start(program, token=token, cache=cache, **more)
        out, err = process.communicate(timeout=300)
        for secret in self.secrets:
            assert secret not in out + err, "a token was printed"
        assert fails or not process.returncode, err[-6000:]
        return Done(process.returncode, out, err)

    def command(self, *arguments: object, **options: Any) -> Done:
        """Run a `bertcompress` command."""
        words = [str(each) for each in arguments]
        program = (
            f"import sys; sys.argv[1:] = {words!r}\nfrom bertcompress.cli.main import main\nmain()"
        )
        return self.child(program, **options)

    def uploads(self) -> int | None:
        """Return how many large files were sent so far; None where nobody counts."""
        return None if self.local is None else len(self.local.uploads())


def told(value: Any) -> None:
    """Print what `Done.told` reads; for the programs of the tests."""
    sys.stdout.write(json.dumps(value) + "\n")
