"""Steps: claimed, run within their bounds, recorded in one fact, whatever the handler does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from motet_bus import Agent, Bus, Outcome, Step
from motet_bus.link import Link
from motet_schemas import (
    Fact,
    Found,
    Manifest,
    Namespace,
    PermanentError,
    Reference,
    Report,
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
    plan_step,
    running,
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
    notice = await last_of(orchestrator, f"letter.dead.c1.step-work.{ready.seq}")
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
