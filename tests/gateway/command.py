"""The real command line, as a user types it: one process a command, killed at the end whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples" / "content-qa"
_TIMEOUT_S = 100.0


class Motet:
    """`motet` on one private store."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.store = folder / "store"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOTET_")}
        self.environment = {**inherited, "MOTET_STORE": str(self.store), "MOTET_CLAIM_TTL_S": "4", **environment}

    def __call__(self, *arguments: str | Path, timeout_s: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            self._command(arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str | Path, expect: int = 0) -> Any:
        """Run one command with `--json` and return its one document; the exit status must be `expect`."""
        done = self(*arguments, "--json")
        assert done.returncode == expect, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    @contextmanager
    def started(self, *arguments: str | Path) -> Generator[subprocess.Popen[str]]:
        """Start one command, and see to it that it has ended afterwards."""
        process = subprocess.Popen(
            self._command(arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise

    def everything(self) -> list[int]:
        """Return the ids of all processes that run on this store right now, the server among them."""
        agents = [int(agent["pid"]) for agent in self.json("agents")]
        return [*agents, int((self.store / "nats" / "server.pid").read_text())]

    def _command(self, arguments: tuple[str | Path, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "motet_gateway.cli", *map(str, arguments)]


def eventually(holds: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Poll until `holds()` is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError(f"within {timeout_s:g} s it did not come true that {what}")


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Pages:
    """A web server on loopback whose pages come when they are `released`, so that a run has a middle."""

    def __init__(self) -> None:
        self.released = threading.Event()
        released = self.released

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                released.wait(_TIMEOUT_S)
                with contextlib.suppress(OSError):  # whoever asked may have been killed
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_GET = do_HEAD  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def host(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Pages:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def slow_task(folder: Path, pages: Pages, conversation: str, links: int = 2) -> Path:
    """Write a task whose link check waits for the pages."""
    draft = "# Tea\n\nTerms apply.\n\n" + "".join(f"- [{n}](http://{pages.host}/{n})\n" for n in range(links))
    checklist = {"compliance": {"required": ["Terms apply"]}, "links": {"allow_hosts": [pages.host], "timeout_s": 60}}
    task = {"kind": "content-qa", "id": conversation, "input": {"text": draft}, "checklist": checklist}
    path = folder / f"{conversation}.json"
    path.write_text(json.dumps(task))
    return path


def subjects_of(documents: list[dict[str, Any]]) -> list[str]:
    """Return the subjects of recorded facts, after checking that each was recorded once (a claim is renewed often)."""
    subjects = [document["subject"] for document in documents]
    once = [subject for subject in subjects if not subject.startswith("step.renewed.")]
    assert len(set(once)) == len(once), once
    return subjects
