"""Nodes killed with SIGKILL and started again while facts are written, conversations run and timers wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from motet_bus import Bus, open_client
from motet_bus.topology import conversations_stream
from motet_gateway.doctor_finding import Finding
from motet_gateway.doctor_server import stream_findings
from motet_schemas import BusUnavailableError, Fact, Namespace, TaskCancel, TimerFired, TimerSet
from motet_schemas.subjects import build
from tests.bus.fleet import Fleet, all_ended, check_everything, results_are_of_real_runs, submit_all
from tests.bus.processes import AgentProcesses, Zygote
from tests.bus.support import eventually, options
from tests.cluster.load import on_node, writing
from tests.cluster.nodes import NAMES, Cluster, in_step, leader_of, move_leader

pytestmark = pytest.mark.slow

TIMERS = 20
RUNG_S = 90.0
"""How long a tick may take: after an election the conversations' new leader notices late that its source has moved."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three nodes to kill."""
    with Cluster(tmp_path / "cluster") as running:
        await running.ready()
        yield running


async def kill_leader(cluster: Cluster, bus: Bus) -> str:
    """Kill the node that leads the stream of conversations; its name."""
    name = await leader_of(bus.link, bus.namespace.stream("CONVERSATIONS"))
    cluster.nodes[name].kill()
    return name


async def set_timers(bus: Bus, conversation: str, in_s: float) -> datetime:
    """Set timers that ring at once in `in_s` seconds; when."""
    at = datetime.now(UTC) + timedelta(seconds=in_s)
    facts = [Fact(build("timer.set", conversation, f"t{number}"), TimerSet(at=at)) for number in range(TIMERS)]
    await asyncio.gather(*(bus.journal.append(fact) for fact in facts))
    return at


async def rung(bus: Bus, conversation: str, *, within_s: float) -> list[datetime]:
    """Wait until all timers have rung, each once; when."""

    async def look() -> list[datetime] | None:
        try:
            events = await bus.journal.read_kind(f"timer.fired.{conversation}.>")
        except BusUnavailableError:  # no node serves the stream just now
            return None
        assert len({str(event.subject) for event in events}) == len(events)
        assert all(isinstance(event.data, TimerFired) for event in events)
        return [event.time for event in events] if len(events) >= TIMERS else None

    return await eventually(look, within_s=within_s)


async def test_a_writer_goes_on_at_another_node_when_its_own_dies(cluster: Cluster, namespace: Namespace) -> None:
    async with on_node(cluster, namespace, "client", "n1", "n2") as bus:
        stream = namespace.stream("CONVERSATIONS")
        await in_step(bus.link, stream)
        await move_leader(bus.link, stream, "n3")
        facts = [Fact(build("task.cancel", "c1", f"me{number}"), TaskCancel()) for number in range(3)]
        seqs = [await bus.journal.append(facts[0])]
        cluster.nodes["n1"].kill()
        seqs += [await bus.journal.append(fact) for fact in facts[1:]]
        events = await bus.journal.read_conversation("c1", at_least=seqs[-1])
        assert [(event.seq, event.id) for event in events] == [
            (seq, fact.id) for seq, fact in zip(seqs, facts, strict=True)
        ]


@pytest.mark.chaos
async def test_a_writer_goes_on_at_another_node_when_its_own_dies_with_the_leader(
    cluster: Cluster, namespace: Namespace
) -> None:
    async with on_node(cluster, namespace, "client", "n2") as steady:
        stream = namespace.stream("CONVERSATIONS")
        await in_step(steady.link, stream)
        await move_leader(steady.link, stream, "n1")
        async with on_node(cluster, namespace, "client", "n1", "n2") as bus:
            facts = [Fact(build("task.cancel", "c1", f"me{number}"), TaskCancel()) for number in range(3)]
            first = await bus.journal.append(facts[0])
            sending = asyncio.create_task(bus.journal.append(facts[1]))
            cluster.nodes["n1"].kill()
            second = await sending
            third = await bus.journal.append(facts[2])
            events = await steady.journal.read_conversation("c1", at_least=third)
            assert [(event.seq, event.id) for event in events] == [
                (seq, fact.id) for seq, fact in zip((first, second, third), facts, strict=True)
            ]


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("round_", range(3))
async def test_nothing_acknowledged_is_lost_and_nothing_doubled_while_leaders_are_killed(
    cluster: Cluster, namespace: Namespace, round_: int
) -> None:
    async with (
        on_node(cluster, namespace, "client") as reader,
        writing(cluster, namespace, [["n1", "n2"], ["n2", "n3"], ["n3", "n1"], list(NAMES)]) as load,
    ):
        for _ in range(3):
            await load.goes_on(by=100)
            dead = await kill_leader(cluster, reader)
            await load.goes_on(by=100)
            cluster.nodes[dead].start()
        await load.goes_on(by=100)
        load.stop.set()
        await in_step(reader.link, namespace.stream("CONVERSATIONS"))
        await load.check(reader)


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_nothing_is_lost_when_all_nodes_are_killed_at_once(cluster: Cluster, namespace: Namespace) -> None:
    async with (
        on_node(cluster, namespace, "client") as reader,
        writing(cluster, namespace, [["n1", "n2"], ["n2", "n3"], ["n3", "n1"]]) as load,
    ):
        await load.goes_on(by=300)
        for name in NAMES:
            cluster.nodes[name].kill()
        for name in NAMES:
            cluster.nodes[name].start()
        await load.goes_on(by=100)
        load.stop.set()
        await in_step(reader.link, namespace.stream("CONVERSATIONS"))
        await load.check(reader)


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_timers_ring_once_although_leaders_change_and_all_nodes_are_started_again(
    cluster: Cluster, namespace: Namespace
) -> None:
    async with on_node(cluster, namespace, "orchestrator") as bus:
        conversations, timers = namespace.stream("CONVERSATIONS"), namespace.stream("TIMERS")
        for stream in (conversations, timers):
            await in_step(bus.link, stream)
        for number, (stream, node) in enumerate([(timers, "n1"), (conversations, "n2"), (timers, "n3")]):
            at = await set_timers(bus, f"moved{number}", 1.0)
            await move_leader(bus.link, stream, node)
            await rung(bus, f"moved{number}", within_s=RUNG_S)
        for stream in (timers, conversations):
            await set_timers(bus, f"killed-{stream}", 2.0)
            dead = await leader_of(bus.link, stream)
            cluster.nodes[dead].kill()
            await rung(bus, f"killed-{stream}", within_s=RUNG_S)
            cluster.nodes[dead].start()
            for one in (conversations, timers):
                await in_step(bus.link, one)
        at = await set_timers(bus, "all", 1.0)
        for name in NAMES:
            cluster.nodes[name].kill()
        await asyncio.sleep(1.5)  # they are due while nobody is there to ring them
        for name in NAMES:
            cluster.nodes[name].start()
        assert min(await rung(bus, "all", within_s=RUNG_S)) > at


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_conversations_run_on_while_all_nodes_are_restarted_one_after_the_other(
    zygote: Zygote, cluster: Cluster, tmp_path: Path, namespace: Namespace
) -> None:
    async with on_node(cluster, namespace, "client") as reader:  # creates the streams with three copies
        with AgentProcesses(zygote, tmp_path, cluster.url, namespace) as processes:
            fleet = Fleet(processes, tmp_path)
            async with open_client(options(cluster.url), namespace=namespace.name) as client:
                fleet.start()
                await fleet.ready()
                names = await submit_all(client, 30, 1.0)
                for name in NAMES:
                    await asyncio.sleep(1.0)
                    cluster.nodes[name].restart()
                    await in_step(reader.link, namespace.stream("CONVERSATIONS"))
                states = await all_ended(client, names, within_s=150)
                await check_everything(client, client.link, namespace, states)
                await results_are_of_real_runs(client, processes, names)


async def test_a_fact_is_acknowledged_by_a_cluster_that_has_lost_one_node(
    cluster: Cluster, namespace: Namespace
) -> None:
    async with on_node(cluster, namespace, "client", "n1", "n2") as bus:
        stream = namespace.stream("CONVERSATIONS")
        await in_step(bus.link, stream)
        await move_leader(bus.link, stream, "n1")
        cluster.nodes["n3"].kill()
        async with asyncio.timeout(5):
            await bus.journal.append(Fact(build("task.cancel", "c1", "me"), TaskCancel()))


@pytest.mark.chaos
async def test_the_doctor_says_when_copies_are_missing(cluster: Cluster, namespace: Namespace) -> None:
    async with on_node(cluster, namespace, "client", "n1") as bus:
        spec = conversations_stream(namespace)
        await in_step(bus.link, spec.name)
        await move_leader(bus.link, spec.name, "n1")

        async def found(status: str) -> Finding:
            async def look() -> Finding | None:
                [finding] = await stream_findings(bus.link, spec, replicas=3)
                return finding if finding.status == status else None

            return await eventually(look, within_s=40)

        well = await found("ok")
        [fewer] = await stream_findings(bus.link, spec, replicas=5)
        cluster.nodes["n3"].kill()
        gone = await found("warn")
    assert (well.status, well.found[-8:]) == ("ok", "3 copies")
    assert (fewer.status, fewer.found) == ("warn", "3 of the 5 copies that are asked for (MOTET_REPLICAS)")
    assert f"nats stream edit {spec.name} --replicas 5" in fewer.advice
    assert gone.found == "3 copies, of which these are down or behind: n3"
