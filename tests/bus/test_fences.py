"""What each role may say, and the fences that keep a fact's rivals out; strangers on odd subjects keep nobody out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from motet_bus import Bus
from motet_bus.fences import Fence, conversation_fence, natural_fence
from motet_bus.grants import GRANTS, Role
from motet_bus.link import Link
from motet_schemas import (
    EVENTS,
    Budget,
    ConflictError,
    EscalateRaised,
    Fact,
    NotAllowedError,
    Plan,
    PlanCreated,
    PlanRejected,
    PlanRequested,
    StepClaimed,
    TaskCancel,
    TaskSubmitted,
    TimerSet,
    VerifyPassed,
)
from motet_schemas.subjects import Namespace, build
from tests.bus.support import (
    bus_as,
    handoff,
    last_of,
    offer,
    outsider_writes,
    plan_step,
    submit,
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


# Grants


async def test_a_role_may_not_say_what_is_not_its_own(planner: Bus, client: Bus) -> None:
    with pytest.raises(NotAllowedError, match=r"planner may not record plan\.requested"):
        await planner.journal.append(requested())
    with pytest.raises(NotAllowedError, match="client"):
        await client.journal.append(created())
    assert await planner.journal.read_conversation("c1") == []


@pytest.mark.parametrize("role", ["planner", "executor", "verifier", "specialist", "desk", "client", "operator"])
async def test_only_the_orchestrator_may_write_a_schedule(nats_url: str, namespace: Namespace, role: Role) -> None:
    async with bus_as(nats_url, namespace, role) as bus:
        with pytest.raises(NotAllowedError):
            await bus.journal.append(Fact(build("timer.set", "c1", "budget"), TimerSet(at=datetime.now(UTC))))


async def test_a_verifier_cannot_record_work_and_an_executor_cannot_verify(nats_url: str, namespace: Namespace) -> None:
    verdict = Fact(build("verify.passed", "c1", "s1", 1), VerifyPassed(verdict="passed", verifier="me"))
    async with bus_as(nats_url, namespace, "executor") as executor, bus_as(nats_url, namespace, "verifier") as verifier:
        with pytest.raises(NotAllowedError):
            await executor.journal.append(verdict)
        with pytest.raises(NotAllowedError):
            await verifier.journal.append(
                Fact(build("step.ready", "c1", "s1", 1, "work"), handoff(plan_step())),
            )


# Fences


@pytest.mark.parametrize(
    ("kind", "detail", "expected"),
    [
        ("plan.created", (2,), Fence(7, "plan.*.c1.2")),
        ("plan.rejected", (2,), Fence(7, "plan.*.c1.2")),
        ("plan.requested", (2,), Fence(0, "plan.*.c1.2")),
        ("verify.passed", ("s1", 3), Fence(0, "verify.*.c1.s1.3")),
        ("verify.failed", ("s1", 3), Fence(0, "verify.*.c1.s1.3")),
        ("escalate.raised", (4,), Fence(0, "escalate.*.c1.4")),
        ("step.ready", ("s1", 3, "work"), Fence(0, "step.ready.c1.s1.3.*")),
        ("step.claimed", ("s1", 3), Fence(0, "step.*.c1.s1.3")),
        ("task.submitted", ("content-qa",), Fence(0, "task.*.c1.>")),
    ],
)
def test_each_fact_has_its_rivals_in_its_fence(kind: str, detail: tuple[str | int, ...], expected: Fence) -> None:
    assert natural_fence(build(kind, "c1", *detail), cause=7) == expected


async def test_a_plan_and_its_refusal_are_rivals(orchestrator: Bus, planner: Bus) -> None:
    cause = await orchestrator.journal.append(requested())
    await planner.journal.append(created(), cause=cause)
    with pytest.raises(ConflictError):
        await planner.journal.append(Fact(build("plan.rejected", "c1", 1), PlanRejected(reason="no")), cause=cause)


async def test_a_plan_that_nobody_asked_for_is_refused(planner: Bus) -> None:
    with pytest.raises(ConflictError):
        await planner.journal.append(created(), cause=1)


async def test_an_attempt_is_offered_under_one_capability_only(orchestrator: Bus) -> None:
    await offer(orchestrator, "c1", plan_step(capability="tone"))
    with pytest.raises(ConflictError):
        await offer(orchestrator, "c1", plan_step(capability="links"))


async def test_a_stale_decision_is_refused_and_a_fresh_one_recorded(orchestrator: Bus, client: Bus) -> None:
    seen = (await submit(client, "c1")).seq
    cancel = Fact(build("task.cancel", "c1", "me"), TaskCancel(requested_by="me"))
    newest = await client.journal.append(cancel)
    with pytest.raises(ConflictError):
        await orchestrator.journal.append(requested(), fence=conversation_fence("c1", seen))
    await orchestrator.journal.append(requested(), fence=conversation_fence("c1", newest))


RUBBISH_SUBJECTS = ["task.nonsense.c1.x", "plan.nonsense.c1.1", "step.nonsense.c1.s1.1", "verify.nonsense.c1.s1.1"]


@pytest.mark.parametrize("rubbish", [*RUBBISH_SUBJECTS, "escalate.nonsense.c1.1"])
async def test_rubbish_on_subjects_that_are_no_event_blocks_no_decision(
    orchestrator: Bus, link: Link, namespace: Namespace, rubbish: str
) -> None:
    first = await orchestrator.journal.append(requested())
    await outsider_writes(link, namespace, rubbish)
    state = await orchestrator.conversations.load("c1")
    assert state.plan_revision == 0
    fact = Fact(build("plan.requested", "c1", 2), PlanRequested(reason="more"))
    second = await orchestrator.journal.append(fact, fence=conversation_fence("c1", state.last_seq))
    assert second > first


async def test_rubbish_beside_a_request_does_not_keep_the_plan_out(
    orchestrator: Bus, planner: Bus, link: Link, namespace: Namespace
) -> None:
    cause = await orchestrator.journal.append(requested())
    await outsider_writes(link, namespace, "plan.nonsense.c1.1")
    await planner.journal.append(created(), cause=cause)


@pytest.mark.parametrize(
    ("rubbish", "kind", "detail"),
    [
        ("verify.nonsense.c1.s1.1", "verify.passed", ("s1", 1)),
        ("escalate.nonsense.c1.1", "escalate.raised", (1,)),
        ("step.nonsense.c1.s1.1", "step.claimed", ("s1", 1)),
        ("task.nonsense.c1.x", "task.submitted", ("content-qa",)),
    ],
)
async def test_rubbish_beside_a_fact_does_not_keep_it_out(
    nats_url: str, link: Link, namespace: Namespace, rubbish: str, kind: str, detail: tuple[str | int, ...]
) -> None:
    due = datetime.now(UTC)
    raised = EscalateRaised(
        reason="step_failed", question="?", allowed_answers=("reject",), due_at=due, on_timeout="reject"
    )
    data = {
        "verify.passed": VerifyPassed(verdict="passed", verifier="me"),
        "escalate.raised": raised,
        "step.claimed": StepClaimed(owner="me", nonce="12345678", ttl_s=1.0, attempt=1),
        "task.submitted": TaskSubmitted(kind="content-qa"),
    }[kind]
    assert isinstance(data, EVENTS[kind])
    role: Role = next(role for role, grant in GRANTS.items() if kind in grant)
    async with bus_as(nats_url, namespace, role) as bus:
        await outsider_writes(link, namespace, rubbish)
        fact = Fact(build(kind, "c1", *detail), data)
        seq = await bus.journal.append(fact)
        assert (await last_of(bus, str(fact.subject))).seq == seq
