"""For tests of the bus: a server to kill, and work to pull."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from motet_bus.link import Link
from motet_schemas.subjects import Namespace
from tests.bus.processes import Zygote
from tests.bus.secured import SECURED
from tests.bus.servers import NatsServer
from tests.bus.work import Work


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a secured bus leave out what speaks in the clear, or does what there only an operator may."""
    if SECURED:
        for item in items:
            if item.get_closest_marker("open_server"):
                item.add_marker(pytest.mark.skip(reason="needs an open server"))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server with JetStream for this test alone: kill it, freeze it, start it again."""
    with NatsServer(tmp_path / "own", secured=SECURED) as server:
        yield server


@pytest.fixture
async def work(link: Link, namespace: Namespace) -> Work:
    """A conversations stream without messages, and a worker's consumer on it."""
    return await Work(link, namespace).prepare(0)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The process that forks agents for tests that kill them."""
    started = Zygote()
    yield started
    started.close()
