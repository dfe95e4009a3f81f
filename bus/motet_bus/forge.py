"""Starts Python processes by forking one that has imported what they need: 10 ms instead of half a second each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from motet_bus.forge_server import ORDER
from motet_bus.parent_watch import tethered

log = structlog.get_logger(__name__)

_START_S: Final = 30.0
_CLOSE_S: Final = 2.0
_LOST: Final = -int(signal.SIGKILL)


class Started(Protocol):
    """A process that was started, by whatever means."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def terminate(self) -> None: ...

    async def wait(self) -> int: ...


class ForkedProcess:
    """A process that the forge started: the child of the forge, not ours."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for the signal that ended it; None while it runs."""
        return self.ended.result() if self.ended.done() else None

    def terminate(self) -> None:
        """SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    async def wait(self) -> int:
        """Wait for its end; the exit status. What outlives the forge itself counts as killed."""
        return await asyncio.shield(self.ended)


class Forge:
    """One process to fork from; open it once, close it when all that it started has ended."""

    def __init__(self, imports: Sequence[str]) -> None:
        self._imports = tuple(imports)
        self._process: asyncio.subprocess.Process | None = None
        self._orders: socket.socket | None = None
        self._starting: deque[asyncio.Future[ForkedProcess]] = deque()
        self._running: dict[int, ForkedProcess] = {}
        self._heard = b""

    @property
    def open(self) -> bool:
        """Whether it can fork."""
        return self._orders is not None

    async def start(self) -> None:
        """Start it; it imports on while orders wait. Raises `OSError` when it cannot be started."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "motet_bus.forge_server", str(theirs.fileno()), *self._imports]
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *tethered(command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._orders = ours
        asyncio.get_running_loop().add_reader(ours, self._hear)

    async def spawn(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str],
        imports: Sequence[str],
        files: Sequence[int],
    ) -> ForkedProcess:
        """Fork a process that runs `module.main()` with `arguments`.

        `files` are its standard input, output and error, and `name` is what `top` and `pkill` know it by (15 letters,
        on Linux). The forge imports `imports` first: only what starts no thread may be among them.
        Raises `OSError` when the forge is not there (any more).
        """
        if self._orders is None:
            raise ConnectionError("the forge has ended")
        order = {
            "name": name,
            "module": module,
            "arguments": list(arguments),
            "env": dict(env),
            "imports": list(imports),
        }
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(order).encode())
            file.seek(0)
            started: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
            self._starting.append(started)
            socket.send_fds(self._orders, [ORDER], [file.fileno(), *files])
        try:
            async with asyncio.timeout(_START_S):
                return await asyncio.shield(started)
        except BaseException:
            started.add_done_callback(_end_unwanted)
            raise

    async def close(self) -> None:
        """End it; harmless when it has ended."""
        self._lose("it was closed")
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _hear(self) -> None:
        """Read what the forge says: what it started, and what has ended."""
        if self._orders is None:
            return
        try:
            heard = self._orders.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:
            log.warning("forge.ended")
            self._lose("it has ended")
            return
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            self._heed(json.loads(line))

    def _heed(self, words: dict[str, Any]) -> None:
        if (pid := words.get("started")) is not None:
            process = self._running[pid] = ForkedProcess(pid)
            waiting = self._starting.popleft()
            if not waiting.done():
                waiting.set_result(process)
        elif (ended := self._running.pop(words["ended"], None)) is not None and not ended.ended.done():
            ended.ended.set_result(words["status"])

    def _lose(self, why: str) -> None:
        if self._orders is not None:
            asyncio.get_running_loop().remove_reader(self._orders)
            self._orders.close()
            self._orders = None
        for waiting in self._starting:
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"the forge started nothing: {why}"))
        self._starting.clear()
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if not process.ended.done():
                process.ended.set_result(_LOST)
        self._running.clear()


def _end_unwanted(started: asyncio.Future[ForkedProcess]) -> None:
    """Kill what was started for somebody who no longer waits for it."""
    if not started.cancelled() and started.exception() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.result().pid, signal.SIGKILL)
