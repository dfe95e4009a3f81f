"""Fences on a replicated stream: what they exclude, what they do not, and what Motet makes of that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from motet_bus import Bus
from motet_bus.emit import emit
from motet_bus.fences import EXPECTED_FILTER, EXPECTED_SEQUENCE, attempt_fence
from motet_bus.link import Link
from motet_bus.topology import apply_streams
from motet_schemas import (
    BusUnsuitableError,
    ConflictError,
    Fact,
    MotetError,
    Namespace,
    StepExpired,
    TaskCancel,
    TaskSubmitted,
    fold_all,
)
from motet_schemas.subjects import build
from tests.bus.support import stored
from tests.cluster.load import on_node
from tests.cluster.nodes import NAMES, Cluster, in_step, leader_of, move_leader
from tests.cluster.racing import REQUESTS, acted_on, decided_in_order, race

pytestmark = pytest.mark.slow

RACES = 40


@pytest.fixture
async def stream(links: list[Link], namespace: Namespace) -> str:
    """The stream of conversations on three nodes, led by the first."""
    await apply_streams(links[0], namespace, replicas=3)
    name = namespace.stream("CONVERSATIONS")
    await in_step(links[0], name)
    await move_leader(links[0], name, "n1")
    return name


@pytest.fixture
async def clients(cluster: Cluster, namespace: Namespace, stream: str) -> AsyncIterator[list[Bus]]:
    """A client's bus on each node."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(on_node(cluster, namespace, "client", node)) for node in NAMES]


@pytest.fixture
async def orchestrator(cluster: Cluster, namespace: Namespace, stream: str) -> AsyncIterator[Bus]:
    """An orchestrator's bus on the node that leads the stream."""
    async with on_node(cluster, namespace, "orchestrator", "n1") as bus:
        yield bus


async def put(link: Link, subject: str, last: int, name: str = "") -> int | None:
    """Publish behind a fence; the sequence, None when it was refused."""
    headers = {EXPECTED_SEQUENCE: str(last), **({EXPECTED_FILTER: name} if name else {})}
    try:
        return (await link.publish_stored(subject, b"{}", headers)).seq
    except MotetError:
        return None


async def test_of_racing_writers_under_one_wildcard_fence_exactly_one_wins(
    links: list[Link], namespace: Namespace, stream: str
) -> None:
    for number in range(RACES):
        name = namespace.wire(f"*.*.c{number}.>")
        subjects = [namespace.wire(f"step.{verb}.c{number}.s.1") for verb in ("claimed", "executed", "expired")]
        results = await asyncio.gather(*(put(link, one, 0, name) for link, one in zip(links, subjects, strict=True)))
        assert sum(seq is not None for seq in results) == 1
    assert len(await stored(links[0], namespace)) == RACES


async def test_of_racing_facts_on_one_subject_exactly_one_wins_and_all_writers_know_which(
    clients: list[Bus], namespace: Namespace
) -> None:
    for number in range(RACES):
        subject = build("task.cancel", f"c{number}", "me")
        facts = [Fact(subject, TaskCancel(requested_by=bus.instance)) for bus in clients]
        results = await asyncio.gather(
            *(bus.journal.append(fact) for bus, fact in zip(clients, facts, strict=True)), return_exceptions=True
        )
        assert Counter(map(type, results)) == {int: 1, ConflictError: 2}
        winner = facts[[isinstance(result, int) for result in results].index(True)]
        recorded = await clients[number % 3].journal.read_last(subject)
        assert recorded is None or recorded.id == winner.id  # None: this replica is behind
    assert len(await stored(clients[0].link, namespace)) == RACES


async def test_the_server_lets_a_wide_fence_pass_what_is_on_its_way_under_a_narrow_one(
    links: list[Link], namespace: Namespace, stream: str
) -> None:
    """Why `fold` and the orchestrator do not rely on it. When this fails, the server has learned it."""
    passed = 0
    for number in range(500):
        narrow, wide = namespace.wire(f"task.cancel.c{number}.me"), namespace.wire(f"task.completed.c{number}.demo")
        first, second = await asyncio.gather(
            put(links[0], narrow, 0), put(links[0], wide, 0, namespace.wire(f"*.*.c{number}.>"))
        )
        passed += first is not None and second is not None and first < second
        if passed:
            return
    raise AssertionError("no wide fence passed: overlapping fences exclude each other on replicated streams now")


async def test_a_fact_that_is_sent_again_while_it_is_on_its_way_is_recorded_once(
    clients: list[Bus], namespace: Namespace
) -> None:
    for number in range(RACES):
        fact = Fact(build("task.cancel", f"c{number}", "me"), TaskCancel(requested_by="me"))
        seqs = await asyncio.gather(*(bus.journal.append(fact) for bus in (*clients, clients[0])))
        assert len(set(seqs)) == 1
    assert len(await stored(clients[0].link, namespace)) == RACES


async def test_a_submission_that_is_repeated_on_another_node_finds_the_first(
    clients: list[Bus], namespace: Namespace
) -> None:
    for number in range(RACES):
        fact = Fact(build("task.submitted", f"c{number}", "demo"), TaskSubmitted(kind="demo"))
        seq = await clients[0].journal.append(fact)
        for bus in clients[1:]:
            with pytest.raises(ConflictError) as refused:
                await bus.journal.append(Fact(fact.subject, fact.data))
            assert refused.value.last_sequence == seq
            said = await bus.journal.read_kind(f"task.*.c{number}.>", at_least=seq)
            assert [event.id for event in said] == [fact.id]


@pytest.mark.parametrize("races", [5, pytest.param(200, marks=pytest.mark.chaos)])
async def test_a_stale_decision_that_the_server_lets_pass_is_void_for_all_readers(
    orchestrator: Bus, clients: list[Bus], races: int
) -> None:
    passed = 0
    for number in range(races):
        events = await race(orchestrator, clients, f"c{number}")
        followed, overtaken = decided_in_order(events)
        assert sorted(followed) == sorted(acted_on(events))
        assert len(followed) == REQUESTS
        state = fold_all(f"c{number}", events)
        assert (len(state.revisions), state.pending) == (REQUESTS, {})
        passed += len(overtaken)
    assert passed or races < 100, "the server let no stale decision pass, so that this proves nothing"


async def test_two_who_declare_a_claim_lost_at_once_record_it_once(
    cluster: Cluster, orchestrator: Bus, namespace: Namespace
) -> None:
    async with on_node(cluster, namespace, "executor", "n2") as executor:
        for number in range(RACES):
            subject = build("step.expired", f"c{number}", "s", 1)
            mine, theirs = (Fact(subject, StepExpired(reason=reason)) for reason in ("a tick", "a claimant"))
            results = await asyncio.gather(
                emit(orchestrator.journal, [mine], cause=1),
                executor.journal.append(theirs, fence=attempt_fence(subject, 0)),
                return_exceptions=True,
            )
            assert (results[0] is True) != isinstance(results[1], int)
        assert len(await stored(orchestrator.link, namespace)) == RACES


async def test_streams_are_created_with_the_replicas_that_are_asked_for(
    links: list[Link], namespace: Namespace, nats_url: str, link: Link
) -> None:
    assert await apply_streams(links[0], namespace, replicas=3) == 3
    assert await apply_streams(links[1], namespace, replicas=1) == 3
    info = await links[2].api(f"STREAM.INFO.{namespace.stream('TIMERS')}", {})
    assert (info["config"]["num_replicas"], len(info["cluster"]["replicas"])) == (3, 2)
    with pytest.raises(BusUnsuitableError, match="MOTET_REPLICAS"):
        await apply_streams(link, namespace, replicas=3)


async def test_another_node_takes_over_when_the_leader_steps_down(
    links: list[Link], clients: list[Bus], stream: str
) -> None:
    for number, name in enumerate(["n2", "n3", "n1"]):
        await move_leader(links[0], stream, name)
        fact = Fact(build("task.cancel", f"c{number}", "me"), TaskCancel(requested_by="me"))
        seq = await clients[0].journal.append(fact)
        assert await leader_of(links[1], stream) == name
        state = await clients[2].conversations.load(f"c{number}", at_least=seq)
        assert state.cancel is not None
