"""Steps: claimed, run within their bounds, recorded in one fact, whatever the handler does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import cast

import pytest

from motet_bus import Agent, Bus, Outcome, RunOptions, Step
from motet_bus.delivery import Delivery
from motet_bus.link import Link
from motet_bus.step_runner import StepHandler, StepRunner
from motet_schemas import (
    Event,
    Fact,
    Found,
    Manifest,
    Namespace,
    PermanentError,
    Reference,
    Report,
    StepExecuted,
    StepReady,
    TaskCancelled,
    TotalUsage,
    TransientError,
    Usage,
)
from motet_schemas.subjects import build
from tests.bus.support import (
    bus_as,
    dead_letters,
    eventually,
    executed,
    handoff,
    is_settled,
    kinds,
    last_of,
    offer,
    outsider_writes,
    plan_step,
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


# What is recorded


async def test_the_whole_output_of_a_run_is_one_fact(nats_url: str, namespace: Namespace, orchestrator: Bus) -> None:
    agent = worker()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(
            confidence=0.75,
            notes="looked twice",
            evidence=["seen", {"type": "quote", "content": "a b"}],
            output={"n": 1, "nothing": None},
            usage=Usage(tokens_in=3, tokens_out=4, cost_usd=0.01),
            model="a-model",
            risks=["none"],
        )

    ready = await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace) as here:
        record = await eventually(lambda: executed(orchestrator, "c1"))
    assert (record.status, record.confidence, record.notes) == ("passed", 0.75, "looked twice")
    assert [(item.type, item.content) for item in record.evidence] == [("note", "seen"), ("quote", "a b")]
    assert record.output == {"n": 1, "nothing": None}
    assert (record.tokens_in, record.tokens_out, record.cost_usd, record.model) == (3, 4, 0.01, "a-model")
    assert record.executor == here.card.instance
    assert isinstance(ready.data, StepReady)
    assert record.idempotency_key == ready.data.idempotency_key
    assert record.failure is None
    assert await kinds(orchestrator, "c1") == ["step.ready", "step.claimed", "step.executed"]


async def test_the_handler_is_handed_everything_it_needs(
    nats_url: str, namespace: Namespace, orchestrator: Bus
) -> None:
    agent = worker()
    got: asyncio.Future[Step] = asyncio.get_running_loop().create_future()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        got.set_result(step)
        return Outcome.passed(confidence=1.0)

    text = await orchestrator.objects.put("grüße".encode(), "text/plain")
    image = await orchestrator.objects.put(b"\x89PNG", "image/png")
    manifest = Manifest(objective="do it", inputs={"a": [1]}, references={"letter": text, "image": image})
    step = plan_step(manifest=manifest, min_confidence=0.5, time_budget_s=33)
    ready = handoff(step, "the-key").evolve(
        asked="please", found=(Found(step="s0", notes="earlier"),), instructions=("carefully",)
    )
    await orchestrator.journal.append(Fact(build("step.ready", "c1", "s1", 4, "work"), ready))
    async with running(agent, nats_url, namespace):
        handed = await asyncio.wait_for(got, 10)
    assert (handed.conversation, handed.id, handed.attempt, handed.capability) == ("c1", "s1", 4, "work")
    assert handed.manifest.inputs == {"a": [1], "letter": "grüße"}
    assert handed.manifest.references == {"image": image}
    assert (handed.asked, handed.instructions, handed.idempotency_key) == ("please", ("carefully",), "the-key")
    assert (handed.min_confidence, handed.time_budget_s, handed.found[0].notes) == (0.5, 33, "earlier")


async def test_a_large_outcome_travels_by_reference(nats_url: str, namespace: Namespace, orchestrator: Bus) -> None:
    agent = worker()
    large = "x" * 1_000_000

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0, output=large)

    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        record = await eventually(lambda: executed(orchestrator, "c1"))
    assert record.output == large


# What a handler can do wrong


class OddError(Exception):
    """An exception that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raises(error: BaseException) -> Callable[[], Outcome]:
    def fail() -> Outcome:
        raise error

    return fail


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (raises(ValueError("the disk is odd")), "ValueError", "the disk is odd"),
        (raises(TransientError("later", retry_after_s=7.0)), "TransientError", "later"),
        (raises(KeyError()), "KeyError", "KeyError"),
        (raises(asyncio.CancelledError()), "TransientError", "cancelled"),
        (raises(TimeoutError()), "TimeoutError", "TimeoutError"),
        (raises(FileNotFoundError(2, "No such file", "caf\udce9.md")), "FileNotFoundError", "No such file"),
        (raises(ValueError("x" * 100_000)), "ValueError", "xxx"),
        (raises(ExceptionGroup("several", [ValueError("one"), KeyError("two")])), "ExceptionGroup", "several"),
        (raises(OddError()), "OddError", "OddError"),
    ],
    ids=["error", "later", "wordless", "cancelled", "timeout", "surrogate", "long", "group", "odd"],
)
async def test_an_exception_is_a_failed_attempt_that_may_be_tried_again(
    nats_url: str,
    namespace: Namespace,
    orchestrator: Bus,
    link: Link,
    act: Callable[[], Outcome],
    kind: str,
    words: str,
) -> None:
    agent = worker()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return act()

    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        record = await eventually(lambda: executed(orchestrator, "c1"), within_s=4)
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    assert (record.status, record.next_action) == ("failed", "revise")
    assert record.failure is not None
    assert record.failure.retryable
    assert record.failure.type == kind
    assert words in record.notes
    assert await dead_letters(link, namespace) == []


async def test_a_permanent_error_is_recorded_buried_and_told(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    agent = worker()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        raise PermanentError("no licence for this")

    ready = await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace) as here:
        record = await eventually(lambda: executed(orchestrator, "c1"))
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    assert record.status == "failed"
    assert record.failure is not None
    assert (record.failure.code, record.failure.retryable) == ("permanent", False)
    assert record.next_action == "escalate"
    [letter] = await dead_letters(link, namespace)
    assert (letter.subject, letter.sequence, letter.consumer) == (str(ready.subject), ready.seq, "step-work")
    assert letter.instance == here.card.instance
    assert "no licence for this" in letter.stack
    notice = await last_of(orchestrator, f"letter.dead.c1.step-work-{ready.seq}")
    assert notice.cause == ready.seq
    assert (await kinds(orchestrator, "c1")).count("step.executed") == 1


@pytest.mark.parametrize(
    "returned",
    [
        Outcome.passed(confidence=1.5),
        Outcome.passed(confidence=float("nan")),
        Outcome.passed(confidence=1.0, output=cast("None", {1, 2})),
        Outcome.passed(confidence=1.0, output={"name": "caf\udce9"}),
        Outcome.passed(confidence=1.0, notes="caf\udce9"),
        Outcome.passed(confidence=1.0, notes=cast("str", None)),
        None,
        "passed",
        {"status": "passed"},
    ],
    ids=["range", "nan", "set", "surrogate in output", "surrogate in notes", "no notes", "None", "text", "mapping"],
)
async def test_what_is_no_valid_outcome_fails_the_attempt_for_good(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link, returned: object
) -> None:
    agent = worker()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return cast("Outcome", returned)

    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        record = await eventually(lambda: executed(orchestrator, "c1"), within_s=4)
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    assert record.status == "failed"
    assert record.failure is not None
    assert not record.failure.retryable
    assert "outcome" in record.notes.lower()


async def test_a_reference_that_is_gone_fails_the_attempt_and_is_told(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    agent = worker()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        raise AssertionError("there is nothing to work on")

    name = hashlib.sha256(b"gone").hexdigest()
    gone = Reference(name=name, sha256=name, size_bytes=4, media_type="text/plain")
    await offer(orchestrator, "c1", plan_step(manifest=Manifest(objective="x", references={"draft": gone})))
    async with running(agent, nats_url, namespace):
        record = await eventually(lambda: executed(orchestrator, "c1"))
    assert record.failure is not None
    assert record.failure.code == "not_found"
    assert len(await dead_letters(link, namespace)) == 1


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


async def test_a_false_word_of_an_end_stops_nothing_for_good(
    nats_url: str, namespace: Namespace, orchestrator: Bus
) -> None:
    agent = worker()
    begun = asyncio.Event()

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        begun.set()
        await asyncio.sleep(0 if step.attempt > 1 else 60)
        return Outcome.passed(confidence=1.0)

    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        await asyncio.wait_for(begun.wait(), 10)
        await orchestrator.ended.tell("c1")
        record = await eventually(lambda: executed(orchestrator, "c1"))
        assert record.status == "failed"
        await orchestrator.ended.tell("c1")
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
