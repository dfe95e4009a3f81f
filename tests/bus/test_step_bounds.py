"""Steps within their bounds: time, claims, the end of a conversation, an agent that stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from motet_bus import Agent, Bus, Outcome, RunOptions, Step
from motet_bus.delivery import Delivery
from motet_bus.link import Link
from motet_bus.step_runner import StepHandler, StepRunner
from motet_schemas import (
    Event,
    Fact,
    Namespace,
    Report,
    StepExecuted,
    StepReady,
    TaskCancelled,
    TotalUsage,
)
from motet_schemas.subjects import build
from tests.bus.support import (
    bus_as,
    dead_letters,
    eventually,
    executed,
    is_settled,
    kinds,
    last_of,
    offer,
    outsider_writes,
    running,
    stored_twice,
)


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


def worker(name: str = "worker") -> Agent:
    return Agent(name, role="executor")


async def end(bus: Bus, conversation: str) -> None:
    """Record that a conversation was cancelled, and tell everybody."""
    usage = TotalUsage(tokens=0, cost_usd=0.0, attempts=0, elapsed_ms=0)
    report = TaskCancelled(**dict(Report(verdict="needs_human", summary="cancelled", usage=usage)))
    await bus.journal.append(Fact(build("task.cancelled", conversation, "content-qa"), report))
    await bus.ended.tell(conversation)


# Bounds


async def run_for(bus: Bus, handler: StepHandler, ready: Event, *, time_budget_s: float) -> None:
    """Run one step with a shorter time budget than a plan may give (10 s), so that a test need not wait."""
    assert isinstance(ready.data, StepReady)
    step = ready.data.step.model_copy(update={"time_budget_s": time_budget_s})
    hurried = replace(ready, data=ready.data.model_copy(update={"step": step}))
    delivery = Delivery(bus.link, str(ready.subject), {}, b"", f"$JS.ACK.stream.consumer.1.{ready.seq}.1.1.0")
    await StepRunner(bus, "work", handler).handle(hurried, delivery)


async def test_a_step_that_runs_out_of_time_fails_and_its_handler_is_cancelled(
    nats_url: str, namespace: Namespace, orchestrator: Bus
) -> None:
    ended: list[str] = []

    async def work(step: Step) -> Outcome:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(step.id)
        return Outcome.passed(confidence=1.0)

    ready = await offer(orchestrator, "c1")
    async with bus_as(nats_url, namespace, "executor") as bus:
        await run_for(bus, work, ready, time_budget_s=0.3)
    record = await executed(orchestrator, "c1")
    assert ended == ["s1"]
    assert record is not None
    assert record.status == "failed"
    assert record.failure is not None
    assert record.failure.retryable
    assert "time budget" in record.notes
    assert record.elapsed_ms >= 300


async def test_a_deaf_handler_does_not_keep_its_attempt_open(
    nats_url: str, namespace: Namespace, orchestrator: Bus
) -> None:
    let_go, gone = asyncio.Event(), asyncio.Event()

    async def work(step: Step) -> Outcome:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        gone.set()
        return Outcome.passed(confidence=1.0, notes="much too late")

    ready = await offer(orchestrator, "c1")
    async with bus_as(nats_url, namespace, "executor") as bus:
        await run_for(bus, work, ready, time_budget_s=0.3)
        record = await executed(orchestrator, "c1")
        let_go.set()
        await asyncio.wait_for(gone.wait(), 5)
    assert record is not None
    assert "time budget" in record.notes
    assert (await kinds(orchestrator, "c1")).count("step.executed") == 1


async def test_a_claim_is_kept_alive_while_the_handler_runs_and_a_second_worker_waits(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    """The owner works three times as long as its claim lives and its message is redelivered to the other."""
    runs: list[str] = []
    first, second = worker("first"), worker("second")
    for agent in (first, second):

        @agent.step("work")
        async def work(step: Step) -> Outcome:
            runs.append(step.id)
            await asyncio.sleep(2.5)
            return Outcome.passed(confidence=1.0)

    await offer(orchestrator, "c1")
    short = RunOptions(claim_ttl_s=0.8, ack_wait_s=1.0)
    async with running(first, nats_url, namespace, short), running(second, nats_url, namespace, short):
        await eventually(lambda: executed(orchestrator, "c1"))
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    assert runs == ["s1"]
    found = await kinds(orchestrator, "c1")
    assert (found.count("step.claimed"), found.count("step.executed"), found.count("step.expired")) == (1, 1, 0)
    assert found.count("step.renewed") >= 3


async def test_a_step_that_was_given_up_by_a_dead_worker_is_expired_by_the_next_one(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    from motet_bus.claims import HeldClaim

    agent = worker()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0, output=step.attempt)

    ready = await offer(orchestrator, "c1")
    async with bus_as(nats_url, namespace, "executor", "dead") as dead:
        await HeldClaim.take(dead.journal, ready, ttl_s=0.5)
    async with running(agent, nats_url, namespace):
        lost = await eventually(lambda: orchestrator.journal.read_last("step.expired.c1.s1.1"))
        await eventually(lambda: is_settled(link, namespace, "step-work"))
        await offer(orchestrator, "c1", attempt=2)
        record = await eventually(lambda: executed(orchestrator, "c1", attempt=2))
    assert lost.source.startswith("/agents/executor/worker-")
    assert record.output == 2
    assert await executed(orchestrator, "c1") is None


# The end of a conversation


async def test_the_end_of_a_conversation_stops_who_works_for_it(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    agent = worker()
    begun, stopped = asyncio.Event(), asyncio.Event()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return Outcome.passed(confidence=1.0)

    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        await asyncio.wait_for(begun.wait(), 10)
        await end(orchestrator, "c1")
        await asyncio.wait_for(stopped.wait(), 5)
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    assert await executed(orchestrator, "c1") is None


async def test_a_step_of_an_ended_conversation_is_not_begun_once_that_is_known(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    agent = worker()
    runs: list[str] = []

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        runs.append(step.conversation)
        return Outcome.passed(confidence=1.0)

    async with running(agent, nats_url, namespace):
        await end(orchestrator, "c1")
        await offer(orchestrator, "c1")
        await offer(orchestrator, "c2")
        await eventually(lambda: executed(orchestrator, "c2"))
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    assert runs == ["c2"]
    assert await kinds(orchestrator, "c1") == ["task.cancelled", "step.ready"]


async def test_a_false_word_of_an_end_stops_nothing(nats_url: str, namespace: Namespace, orchestrator: Bus) -> None:
    agent = worker()
    begun, told = asyncio.Event(), asyncio.Event()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        begun.set()
        await told.wait()
        return Outcome.passed(confidence=1.0)

    async def hear(_: object) -> None:
        told.set()

    await orchestrator.link.subscribe(namespace.wire("signal.ended.*"), hear)
    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        await asyncio.wait_for(begun.wait(), 10)
        await orchestrator.ended.tell("c1")
        record = await eventually(lambda: executed(orchestrator, "c1"))
        assert record.status == "passed"
        await offer(orchestrator, "c1", attempt=2)
        record = await eventually(lambda: executed(orchestrator, "c1", attempt=2))
        assert record.status == "passed"


# Draining, and what outsiders write


async def test_an_agent_that_stops_hands_its_claim_back_so_that_another_can_start_at_once(
    nats_url: str, namespace: Namespace, orchestrator: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motet_bus.consumer.GRACE_S", 0.2)
    agent = worker()
    begun = asyncio.Event()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        begun.set()
        await asyncio.sleep(60)
        return Outcome.passed(confidence=1.0)

    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace, RunOptions(claim_ttl_s=30, ack_wait_s=30)):
        await asyncio.wait_for(begun.wait(), 10)
    lost = await last_of(orchestrator, "step.expired.c1.s1.1")
    assert "released" in str(lost.data)
    assert await executed(orchestrator, "c1") is None


async def test_rubbish_on_a_capability_is_buried_and_the_next_step_done(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    agent = worker()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0)

    await outsider_writes(link, namespace, "step.ready.c0.s1.1.work")
    await outsider_writes(link, namespace, "step.ready.c0.s1.first.work", b"{}")
    await outsider_writes(link, namespace, "step.ready.c0.s1.2.work", b'{"step": {"id": "s1"}}', {"ce-type": "???"})
    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        record: StepExecuted = await eventually(lambda: executed(orchestrator, "c1"))
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    assert record.status == "passed"
    letters = await dead_letters(link, namespace)
    assert [letter.subject.rpartition("step.ready.")[2] for letter in letters] == [
        "c0.s1.1.work",
        "c0.s1.first.work",
        "c0.s1.2.work",
    ]
    assert all(letter.failure.code == "unreadable" for letter in letters)
    assert await stored_twice(link, namespace) == []
