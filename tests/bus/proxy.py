"""A TCP proxy between a client and its nats-server that can lose what the server says."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class LossyProxy:
    """Listens on a loopback port of its own and passes bytes on, both ways.

    `swallow_next` loses the next answer that holds the given bytes, together with its connection: the server has done
    what it was asked, and the client cannot know.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._swallow: bytes | None = None
        self.swallowed = 0
        self.port = 0

    def swallow_next(self, marker: bytes) -> None:
        """Lose the next chunk from the server that holds `marker`."""
        self._swallow = marker

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            up = asyncio.create_task(self._pass_on(reader, server_writer, answers=False))
            down = asyncio.create_task(self._pass_on(server_reader, writer, answers=True))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for half in (up, down):
                    half.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
                server_writer.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while chunk := await reader.read(65_536):
            if answers and self._swallow is not None and self._swallow in chunk:
                self._swallow = None
                self.swallowed += 1
                return
            writer.write(chunk)
            await writer.drain()
