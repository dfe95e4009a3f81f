"""The human desk on a real bus: what waits for a person, and answers that count once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from motet_agents import desk
from motet_bus import Bus, Client, open_client
from motet_bus.fences import Fence
from motet_bus.link import Link
from motet_schemas import (
    ConflictError,
    Conversation,
    EscalateAnswered,
    EscalateRaised,
    EscalateTimedOut,
    Fact,
    Handled,
    HumanAnswer,
    InvalidInputError,
    Namespace,
    NotAllowedError,
    NotFoundError,
    Report,
    Task,
    TaskCancelled,
    TotalUsage,
)
from motet_schemas.human import Decision
from motet_schemas.subjects import build, handled
from tests.bus.support import bus_as, kinds, options, outsider_writes

APPROVE = HumanAnswer(decision="approve", answered_by="ann", note="fine")


@pytest.fixture
async def clerk(nats_url: str, namespace: Namespace) -> AsyncIterator[Client]:
    async with open_client(options(nats_url), namespace=namespace.name, by="ann", role="desk") as opened:
        yield opened


@pytest.fixture
async def guest(nats_url: str, namespace: Namespace) -> AsyncIterator[Client]:
    async with open_client(options(nats_url), namespace=namespace.name) as opened:
        yield opened


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


async def ask(
    bus: Bus,
    conversation: str = "c1",
    number: int = 1,
    *,
    allowed: tuple[Decision, ...] = ("approve", "revise", "reject"),
    due_in_s: float = 3_600,
) -> int:
    raised = EscalateRaised(
        reason="low_confidence",
        step="tone",
        attempt=1,
        question=f"Is question {number} good enough?",
        allowed_answers=allowed,
        due_at=datetime.now(UTC) + timedelta(seconds=due_in_s),
        on_timeout="reject",
    )
    return await bus.journal.append(Fact(build("escalate.raised", conversation, number), raised))


async def time_out(bus: Bus, number: int = 1) -> None:
    last = await bus.journal.read_last(f"escalate.*.c1.{number}")
    assert last is not None
    silence = EscalateTimedOut(decision="reject", due_at=datetime.now(UTC))
    fence = Fence(last.seq, f"escalate.*.c1.{number}")
    await bus.journal.append(Fact(build("escalate.timed_out", "c1", number), silence), fence=fence)


async def end(bus: Bus, conversation: str) -> None:
    usage = TotalUsage(tokens=0, cost_usd=0.0, attempts=0, elapsed_ms=0)
    report = TaskCancelled(**dict(Report(verdict="needs_human", summary="over", usage=usage)))
    await bus.journal.append(Fact(build("task.cancelled", conversation, "content-qa"), report))


# The inbox


async def test_the_inbox_lists_open_questions_the_most_urgent_first(
    clerk: Client, guest: Client, orchestrator: Bus
) -> None:
    assert await desk.inbox(clerk) == []
    for name, due_in_s in (("c1", 500.0), ("c2", 100.0), ("c3", 300.0), ("c4", 50.0)):
        await guest.submit(Task(kind="content-qa", owner=f"team-{name}"), name)
        await ask(orchestrator, name, due_in_s=due_in_s)
    await ask(orchestrator, "c1", 2, due_in_s=10)
    await end(orchestrator, "c4")
    await desk.answer(clerk, "c3", 1, APPROVE)
    waiting = await desk.inbox(clerk)
    assert [(one.conversation, one.question.number) for one in waiting] == [("c1", 2), ("c2", 1), ("c1", 1)]
    assert waiting[1].task is not None
    assert waiting[1].task.owner == "team-c2"


# Answering


async def test_an_answer_is_recorded_with_who_gave_it(clerk: Client, guest: Client, orchestrator: Bus) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    cause = await ask(orchestrator)
    question = await desk.answer(clerk, "c1", None, APPROVE)
    assert question.number == 1
    event = await orchestrator.journal.read_last("escalate.answered.c1.1")
    assert event is not None
    assert event.data == EscalateAnswered(**dict(APPROVE))
    assert event.cause == cause
    assert event.source.startswith("/agents/desk/ann-")
    state = await clerk.load("c1")
    assert state.questions[1].decision == "approve"


async def test_an_answer_that_is_not_allowed_is_refused_and_says_what_is(
    clerk: Client, guest: Client, orchestrator: Bus
) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    await ask(orchestrator, allowed=("approve", "reject"))
    revise = HumanAnswer(decision="revise", instructions="again", answered_by="ann")
    with pytest.raises(InvalidInputError, match=r"revise is no answer .*; allowed are approve, reject"):
        await desk.answer(clerk, "c1", 1, revise)
    assert (await clerk.load("c1")).questions[1].open


async def test_when_several_are_open_one_must_say_which(clerk: Client, guest: Client, orchestrator: Bus) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    await ask(orchestrator)
    await ask(orchestrator, number=2)
    with pytest.raises(InvalidInputError, match=r"2 questions are open.*1: .*2: ") as refused:
        await desk.answer(clerk, "c1", None, APPROVE)
    assert refused.value.field == "number"
    assert (await desk.answer(clerk, "c1", 2, APPROVE)).number == 2
    assert (await desk.answer(clerk, "c1", None, APPROVE)).number == 1


async def test_a_question_that_does_not_exist_is_an_error_that_lists_those_that_do(
    clerk: Client, guest: Client, orchestrator: Bus
) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    with pytest.raises(InvalidInputError, match="no question is open"):
        await desk.answer(clerk, "c1", None, APPROVE)
    await ask(orchestrator)
    with pytest.raises(InvalidInputError, match="no question 7 in c1; open are 1"):
        await desk.answer(clerk, "c1", 7, APPROVE)
    with pytest.raises(NotFoundError):
        await desk.answer(clerk, "unknown", None, APPROVE)


async def test_what_is_answered_timed_out_or_over_cannot_be_answered(
    clerk: Client, guest: Client, orchestrator: Bus
) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    await ask(orchestrator)
    await desk.answer(clerk, "c1", 1, APPROVE)
    with pytest.raises(ConflictError, match="closed: approve"):
        await desk.answer(clerk, "c1", 1, APPROVE)
    await ask(orchestrator, number=2)
    await time_out(orchestrator, 2)
    with pytest.raises(ConflictError, match="closed: reject"):
        await desk.answer(clerk, "c1", 2, APPROVE)
    await ask(orchestrator, number=3)
    await end(orchestrator, "c1")
    with pytest.raises(ConflictError, match="has ended: cancelled"):
        await desk.answer(clerk, "c1", 3, APPROVE)


async def test_of_many_answers_at_once_one_counts(clerk: Client, guest: Client, orchestrator: Bus) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    await ask(orchestrator)
    results = await asyncio.gather(*(desk.answer(clerk, "c1", 1, APPROVE) for _ in range(10)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, ConflictError) for result in results if isinstance(result, BaseException))
    assert (await kinds(orchestrator, "c1")).count("escalate.answered") == 1


async def test_of_an_answer_and_a_time_out_at_the_same_moment_one_counts(
    clerk: Client, guest: Client, orchestrator: Bus
) -> None:
    names = range(1, 21)
    await guest.submit(Task(kind="content-qa"), "c1")
    for number in names:
        await ask(orchestrator, number=number)
    acts = [desk.answer(clerk, "c1", number, APPROVE) for number in names]
    results = await asyncio.gather(*acts, *(time_out(orchestrator, number) for number in names), return_exceptions=True)
    assert sum(isinstance(result, ConflictError) for result in results) == len(names)
    for number in names:
        events = await orchestrator.journal.read_kind(f"escalate.*.c1.{number}")
        assert len(events) == 2


async def test_rubbish_beside_a_question_does_not_keep_the_answer_out(
    clerk: Client, guest: Client, orchestrator: Bus, link: Link, namespace: Namespace
) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    await ask(orchestrator)
    await outsider_writes(link, namespace, "escalate.nonsense.c1.1")
    await desk.answer(clerk, "c1", 1, APPROVE)
    assert (await clerk.load("c1")).questions[1].decision == "approve"


async def test_a_guest_that_is_not_the_desk_may_not_answer(guest: Client, orchestrator: Bus) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    await ask(orchestrator)
    with pytest.raises(NotAllowedError):
        await desk.answer(guest, "c1", 1, APPROVE)


async def test_an_answer_to_what_is_decided_but_not_yet_said_is_refused(
    clerk: Client, guest: Client, orchestrator: Bus
) -> None:
    await guest.submit(Task(kind="content-qa"), "c1")
    seq = await ask(orchestrator)
    silence = EscalateTimedOut(decision="reject", due_at=datetime.now(UTC))
    said = Fact(build("escalate.timed_out", "c1", 1), silence)
    state = await clerk.load("c1")
    record = Fact(handled("orchestrator", "c1", seq), Handled(outputs=(said.to_output(),)))
    answering = desk.answer(clerk, "c1", 1, APPROVE)
    real = clerk.load

    async def load_before_the_record(conversation: str) -> Conversation:
        await orchestrator.journal.append(record)
        return state if conversation == "c1" else await real(conversation)

    clerk.load = load_before_the_record  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="timed out, a moment ago"):
        await answering
