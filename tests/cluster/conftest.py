"""One cluster of three nodes for the everyday tests of this folder; whoever kills or cuts has one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from motet_bus.link import Link
from tests.bus.conftest import zygote
from tests.cluster.nodes import Cluster

__all__ = ["zygote"]


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that every test of a module may use, and none may kill."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def cluster(shared_cluster: Cluster) -> Cluster:
    """The shared cluster, with its leaders elected."""
    await shared_cluster.ready()
    return shared_cluster


@pytest.fixture
async def links(cluster: Cluster) -> AsyncIterator[list[Link]]:
    """A link to each node, in the order of their names."""
    opened = [await cluster.link(name) for name in cluster.nodes]
    yield opened
    for link in opened:
        await link.close()
