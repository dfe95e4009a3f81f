"""The journal against a real server: a fact is recorded once, whatever happens to answers, rivals and bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from motet_bus import Bus
from motet_bus.fences import conversation_fence
from motet_bus.journal import LARGEST_BODY
from motet_bus.link import Link
from motet_gateway.chaos.proxy import FaultyProxy
from motet_schemas import (
    Budget,
    BusUnavailableError,
    ConflictError,
    Fact,
    Plan,
    PlanCreated,
    PlanRequested,
    StepReady,
    TimerFired,
    TimerSet,
    Unreadable,
)
from motet_schemas.subjects import Namespace, build
from tests.bus.servers import NatsServer
from tests.bus.support import (
    bus_as,
    eventually,
    handoff,
    last_of,
    offer,
    outsider_writes,
    plan_step,
    stored,
    stored_twice,
)


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


@pytest.fixture
async def planner(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "planner") as bus:
        yield bus


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "client") as bus:
        yield bus


def requested(revision: int = 1) -> Fact:
    return Fact(build("plan.requested", "c1", revision), PlanRequested(reason="a test"))


def created(revision: int = 1) -> Fact:
    plan = Plan(steps=(plan_step(),), budget=Budget())
    return Fact(build("plan.created", "c1", revision), PlanCreated(**dict(plan)))


# Once


async def test_the_same_fact_again_returns_its_first_sequence(orchestrator: Bus) -> None:
    fact = requested()
    assert await orchestrator.journal.append(fact) == await orchestrator.journal.append(fact)
    assert len(await orchestrator.journal.read_conversation("c1")) == 1


async def test_another_fact_on_the_same_subject_is_refused(orchestrator: Bus) -> None:
    await orchestrator.journal.append(requested())
    with pytest.raises(ConflictError):
        await orchestrator.journal.append(requested())
    assert len(await orchestrator.journal.read_conversation("c1")) == 1


async def test_of_many_writers_of_one_fact_one_wins(orchestrator: Bus) -> None:
    results = await asyncio.gather(
        *(orchestrator.journal.append(requested()) for _ in range(50)), return_exceptions=True
    )
    assert [type(result) for result in results].count(ConflictError) == 49


async def test_what_is_read_back_is_what_was_recorded(orchestrator: Bus) -> None:
    fact = requested()
    before = await orchestrator.journal.server_time()
    seq = await orchestrator.journal.append(fact, cause=None)
    event = await last_of(orchestrator, "plan.requested.c1.1")
    assert (event.seq, event.id, event.data, event.cause) == (seq, fact.id, fact.data, None)
    assert event.source == f"/agents/orchestrator/{orchestrator.instance}"
    assert before <= event.time <= await orchestrator.journal.server_time()


async def test_the_envelope_is_cloudevents_with_cause_and_trace(
    orchestrator: Bus, planner: Bus, link: Link, namespace: Namespace
) -> None:
    cause = await orchestrator.journal.append(requested())
    await planner.journal.append(created(), cause=cause)
    [message] = await stored(link, namespace, "plan.created.>")
    headers = message.headers
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-type"] == "motet.plan.created.v1"
    assert headers["ce-source"] == f"/agents/planner/{planner.instance}"
    assert headers["ce-subject"] == "plan.created.c1.1"
    assert headers["ce-id"] == headers["Nats-Msg-Id"]
    assert headers["motet-cause"] == str(cause)
    assert headers["traceparent"].startswith("00-")
    assert datetime.fromisoformat(headers["ce-time"]).tzinfo is not None


# Lost answers


@pytest.mark.open_server
async def test_a_fact_whose_answer_was_lost_is_recognised_as_ours(
    nats_server: NatsServer, namespace: Namespace, link: Link
) -> None:
    async with (
        FaultyProxy(nats_server.port) as proxy,
        bus_as(f"nats://127.0.0.1:{proxy.port}", namespace, "orchestrator") as bus,
    ):
        proxy.lose_next_answer(b'"seq":')
        seq = await bus.journal.append(requested(), patience_s=20)
    assert proxy.lost == 1
    [message] = await stored(link, namespace)
    assert message.seq == seq


@pytest.mark.open_server
async def test_a_decision_on_a_whole_conversation_whose_answer_was_lost_is_recognised(
    nats_server: NatsServer, namespace: Namespace, link: Link
) -> None:
    async with (
        FaultyProxy(nats_server.port) as proxy,
        bus_as(f"nats://127.0.0.1:{proxy.port}", namespace, "orchestrator") as bus,
    ):
        first = await bus.journal.append(requested())
        proxy.lose_next_answer(b'"seq":')
        fence = conversation_fence("c1", first)
        fact = Fact(build("step.ready", "c1", "s1", 1, "work"), handoff(plan_step()))
        second = await bus.journal.append(fact, fence=fence, patience_s=20)
    assert proxy.lost == 1
    assert [message.seq for message in await stored(link, namespace)] == [first, second]


async def test_a_bus_that_does_not_answer_is_an_error_after_the_given_patience(own_server: NatsServer) -> None:
    async with bus_as(own_server.url, Namespace("gone"), "orchestrator") as bus:
        own_server.kill()
        started = asyncio.get_running_loop().time()
        with pytest.raises(BusUnavailableError) as raised:
            await bus.journal.append(requested(), patience_s=0.5)
        assert raised.value.retryable
        assert asyncio.get_running_loop().time() - started < 3


async def test_an_append_outlives_a_killed_server(own_server: NatsServer) -> None:
    async with bus_as(own_server.url, Namespace("back"), "orchestrator") as bus:
        own_server.kill()
        append = asyncio.create_task(bus.journal.append(requested(), patience_s=30))
        await asyncio.sleep(0.2)
        own_server.start()
        seq = await append
        assert [event.seq for event in await bus.journal.read_conversation("c1")] == [seq]


async def test_a_message_id_that_an_outsider_has_used_does_not_swallow_the_fact(
    orchestrator: Bus, link: Link, namespace: Namespace
) -> None:
    fact = requested()
    await outsider_writes(link, namespace, "letter.dead.other.x-1", headers={"Nats-Msg-Id": fact.id})
    seq = await orchestrator.journal.append(fact)
    assert (await last_of(orchestrator, "plan.requested.c1.1")).seq == seq


# Time


async def test_a_schedule_becomes_one_tick(orchestrator: Bus, link: Link, namespace: Namespace) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    await orchestrator.journal.append(Fact(build("timer.set", "c1", "backoff", "s1", "1"), TimerSet(at=at, why="rest")))
    fired = await eventually(lambda: orchestrator.journal.read_last("timer.fired.c1.backoff.s1.1"))
    assert isinstance(fired.data, TimerFired)
    assert fired.data.why == "rest"
    assert fired.time >= at - timedelta(milliseconds=100)
    assert [event.kind for event in await orchestrator.journal.read_conversation("c1")] == ["timer.set", "timer.fired"]
    assert await stored_twice(link, namespace) == []


async def test_a_schedule_in_the_past_fires_at_once(orchestrator: Bus) -> None:
    at = datetime.now(UTC) - timedelta(days=3)
    await orchestrator.journal.append(Fact(build("timer.set", "c1", "budget", "1"), TimerSet(at=at)))
    await eventually(lambda: orchestrator.journal.read_last("timer.fired.c1.budget.1"), within_s=3)


async def test_schedules_of_one_conversation_do_not_swallow_each_other(orchestrator: Bus) -> None:
    at = datetime.now(UTC) + timedelta(seconds=0.5)
    facts = [Fact(build("timer.set", "c1", "escalation", number), TimerSet(at=at)) for number in (1, 2, 3)]
    for fact in facts:
        await orchestrator.journal.append(fact)

    async def all_fired() -> bool:
        return len(await orchestrator.journal.read_kind("timer.fired.>")) == 3

    await eventually(all_fired)


# Large bodies


async def test_a_large_body_travels_by_reference_and_comes_back_whole(
    orchestrator: Bus, planner: Bus, link: Link, namespace: Namespace
) -> None:
    large = plan_step(context="x" * 20_000)
    ready = handoff(large).evolve(found=(), instructions=tuple("y" * 2_000 for _ in range(200)))
    fact = Fact(build("step.ready", "c1", "s1", 1, "work"), ready)
    assert len(ready.to_json()) > LARGEST_BODY
    await orchestrator.journal.append(fact)
    [message] = await stored(link, namespace)
    assert len(message.body) < 1_000
    assert message.headers["motet-body-ref"]
    assert json.loads(message.body)["size_bytes"] == len(ready.to_json())
    event = await last_of(planner, str(fact.subject))
    assert event.data == ready


async def test_a_body_just_under_the_limit_travels_itself(orchestrator: Bus, link: Link, namespace: Namespace) -> None:
    ready = handoff(plan_step()).evolve(instructions=tuple("y" * 2_000 for _ in range(130)))
    assert LARGEST_BODY - 4_000 < len(ready.to_json()) <= LARGEST_BODY
    await orchestrator.journal.append(Fact(build("step.ready", "c1", "s1", 1, "work"), ready))
    [message] = await stored(link, namespace)
    assert message.body == ready.to_json()
    assert "motet-body-ref" not in message.headers


@pytest.mark.parametrize("size", [10, 10**12], ids=["missing", "too large to be one"])
async def test_a_reference_that_leads_nowhere_is_unreadable_and_breaks_nothing(
    orchestrator: Bus, link: Link, namespace: Namespace, size: int
) -> None:
    await orchestrator.journal.append(requested())
    name = "0" * 64
    body = json.dumps({"name": name, "sha256": name, "size_bytes": size, "media_type": "application/json"}).encode()
    await outsider_writes(link, namespace, "letter.dead.c1.x-1", body, {"motet-body-ref": "1"})
    await outsider_writes(link, namespace, "letter.dead.c1.x-2", b"no reference", {"motet-body-ref": "1"})
    _, nowhere, broken = await orchestrator.journal.read_conversation("c1")
    assert isinstance(nowhere.data, Unreadable)
    assert "object store" in nowhere.data.reason
    assert isinstance(broken.data, Unreadable)
    assert (await orchestrator.conversations.load("c1")).last_seq == broken.seq


async def test_what_does_not_parse_is_read_as_unreadable_with_the_place(
    orchestrator: Bus, link: Link, namespace: Namespace
) -> None:
    await outsider_writes(link, namespace, "plan.requested.c1.1", b'{"reason": 3}')
    event = await last_of(orchestrator, "plan.requested.c1.1")
    assert isinstance(event.data, Unreadable)
    assert "reason" in event.data.reason


async def test_conversations_that_share_a_prefix_do_not_mix(orchestrator: Bus) -> None:
    step = plan_step()
    for conversation in ("c1", "c10", "c1-a"):
        await offer(orchestrator, conversation, step)
    assert [event.subject.conversation for event in await orchestrator.journal.read_conversation("c1")] == ["c1"]
    assert isinstance((await last_of(orchestrator, "step.ready.c10.s1.1.work")).data, StepReady)
