"""One run of a child process: its pipes, its ready line, its end, and the end of whatever it left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import structlog

from motet_bus.forge import Forge, Started
from motet_bus.parent_watch import HANDSHAKE, tethered

log = structlog.get_logger(__name__)

OutputStream = Literal["stdout", "stderr"]
Sink = Callable[[OutputStream, str], None]

_MAX_LINE_BYTES = 64 * 1024
_TAIL_LINES = 20
_DRAIN_S = 0.5
FORKABLE = (sys.executable, "-P", "-m")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run: `name` (for people and for the log file), the command, and its whole environment.

    `env` None means that the child inherits the environment of this process. A command of the form `python -P -m MODULE
    …` whose module has a `main() -> int` may be forked from a forge that has imported `imports`.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    imports: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """A child's ready line: `{"ready": true, "role": "planner", "pid": 4711, "instance": "planner-k3"}`."""

    role: str
    pid: int
    instance: str


class ChildProcess:
    """A started process in its own session and process group; `end` leaves nothing of it behind."""

    def __init__(self, process: Started, stdin: int, outputs: tuple[int, int], sink: Sink) -> None:
        self.ready: asyncio.Future[Ready | None] = asyncio.get_running_loop().create_future()
        self.draining = False
        """Whether it said that it was told to leave: it prints `{"draining": true}`."""
        self.stderr_tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = process
        self._stdin = stdin
        self._sink = sink
        self._broken: BaseException | None = None
        stdout, stderr = outputs
        self._pumps = (
            asyncio.create_task(self._pump("stdout", stdout)),
            asyncio.create_task(self._pump("stderr", stderr)),
        )
        for pump in self._pumps:
            pump.add_done_callback(self._pump_ended)
        self._reaper = asyncio.create_task(self._reap())

    @classmethod
    async def spawn(cls, spec: ProcessSpec, sink: Sink, forge: Forge | None = None) -> ChildProcess:
        """Start it, by a fork of the forge where that can be.

        OSError when the command cannot be run (on Linux that is exit status 127 instead).
        """
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            stdin_read, stdin_write = _pipe(reads=theirs, writes=ours)
            stdout_read, stdout_write = _pipe(reads=ours, writes=theirs)
            stderr_read, stderr_write = _pipe(reads=ours, writes=theirs)
            os.write(stdin_write, HANDSHAKE)
            # Our own pipes, not asyncio's: before Python 3.12.4 its wait() also waits until every grandchild that
            # inherited the pipes is gone.
            process = await _start(spec, forge, (stdin_read, stdout_write, stderr_write))
            ours.pop_all()
        return cls(process, stdin_write, (stdout_read, stderr_read), sink)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Wait until it is dead and nothing of it is left; the exit status (negative: the signal that ended it)."""
        status = await asyncio.shield(self._reaper)
        if self._broken is not None:
            raise self._broken
        return status

    async def end(self, timeout_s: float) -> None:
        """SIGTERM, and after `timeout_s` SIGKILL to the whole group; harmless when it is dead already."""
        try:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._reaper)
        except TimeoutError:
            log.warning("child.killed", pid=self.pid, after_s=timeout_s)
        finally:
            if not self._reaper.done():
                self._kill_group()
                await asyncio.shield(self._reaper)

    async def _reap(self) -> int:
        status = await self._process.wait()
        # What the child itself started and left would keep the pipes open and outlive us.
        self._kill_group()
        await asyncio.wait(self._pumps, timeout=_DRAIN_S)
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        os.close(self._stdin)
        if not self.ready.done():
            self.ready.set_result(None)
        return status

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _pump(self, stream: OutputStream, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        rest = b""
        try:
            while chunk := await reader.read(_MAX_LINE_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) >= _MAX_LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._line(stream, line)
            if rest:
                self._line(stream, rest)
        finally:
            transport.close()

    def _line(self, stream: OutputStream, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if stream == "stderr":
            self.stderr_tail.append(text)
        elif not self.ready.done() and (ready := parse_ready(text)) is not None:
            self.ready.set_result(ready)
            return
        elif _fields(text).get("draining") is True:
            self.draining = True
            return
        self._sink(stream, text)

    def _pump_ended(self, pump: asyncio.Task[None]) -> None:
        if not pump.cancelled() and (error := pump.exception()) is not None:
            self._broken = error
            self._kill_group()


async def _start(spec: ProcessSpec, forge: Forge | None, files: tuple[int, int, int]) -> Started:
    if forge is not None and forge.open and tuple(spec.argv[:3]) == FORKABLE:
        env = os.environ if spec.env is None else spec.env
        try:
            return await forge.spawn(
                spec.argv[3], spec.argv[4:], name=spec.name, env=env, imports=spec.imports, files=files
            )
        except OSError as error:
            log.warning("forge.not_used", child=spec.name, error=str(error))
    stdin, stdout, stderr = files
    return await asyncio.create_subprocess_exec(
        *tethered(spec.argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=None if spec.env is None else dict(spec.env),
        start_new_session=True,
    )


def parse_ready(line: str) -> Ready | None:
    """The ready line's content; None for any other line."""
    fields = _fields(line)
    role, pid, instance = fields.get("role"), fields.get("pid"), fields.get("instance")
    if fields.get("ready") is True and isinstance(role, str) and isinstance(pid, int) and isinstance(instance, str):
        return Ready(role, pid, instance)
    return None


def _fields(line: str) -> dict[str, object]:
    """Return the JSON object that a line is; an empty one for any other line."""
    if not line.startswith("{"):
        return {}
    try:
        parsed: Any = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}


def _pipe(*, reads: contextlib.ExitStack, writes: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    reads.callback(os.close, read)
    writes.callback(os.close, write)
    return read, write
