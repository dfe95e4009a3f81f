"""The bus that a command works on: a running one, or an embedded server for as long as the command lasts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from motet_bus.embedded import EmbeddedServer, start_embedded
from motet_bus.store_lock import StoreLockedError
from motet_gateway.config import Settings
from motet_gateway.store import (
    Discovery,
    RunningAgent,
    bus_on,
    discovery_of,
    find_running,
    remove_discovery,
    store_path,
    write_discovery,
)
from motet_gateway.terminal import note
from motet_schemas import BusUnavailableError

_STORE_PATIENCE_S: Final = 900.0
_STORE_POLL_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the bus is. `served` says that agents of somebody else's keep running there.

    `embedded` is the server, when it is ours; `discovery` what its owner says of itself, when it is another's.
    """

    url: str
    store: Path
    embedded: EmbeddedServer | None = None
    discovery: Discovery | None = None

    @property
    def served(self) -> bool:
        return self.discovery is not None and bool(self.discovery.agents)


@asynccontextmanager
async def any_place(settings: Settings) -> AsyncGenerator[Place]:
    """A bus to look at: the one that is named or runs on the store, else an embedded one, started for this command."""
    store = store_path(settings.store, {})
    if settings.nats_url:
        yield Place(url=settings.nats_url, store=store)
        return
    async with bus_on(store, sync_interval=settings.sync_interval) as bus:
        yield Place(url=bus.nats_url, store=store, embedded=bus.embedded, discovery=bus.discovery)


@asynccontextmanager
async def running_place(settings: Settings, *, wanted_for: str) -> AsyncGenerator[Place]:
    """A bus that runs already. Raises `BusUnavailableError` when none is named and none runs on the store."""
    store = store_path(settings.store, {})
    if settings.nats_url:
        yield Place(url=settings.nats_url, store=store)
        return
    found = await find_running(store)
    if found is None:
        raise BusUnavailableError(
            f"no bus runs on the store {store}, and {wanted_for} needs one: start it with `motet up`, or name a server "
            "with --nats-url or MOTET_NATS_URL"
        )
    yield Place(url=found.nats_url, store=store, discovery=found)


@asynccontextmanager
async def working_place(settings: Settings) -> AsyncGenerator[Place]:
    """A bus to work on: the one that is named, one that `motet up` serves, else an embedded one of our own.

    Somebody else who works on the store without serving it (`motet run`) is waited for, 900 s at most; then
    `StoreLockedError` is raised.
    """
    store = store_path(settings.store, {})
    if settings.nats_url:
        yield Place(url=settings.nats_url, store=store)
        return
    found = await _served_or_free(store, settings.sync_interval)
    if isinstance(found, Discovery):
        yield Place(url=found.nats_url, store=store, discovery=found)
        return
    async with found:
        announce(found)
        try:
            yield Place(url=found.url, store=store, embedded=found)
        finally:
            remove_discovery(store, os.getpid())


async def _served_or_free(store: Path, sync_interval: str) -> Discovery | EmbeddedServer:
    clock = asyncio.get_running_loop().time
    deadline = clock() + _STORE_PATIENCE_S
    told = False
    while True:
        running = await find_running(store)
        if running is not None and running.agents:
            return running
        try:
            return await start_embedded(store, sync_interval=sync_interval)
        except StoreLockedError as error:
            if clock() >= deadline:
                raise
            if not told:
                who = f"process {error.pid}" if error.pid else "another process"
                note(f"motet: {who} uses the store {store}; waiting until it ends")
                told = True
        await asyncio.sleep(_STORE_POLL_S)


def announce(server: EmbeddedServer, agents: tuple[RunningAgent, ...] = ()) -> None:
    """Let other commands find the embedded server, and the agents that will go on serving it, if any."""
    write_discovery(server.store, discovery_of(server, started=datetime.now(UTC), agents=agents))
