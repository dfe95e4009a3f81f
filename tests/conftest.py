"""Shared by all tests: one real nats-server for the session, one namespace and one link for each test."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_bus.topology import conversations_stream, dead_letters_stream, objects_stream, timers_stream
from motet_schemas.subjects import Namespace
from tests.bus.secured import SECURED
from tests.bus.servers import NatsServer, publish_raw

# The tests start hundreds of processes: each compiles all modules again unless it may keep the bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server with JetStream that every test of this session shares. Do not kill it."""
    with NatsServer(tmp_path_factory.mktemp("nats"), secured=SECURED) as server:
        yield server


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    """The URL of the session's server."""
    return nats_server.url


@pytest.fixture
def namespace(nats_server: NatsServer) -> Iterator[Namespace]:
    """A namespace that no other test uses: its streams and subjects are this test's own, and end with it."""
    space = Namespace(f"t-{secrets.token_hex(6)}")
    yield space
    if not SECURED:  # the streams of a thousand tests would keep the server busy for the rest of them
        specs = (conversations_stream(space), timers_stream(space), dead_letters_stream(space), objects_stream(space))
        publish_raw(
            nats_server.address, *(b"PUB $JS.API.STREAM.DELETE.%s 0\r\n\r\n" % one.name.encode() for one in specs)
        )


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[Link]:
    """An open link to the session's server."""
    opened = await connect(ConnectOptions(url=nats_url, name="test"))
    yield opened
    await opened.close()
