"""A real HTTP server that answers, refuses, dawdles and hangs up, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class LinkServer:
    """`requests` are `METHOD path` in order, `headers` those of the last request; `most` is the most at one time."""

    port: int = 0
    requests: list[str] = field(default_factory=list[str])
    headers: dict[str, str] = field(default_factory=dict[str, str])
    running: int = 0
    most: int = 0
    sent_bytes: int = 0
    serving: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    @property
    def host(self) -> str:
        """Host and port, as a checklist allows them."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        """Return the address of `path`."""
        return f"http://{self.host}{path}"

    def asked(self) -> Counter[str]:
        """Return how often each path was asked for."""
        return Counter(request.split(" ")[1] for request in self.requests)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, in a task of its own."""
        task = asyncio.create_task(self._serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer_once(reader, writer):
                continue
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer_once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.strip().split("\r\n")
        method, path, _ = line.split(" ")
        self.requests.append(f"{method} {path}")
        self.headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in fields)}
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self._respond(method, path, writer)
        finally:
            self.running -= 1

    async def _respond(self, method: str, path: str, writer: asyncio.StreamWriter) -> bool:
        kind, _, argument = path.strip("/").partition("/")
        match kind:
            case "status":
                return await self._send(writer, int(argument.split("?")[0]))
            case "head":
                return await self._send(writer, int(argument) if method == "HEAD" else 200)
            case "to":
                return await self._send(writer, 302, f"Location: {argument}\r\n")
            case "loop":
                return await self._send(writer, 302, f"Location: /loop/{int(argument or 0) + 1}\r\n")
            case "slow":
                await asyncio.sleep(float(argument))
                return await self._send(writer, 200)
            case "reset":
                return False
            case "reset-head" if method == "HEAD":
                return False
            case "garbage":
                writer.write(b"this is not HTTP\r\n\r\n")
                await writer.drain()
                return False
            case "endless" if method == "GET":
                return await self._never_stop(writer)
            case "endless":
                return await self._send(writer, 405)
            case _:
                return await self._send(writer, 200)

    async def _send(self, writer: asyncio.StreamWriter, status: int, more: str = "") -> bool:
        writer.write(f"HTTP/1.1 {status} Why\r\n{more}Set-Cookie: a=b\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return True

    async def _never_stop(self, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            self.sent_bytes += 4096
            await writer.drain()


@asynccontextmanager
async def link_server() -> AsyncGenerator[LinkServer]:
    """Run a server on a free port of 127.0.0.1."""
    peer = LinkServer()
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0)
    peer.port = int(server.sockets[0].getsockname()[1])
    try:
        yield peer
    finally:
        server.close()
        serving = list(peer.serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()
