"""The routes between the nodes of a cluster as TCP proxies in a thread of their own, which can be cut and healed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping

Pair = tuple[str, str]


class Routes:
    """One proxy for each direction: node `a` dials node `b` through `port(a, b)`."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        """`ports` says where each node listens for the others."""
        self._ports = dict(ports)
        self._cut: set[Pair] = set()
        self._open: dict[asyncio.StreamWriter, Pair] = {}
        self._sockets = {(a, b): _listener() for a in ports for b in ports if a != b}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="routes", daemon=True)

    def port(self, name: str, other: str) -> int:
        """The port on which `name` finds `other`."""
        port: int = self._sockets[name, other].getsockname()[1]
        return port

    def start(self) -> None:
        """Begin to pass on."""
        self._thread.start()

    def stop(self) -> None:
        """Cut everything and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
        for one in self._sockets.values():
            one.close()

    def isolate(self, name: str) -> None:
        """Cut a node off from all others, both ways: connections end, and new ones are refused."""
        self._call({pair for pair in self._sockets if name in pair})

    def heal(self) -> None:
        """Pass everything on again."""
        self._call(set())

    def _call(self, cut: set[Pair]) -> None:
        async def change() -> None:
            self._cut = cut
            for writer, pair in list(self._open.items()):
                if pair in cut:
                    writer.transport.abort()

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(timeout=10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        servers = [
            self._loop.run_until_complete(asyncio.start_server(self._serving(pair), sock=listening))
            for pair, listening in self._sockets.items()
        ]
        self._loop.run_forever()
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # what was aborted is closed in the next turn
        self._loop.close()

    def _serving(self, pair: Pair) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if pair not in self._cut:
                    await self._bridge(pair, reader, writer)
            finally:
                writer.transport.abort()

        return serve

    async def _bridge(self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._ports[pair[1]])
        except OSError:  # that node is down
            return
        self._open |= {writer: pair, far_writer: pair}
        halves = [
            asyncio.create_task(_pass_on(reader, far_writer)),
            asyncio.create_task(_pass_on(far_reader, writer)),
        ]
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)
            del self._open[writer], self._open[far_writer]
            far_writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()


def _listener() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    return listening
