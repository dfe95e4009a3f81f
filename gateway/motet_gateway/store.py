"""Where the store is, and how a command finds the bus that runs on it.

Whoever runs a bus leaves a discovery file in its store: it holds credentials, so its mode is 0600, and it is believed
only if it is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import platformdirs
import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from motet_bus.embedded import SYNC_INTERVAL, EmbeddedServer, start_embedded
from motet_bus.store_lock import StoreLockedError
from motet_schemas.errors import BusUnavailableError, InvalidInputError

log = structlog.get_logger(__name__)

DISCOVERY_FILE = "bus.json"
_PROBE_TIMEOUT_S = 1.0
_PATIENCE_S = 5.0
_POLL_S = 0.05


class DiscoveryError(BusUnavailableError):
    """The discovery file cannot be trusted or read; the message says what to do with it."""

    code = "discovery"
    retryable = False


class RunningAgent(BaseModel):
    """One agent process of a running bus."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str
    pid: int = Field(gt=0)
    instance: str


class Discovery(BaseModel):
    """What runs on a store. `nats_url` holds credentials; `pid` is the process that runs it all."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    nats_url: str
    server_name: str = Field(description="The name that the server greets with: proof that it is still the same one.")
    pid: int = Field(gt=0)
    started: AwareDatetime
    agents: tuple[RunningAgent, ...] = ()
    http_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bus:
    """A bus that a command may use: a running one (`discovery`), or one of its own (`embedded`)."""

    nats_url: str
    discovery: Discovery | None = None
    embedded: EmbeddedServer | None = None


def store_path(store: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The absolute path of the store: `store` (--store), else MOTET_STORE, else `motet` in the user's data directory.

    Raises InvalidInputError when what is there is not a directory.
    """
    where = "--store" if store is not None else "MOTET_STORE"
    named = store or (Path(environ["MOTET_STORE"]) if environ.get("MOTET_STORE") else None)
    path = platformdirs.user_data_path("motet", appauthor=False) if named is None else named.expanduser()
    if path.exists() and not path.is_dir():
        raise InvalidInputError(
            f"{where}: {path} is not a directory; name a directory, or one that does not exist yet",
            field=where,
            value=str(path),
            rule="directory",
        )
    return path.absolute()


def write_discovery(store: Path, discovery: Discovery) -> Path:
    """Write the discovery file at once or not at all, mode 0600; its path."""
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file with mode 0600.
    descriptor, name = tempfile.mkstemp(prefix=f".{DISCOVERY_FILE}.", dir=store)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(discovery.model_dump_json(indent=2) + "\n")
        return temporary.replace(store / DISCOVERY_FILE)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_discovery(store: Path) -> Discovery | None:
    """What the discovery file says, alive or not; None when there is no file.

    Raises DiscoveryError when it belongs to somebody else, others can read it, or it does not parse.
    """
    path = store / DISCOVERY_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiscoveryError(f"cannot read the discovery file {path}: {error.strerror}; remove it") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise DiscoveryError(f"the discovery file {path} belongs to another user: name another store with --store")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise DiscoveryError(f"other users can use the discovery file {path}, which holds a password: remove it")
        content = file.read()
    try:
        return Discovery.model_validate_json(content)
    except ValidationError as error:
        raise DiscoveryError(
            f"the discovery file {path} does not parse ({error.error_count()} errors): remove it"
        ) from error


def remove_discovery(store: Path, pid: int) -> None:
    """Remove the discovery file that the process `pid` wrote; another's stays."""
    with contextlib.suppress(DiscoveryError):
        if (found := read_discovery(store)) is not None and found.pid == pid:
            (store / DISCOVERY_FILE).unlink(missing_ok=True)


async def find_running(store: Path) -> Discovery | None:
    """The bus that runs on `store`, or None: its process exists, and the very server it names answers there.

    A stale discovery file is left for the next writer. Takes 1 s at most. Raises as `read_discovery`.
    """
    discovery = read_discovery(store)
    if discovery is None or not _exists(discovery.pid):
        return None
    address = urlsplit(discovery.nats_url)
    info = await read_info(address.hostname or "", address.port or 4222)
    if info is None or info.get("server_name") != discovery.server_name:
        log.info("discovery.stale", store=str(store), pid=discovery.pid)
        return None
    return discovery


async def read_info(host: str, port: int, *, timeout_s: float = _PROBE_TIMEOUT_S) -> dict[str, Any] | None:
    """The greeting (INFO) of a NATS server; None when nothing, or something else, answers within `timeout_s`."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            greeting = await reader.readline()
            info: Any = json.loads(greeting.removeprefix(b"INFO ")) if greeting.startswith(b"INFO ") else None
    except (OSError, TimeoutError, ValueError, RecursionError):
        return None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return cast("dict[str, Any]", info) if isinstance(info, dict) else None


@contextlib.asynccontextmanager
async def bus_on(
    store: Path, *, patience_s: float = _PATIENCE_S, sync_interval: str = SYNC_INTERVAL
) -> AsyncGenerator[Bus]:
    """The bus on `store` for as long as the context lasts: the running one, else an embedded one of our own.

    When another process has the store but has not announced its bus, it is either about to, or a short command that
    is about to end: both are waited for, `patience_s` seconds. Raises StoreLockedError after that, and what
    `start_embedded` and `find_running` raise.
    """
    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        if (running := await find_running(store)) is not None:
            yield Bus(nats_url=running.nats_url, discovery=running)
            return
        try:
            server = await start_embedded(store, sync_interval=sync_interval)
        except StoreLockedError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(_POLL_S)
            continue
        async with server:
            yield Bus(nats_url=server.url, embedded=server)
            return


def discovery_of(server: EmbeddedServer, *, started: datetime, agents: tuple[RunningAgent, ...] = ()) -> Discovery:
    """The discovery of an embedded server that this process runs."""
    return Discovery(nats_url=server.url, server_name=server.name, pid=os.getpid(), started=started, agents=agents)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
