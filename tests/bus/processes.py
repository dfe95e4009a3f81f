"""Agents as real operating-system processes that a test can kill, stop and start again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motet_schemas import Namespace
from tests.bus.servers import until

ROOT = Path(__file__).parents[2]


@dataclass
class AgentProcess:
    """One running (or dead) agent process."""

    pid: int
    ready_file: Path
    log: Path

    @property
    def alive(self) -> bool:
        """Whether it still exists."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    async def ready(self) -> None:
        """Wait until its consumers are there."""
        await until(lambda: self.ready_file.exists() or not self.alive, within_s=20)
        assert self.ready_file.exists(), self.log.read_text()

    async def gone(self, *, within_s: float = 15.0) -> None:
        """Wait until it has ended."""
        await until(lambda: not self.alive, within_s=within_s)

    def signal(self, number: int) -> None:
        """Send it a signal; nothing when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class AgentProcesses:
    """Starts agents in one namespace on one server; none of them outlives the context."""

    def __init__(self, zygote: Zygote, folder: Path, url: str, namespace: Namespace) -> None:
        self._zygote = zygote
        self._folder = folder
        self._url = url
        self._namespace = namespace
        self._started: list[AgentProcess] = []
        self.runs_file = folder / "runs"
        self.defaults: dict[str, Any] = {"claim_ttl_s": 1.0, "ack_wait_s": 0.5}

    def start(self, agent: str, **order: object) -> AgentProcess:
        """Start `module:agent`; `crash` names the point at which it kills itself, once.

        It does so when it passes that point for the `nth` time; `signal` is what it sends itself instead of SIGKILL.
        `clock_off_s` is by how much its clock is wrong.
        """
        ready_file = self._folder / f"ready-{len(self._started)}"
        log = self._folder / "agents.log"
        full: dict[str, object] = {
            **self.defaults,
            "agent": agent,
            "url": self._url,
            "namespace": self._namespace.name,
            "ready": str(ready_file),
            "log": str(log),
            "environ": {"MOTET_TEST_RUNS": str(self.runs_file)},
            **order,
        }
        process = AgentProcess(self._zygote.fork(full), ready_file, log)
        self._started.append(process)
        return process

    def runs(self) -> list[str]:
        """Return what the handlers noted, run by run."""
        return self.runs_file.read_text().split() if self.runs_file.exists() else []

    def __enter__(self) -> AgentProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.signal(signal.SIGKILL)


class Zygote:
    """The process that forks the agents; end it and they end with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bus.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )

    def fork(self, order: dict[str, object]) -> int:
        """Start one agent; its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
