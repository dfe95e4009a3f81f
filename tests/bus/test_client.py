"""What any other system does: submit under an idempotency key, ask for a stop, look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from motet_bus import Bus, Client, open_client
from motet_bus.link import Link
from motet_schemas import (
    BudgetLimits,
    BudgetOverride,
    ConflictError,
    Conversation,
    EscalateAnswered,
    EscalateRaised,
    Fact,
    InvalidInputError,
    Namespace,
    NotAllowedError,
    NotFoundError,
    PlanRejected,
    PlanRequested,
    Report,
    Task,
    TaskCompleted,
    TaskSubmitted,
    TotalUsage,
    limits_context,
)
from motet_schemas.subjects import build
from tests.bus.support import bus_as, options, outsider_writes, stored


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Client]:
    async with open_client(options(nats_url), namespace=namespace.name, by="tester") as opened:
        yield opened


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


TASK = Task(
    kind="content-qa",
    input={"draft": "Hello", "nothing": None, "n": 1.0, "deep": {"b": [1, {"a": 2}], "a": "ß"}},
    owner="brand-team",
    due=datetime(2026, 12, 1, 12, tzinfo=UTC),
    budget=BudgetOverride(max_attempts=4),
)


def report(verdict: str = "approved") -> Report:
    usage = TotalUsage(tokens=0, cost_usd=0.0, attempts=1, elapsed_ms=5)
    return Report.model_validate({"verdict": verdict, "summary": "done", "usage": usage})


def question(number: int) -> Fact:
    raised = EscalateRaised(
        reason="low_confidence",
        question="?",
        allowed_answers=("approve", "reject"),
        due_at=datetime.now(UTC) + timedelta(hours=1),
        on_timeout="reject",
    )
    return Fact(build("escalate.raised", "c1", number), raised)


# Submitting


async def test_a_submission_is_recorded_and_says_where(client: Client) -> None:
    submission = await client.submit(TASK, "c1")
    [event] = await client.events("c1")
    assert (submission.conversation, submission.seq, submission.created) == ("c1", event.seq, True)
    assert isinstance(event.data, TaskSubmitted)
    assert Task(**dict(event.data)) == TASK
    assert event.source.startswith("/agents/client/tester-")


async def test_the_same_task_again_returns_the_first_conversation(
    client: Client, link: Link, namespace: Namespace
) -> None:
    first = await client.submit(TASK, "c1")
    reordered = {"deep": {"a": "ß", "b": [1, {"a": 2}]}, "n": 1.0, "nothing": None, "draft": "Hello"}
    local = datetime(2026, 12, 1, 12, tzinfo=UTC)
    again = await client.submit(TASK.evolve(input=reordered, due=local), "c1")
    assert (again.seq, again.created) == (first.seq, False)
    assert len(await stored(link, namespace)) == 1


async def test_a_task_whose_playbook_widens_its_budget_can_be_submitted_twice(client: Client) -> None:
    wide = limits_context(BudgetLimits(max_attempts=(1, 50)))
    task = Task.model_validate({"kind": "wide", "budget": {"max_attempts": 40}}, context=wide)
    assert (await client.submit(task, "c1")).created
    assert not (await client.submit(task, "c1")).created


@pytest.mark.parametrize(
    "other",
    [TASK.evolve(kind="research"), TASK.evolve(input={}), TASK.evolve(owner=None), TASK.evolve(budget=None)],
    ids=["kind", "input", "owner", "budget"],
)
async def test_the_same_id_with_other_content_is_an_error_that_says_so(client: Client, other: Task) -> None:
    await client.submit(TASK, "c1")
    with pytest.raises(ConflictError, match="'c1' was submitted before with other content"):
        await client.submit(other, "c1")
    assert len(await client.events("c1")) == 1


async def test_of_many_who_submit_the_same_one_creates_it(client: Client) -> None:
    results = await asyncio.gather(*(client.submit(TASK, "c1") for _ in range(20)))
    assert sum(result.created for result in results) == 1
    assert len({result.seq for result in results}) == 1


async def test_the_same_task_again_after_the_end_returns_the_first_conversation(
    client: Client, orchestrator: Bus
) -> None:
    first = await client.submit(TASK, "c1")
    done = TaskCompleted(**dict(report()))
    await orchestrator.journal.append(Fact(build("task.completed", "c1", "content-qa"), done))
    again = await client.submit(TASK, "c1")
    assert (again.seq, again.created) == (first.seq, False)


@pytest.mark.parametrize("name", ["", "a.b", "a*", ">", "a b", "x" * 65, "a\n", "grüße"])
async def test_an_id_that_is_no_token_is_refused_before_anything_is_published(
    client: Client, link: Link, namespace: Namespace, name: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await client.submit(TASK, name)
    assert refused.value.field == "id"
    assert await stored(link, namespace) == []


async def test_a_task_that_json_cannot_hold_is_refused_clearly(client: Client) -> None:
    with pytest.raises(InvalidInputError):
        await client.submit(TASK.evolve(input={"draft": "caf\udce9"}), "c1")


async def test_a_guest_may_say_no_more_than_submit_and_cancel(client: Client) -> None:
    with pytest.raises(NotAllowedError):
        await client.journal.append(Fact(build("plan.requested", "c1", 1), PlanRequested()))


async def test_a_large_document_travels_by_reference(client: Client) -> None:
    reference = await client.put_document(b"x" * 300_000, "text/plain")
    assert reference == await client.put_document(b"x" * 300_000, "text/plain")
    assert await client.get_document(reference) == b"x" * 300_000
    gone = reference.model_copy(update={"name": "0" * 64, "sha256": "0" * 64})
    with pytest.raises(NotFoundError):
        await client.get_document(gone)


# Asking for a stop


async def test_a_stop_can_be_asked_for_once_or_more(client: Client) -> None:
    await client.submit(TASK, "c1")
    await client.cancel("c1", by="ann", reason="wrong draft")
    await client.cancel("c1", by="ann", reason="really")
    await client.cancel("c1", by="bob")
    state = await client.load("c1")
    assert state.cancel is not None
    assert (state.cancel.requested_by, state.cancel.reason) == ("ann", "wrong draft")
    assert [event.kind for event in await client.events("c1")] == ["task.submitted", "task.cancel", "task.cancel"]


async def test_what_is_unknown_or_over_cannot_be_stopped(client: Client, orchestrator: Bus) -> None:
    with pytest.raises(NotFoundError, match="nothing-here"):
        await client.cancel("nothing-here", by="ann")
    await client.submit(TASK, "c1")
    done = TaskCompleted(**dict(report()))
    await orchestrator.journal.append(Fact(build("task.completed", "c1", "content-qa"), done))
    with pytest.raises(ConflictError, match="ended already: completed"):
        await client.cancel("c1", by="ann")
    await client.submit(TASK, "c2")
    with pytest.raises(InvalidInputError):
        await client.cancel("c2", by="a.b")


# Looking


async def test_what_was_never_recorded_is_not_found(client: Client) -> None:
    for look in (client.load("c1"), client.events("c1")):
        with pytest.raises(NotFoundError, match="c1"):
            await look
    with pytest.raises(InvalidInputError):
        await client.load("*")


async def test_a_watcher_sees_the_state_at_once_and_after_every_change(client: Client, orchestrator: Bus) -> None:
    await client.submit(TASK, "c1")
    seen: asyncio.Queue[Conversation] = asyncio.Queue()

    async def watch() -> None:
        async for state in client.watch("c1"):
            await seen.put(state)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(10):
        assert (await seen.get()).task is not None
        await orchestrator.journal.append(Fact(build("plan.requested", "c1", 1), PlanRequested()))
        assert 1 in (await seen.get()).revisions
        await client.cancel("c1", by="ann")
        assert (await seen.get()).cancel is not None
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert seen.empty()


async def test_a_watcher_that_goes_away_leaves_no_subscription(client: Client) -> None:
    await client.submit(TASK, "c1")
    watching = client.watch("c1")
    assert (await anext(watching)).task is not None
    await watching.aclose()


async def test_all_conversations_are_listed_in_a_line_each_newest_first(
    nats_url: str, client: Client, orchestrator: Bus, link: Link, namespace: Namespace
) -> None:
    assert await client.conversations() == []
    await client.submit(TASK, "c1")
    await client.submit(TASK.evolve(owner=None), "c2")
    await client.submit(TASK, "c3")
    asked = await orchestrator.journal.append(Fact(build("plan.requested", "c1", 1), PlanRequested()))
    async with bus_as(nats_url, namespace, "planner") as planner:
        refusal = PlanRejected(reason="no such playbook")
        await planner.journal.append(Fact(build("plan.rejected", "c1", 1), refusal), cause=asked)
    await orchestrator.journal.append(question(1))
    await orchestrator.journal.append(question(2))
    done = TaskCompleted(**dict(report("changes_needed")))
    await orchestrator.journal.append(Fact(build("task.completed", "c3", "content-qa"), done))
    await outsider_writes(link, namespace, "task.submitted.c4.content-qa")
    await outsider_writes(link, namespace, "task.cancel.c5.somebody", b"{}")
    lines = await client.conversations()
    assert [line.conversation for line in lines] == ["c4", "c3", "c2", "c1"]
    shown = {line.conversation: (line.status, line.verdict, line.questions, line.owner, line.kind) for line in lines}
    assert shown == {
        "c1": ("waiting", "needs_human", 2, "brand-team", "content-qa"),
        "c2": ("running", None, 0, None, "content-qa"),
        "c3": ("completed", "changes_needed", 0, "brand-team", "content-qa"),
        "c4": ("running", None, 0, None, "unreadable"),
    }
    async with bus_as(nats_url, namespace, "desk") as desk:
        answer = EscalateAnswered(decision="approve", answered_by="ann")
        await desk.journal.append(Fact(build("escalate.answered", "c1", 1), answer))
        await desk.journal.append(Fact(build("escalate.answered", "c1", 2), answer))
    [line] = [line for line in await client.conversations() if line.conversation == "c1"]
    assert (line.status, line.questions) == ("running", 0)


async def test_many_conversations_are_listed(client: Client) -> None:
    await asyncio.gather(*(client.submit(TASK, f"c{number}") for number in range(300)))
    lines = await client.conversations()
    assert len(lines) == 300
    assert [line.submitted_at for line in lines] == sorted((line.submitted_at for line in lines), reverse=True)
