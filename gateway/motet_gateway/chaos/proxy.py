"""A TCP proxy between clients and their nats-server that loses, repeats, delays and cuts what passes through."""

from __future__ import annotations

import asyncio
import contextlib
import re
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 65_536
_PUBLISH: Final = re.compile(rb"(?:PUB|HPUB) [^\r\n]+ (\d+)\r\n")


class _Passage:
    """One client's connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.flowing = asyncio.Event()
        self.flowing.set()

    def cut(self) -> None:
        """Break both ends at once; what is on its way is lost."""
        for end in (self.client, self.server):
            end.transport.abort()


class FaultyProxy:
    """Listens on a loopback port of its own and passes bytes on, both ways, with the faults that are ordered.

    `lose_next_answer` and `repeat_next_publish` are for one occasion each, whichever connection it comes on; `lost`
    and `repeated` count those that happened.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.lost = 0
        self.repeated = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._passages: list[_Passage] = []
        self._lose: bytes | None = None
        self._lost_alone = False
        self._repeat: bytes | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected right now."""
        return len(self._passages)

    def lose_next_answer(self, marker: bytes = b'"seq":', *, cut: bool = True) -> None:
        """Lose the next chunk from the server that holds `marker`: done, and the client cannot know.

        With `cut` its connection is lost too; without it what the chunk held is missing, and the connection goes on.
        """
        self._lose, self._lost_alone = marker, not cut

    def repeat_next_publish(self, marker: bytes = b"") -> None:
        """Send the next whole messages of a client that hold `marker` to the server twice."""
        self._repeat = marker

    def cut(self, number: int | None = None) -> int:
        """Break one connection (counted from the oldest, modulo), or all; return how many."""
        chosen = self._chosen(number)
        for passage in chosen:
            passage.cut()
        return len(chosen)

    def half_close(self, number: int | None = None) -> int:
        """Close the way to the server of one connection, or of all, and leave the way back open; return how many."""
        chosen = self._chosen(number)
        for passage in chosen:
            with contextlib.suppress(OSError, RuntimeError):
                passage.server.write_eof()
        return len(chosen)

    async def delay(self, seconds: float, number: int | None = None) -> None:
        """Let nothing pass on one connection, or on any, for a while."""
        chosen = self._chosen(number)
        for passage in chosen:
            passage.flowing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            for passage in chosen:
                passage.flowing.set()

    def _chosen(self, number: int | None) -> list[_Passage]:
        if number is None or not self._passages:
            return list(self._passages)
        return [self._passages[number % len(self._passages)]]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        await asyncio.sleep(0)  # whoever was just let in is known from now on
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("connections are served in tasks")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            await self._carry(reader, server_reader, _Passage(writer, server_writer))
        except (OSError, asyncio.CancelledError):
            return  # nobody listens there, or the proxy closes
        finally:
            writer.transport.abort()

    async def _carry(
        self, client_reader: asyncio.StreamReader, server_reader: asyncio.StreamReader, passage: _Passage
    ) -> None:
        self._passages.append(passage)
        halves = {
            asyncio.create_task(self._to_server(client_reader, passage)),
            asyncio.create_task(self._to_client(server_reader, passage)),
        }
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._passages.remove(passage)
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)
            passage.cut()

    async def _to_server(self, reader: asyncio.StreamReader, passage: _Passage) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await passage.flowing.wait()
                if self._repeat is not None and self._repeat in chunk and _whole_publishes(chunk):
                    self._repeat = None
                    self.repeated += 1
                    chunk += chunk
                passage.server.write(chunk)
                await passage.server.drain()

    async def _to_client(self, reader: asyncio.StreamReader, passage: _Passage) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await passage.flowing.wait()
                if self._lose is not None and self._lose in chunk and (not self._lost_alone or _whole_messages(chunk)):
                    self._lose = None
                    self.lost += 1
                    if self._lost_alone:
                        continue
                    return
                passage.client.write(chunk)
                await passage.client.drain()


def _whole_publishes(chunk: bytes) -> bool:
    """Say whether a chunk is publishes from the first byte to the last, so that it can be sent again as it is."""
    return _consists_of(chunk, _PUBLISH)


_DELIVERY: Final = re.compile(rb"(?:MSG|HMSG) [^\r\n]+ (\d+)\r\n")


def _whole_messages(chunk: bytes) -> bool:
    """Say whether a chunk is messages from the first byte to the last, so that it can be left out."""
    return _consists_of(chunk, _DELIVERY)


def _consists_of(chunk: bytes, opening: re.Pattern[bytes]) -> bool:
    place = 0
    while place < len(chunk):
        match = opening.match(chunk, place)
        if match is None:
            return False
        place = match.end() + int(match[1]) + len(b"\r\n")
    return place == len(chunk)
