"""Nodes that are cut off: reads from them are known to be old, writers there wait, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from motet_bus import Bus
from motet_bus.topology import apply_streams
from motet_schemas import BusUnavailableError, Conversation, Fact, Namespace, TaskCancel
from motet_schemas.subjects import build
from tests.bus.servers import until
from tests.bus.support import eventually
from tests.cluster.load import on_node, writing
from tests.cluster.nodes import Cluster, in_step, leader_of, move_leader
from tests.cluster.routes import Routes

pytestmark = pytest.mark.slow


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three nodes whose routes can be cut."""
    with Cluster(tmp_path / "cluster", partitions=True) as running:
        await running.ready()
        yield running


async def led_by(cluster: Cluster, namespace: Namespace, name: str) -> None:
    """Create the streams, all in step, with one node as the leader of the conversations."""
    link = await cluster.link()
    await apply_streams(link, namespace, replicas=3)
    await move_leader(link, namespace.stream("CONVERSATIONS"), name)
    await in_step(link, namespace.stream("CONVERSATIONS"))
    await link.close()


async def isolate_once_it_serves(routes: Routes, reader: Bus) -> None:
    """Cut the third node off when it answers reads by itself: before that, another answers for it."""
    for _ in range(10):
        routes.isolate("n3")
        try:
            await reader.journal.read_conversation("c1")
        except BusUnavailableError:
            routes.heal()
            await in_step(reader.link, reader.journal.stream)
        else:
            return
    raise AssertionError("the node never answered reads")


async def test_a_reader_waits_for_a_replica_that_is_behind(cluster: Cluster, namespace: Namespace) -> None:
    assert cluster.routes is not None
    await led_by(cluster, namespace, "n1")
    async with (
        on_node(cluster, namespace, "client", "n1") as writer,
        on_node(cluster, namespace, "orchestrator", "n3") as reader,
    ):
        await isolate_once_it_serves(cluster.routes, reader)
        seq = await writer.journal.append(Fact(build("task.cancel", "c1", "me"), TaskCancel(requested_by="me")))
        assert await reader.journal.read_conversation("c1") == []  # old, and the server does not say so
        assert (await reader.conversations.load("c1")).last_seq == 0
        results = await asyncio.gather(
            reader.conversations.load("c1", at_least=seq),
            reader.journal.read_kind("task.>", at_least=seq),
            return_exceptions=True,
        )
        assert [type(one) for one in results] == [BusUnavailableError] * 2
        assert f"not yet {seq}; try again" in str(results[0])
        assert f"does not show sequence {seq} yet" in str(results[1])
        cluster.routes.heal()

        async def caught_up() -> Conversation | None:
            try:
                return await reader.conversations.load("c1", at_least=seq)
            except BusUnavailableError:
                return None

        state = await eventually(caught_up, within_s=20)
        assert state.last_seq == seq
        assert state.cancel is not None


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("round_", range(3))
async def test_writers_cut_off_with_the_leader_wait_and_recover_and_the_others_go_on(
    cluster: Cluster, namespace: Namespace, round_: int
) -> None:
    assert cluster.routes is not None
    await led_by(cluster, namespace, "n1")
    with capture_logs() as logs:
        async with writing(cluster, namespace, [["n1"], ["n2"], ["n3"]]) as load:
            await load.goes_on()
            cluster.routes.isolate("n1")
            await load.goes_on()
            await until(lambda: any(one["event"] == "journal.retry" for one in logs), within_s=20)
            cluster.routes.heal()
            await load.goes_on(by=200)
        async with on_node(cluster, namespace, "client") as reader:
            await in_step(reader.link, namespace.stream("CONVERSATIONS"))
            await load.check(reader)
    reasons = {str(one["error"]) for one in logs if one["event"] == "journal.retry"}
    assert reasons
    assert all("task.cancel" in reason for reason in reasons)
    assert await _leader(cluster, namespace)


async def _leader(cluster: Cluster, namespace: Namespace) -> str:
    link = await cluster.link()
    try:
        return await leader_of(link, namespace.stream("CONVERSATIONS"))
    finally:
        await link.close()
