"""Claims against a real server: one owner for each attempt, by the server's clock, whatever outsiders write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from motet_bus import Agent, Bus, Outcome, Step
from motet_bus.claims import ClaimLostError, HeldClaim, yield_to_owner
from motet_bus.consumer import HandBackError
from motet_bus.fences import attempt_fence
from motet_bus.link import Link
from motet_schemas import (
    ConflictError,
    Event,
    Fact,
    Namespace,
    StepClaimed,
    StepExecuted,
    StepExpired,
    StepRenewed,
)
from motet_schemas.subjects import build
from tests.bus.support import (
    bus_as,
    eventually,
    executed,
    kinds,
    offer,
    outsider_writes,
    running,
)


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


@pytest.fixture
async def worker(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "executor", "worker") as bus:
        yield bus


@pytest.fixture
async def rival(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "executor", "rival") as bus:
        yield bus


@pytest.fixture
async def ready(orchestrator: Bus) -> Event:
    return await offer(orchestrator, "c1")


def record(notes: str = "done") -> StepExecuted:
    return StepExecuted(status="passed", confidence=1.0, notes=notes, elapsed_ms=1, executor="me", idempotency_key="k")


async def expired(bus: Bus, conversation: str = "c1", attempt: int = 1) -> StepExpired | None:
    event = await bus.journal.read_last(f"step.expired.{conversation}.s1.{attempt}")
    return None if event is None or not isinstance(event.data, StepExpired) else event.data


async def hand_over_dead_claim(ready: Event, rival: Bus) -> None:
    """Have `rival` come for a claimed attempt until it finds the claim dead and says so."""

    async def tried() -> bool:
        try:
            await yield_to_owner(rival.journal, ready)
        except HandBackError:
            return False
        return True

    await eventually(tried)


# One owner


async def test_of_many_claimants_one_owns_the_attempt(worker: Bus, rival: Bus, ready: Event) -> None:
    takers = [HeldClaim.take(bus.journal, ready) for bus in (worker, rival) for _ in range(20)]
    results = await asyncio.gather(*takers, return_exceptions=True)
    assert [type(one) for one in results].count(HeldClaim) == 1
    assert [type(one) for one in results].count(ConflictError) == 39
    assert (await kinds(worker, "c1")).count("step.claimed") == 1


async def test_a_claim_says_who_for_how_long_and_which_attempt(worker: Bus, ready: Event) -> None:
    await HeldClaim.take(worker.journal, ready, ttl_s=7.5)
    event = await worker.journal.read_last("step.claimed.c1.s1.1")
    assert event is not None
    assert isinstance(event.data, StepClaimed)
    assert (event.data.owner, event.data.ttl_s, event.data.attempt) == (worker.instance, 7.5, 1)
    assert event.id == event.data.nonce
    assert event.cause == ready.seq


async def test_a_live_claim_is_handed_back_until_it_could_be_dead(worker: Bus, rival: Bus, ready: Event) -> None:
    await HeldClaim.take(worker.journal, ready, ttl_s=20)
    with pytest.raises(HandBackError) as later:
        await yield_to_owner(rival.journal, ready)
    assert 15 < later.value.delay_s < 25
    assert await expired(rival) is None


async def test_a_dead_claim_is_expired_by_the_next_claimant(worker: Bus, rival: Bus, ready: Event) -> None:
    await HeldClaim.take(worker.journal, ready, ttl_s=0.3)
    await hand_over_dead_claim(ready, rival)
    lost = await expired(rival)
    assert lost is not None
    assert lost.owner == worker.instance
    assert "ttl" in lost.reason
    assert await kinds(rival, "c1") == ["step.ready", "step.claimed", "step.expired"]


async def test_whether_a_claim_lives_is_told_by_the_servers_clock(
    worker: Bus, rival: Bus, ready: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fast:
        """A worker's clock that is a year ahead."""

        @staticmethod
        def now(tz: object = None) -> object:
            from datetime import UTC, datetime

            return datetime.now(UTC) + timedelta(days=365)

    await HeldClaim.take(worker.journal, ready, ttl_s=20)
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    monkeypatch.setattr("motet_schemas.envelope.datetime", Fast)
    with pytest.raises(HandBackError):
        await yield_to_owner(rival.journal, ready)


async def test_of_many_who_find_a_dead_claim_one_says_so(worker: Bus, rival: Bus, ready: Event) -> None:
    await HeldClaim.take(worker.journal, ready, ttl_s=0.1)
    await asyncio.sleep(0.2)
    await asyncio.gather(*(yield_to_owner(rival.journal, ready) for _ in range(10)), return_exceptions=True)
    assert (await kinds(rival, "c1")).count("step.expired") == 1


async def test_nothing_is_left_to_do_when_the_attempt_was_done(worker: Bus, rival: Bus, ready: Event) -> None:
    claim = await HeldClaim.take(worker.journal, ready)
    await claim.record(record())
    await yield_to_owner(rival.journal, ready)
    assert await kinds(rival, "c1") == ["step.ready", "step.claimed", "step.executed"]


# Staying alive


async def test_a_renewed_claim_cannot_be_expired(worker: Bus, rival: Bus, ready: Event) -> None:
    claim = await HeldClaim.take(worker.journal, ready, ttl_s=0.8)
    keeping = asyncio.create_task(claim.keep())

    async def renewed_often() -> bool:
        return (await kinds(worker, "c1")).count("step.renewed") >= 3

    await eventually(renewed_often)
    with pytest.raises(HandBackError):
        await yield_to_owner(rival.journal, ready)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await claim.record(record())
    assert await executed(worker, "c1") is not None


async def test_a_renewal_wins_over_an_expiry_that_was_decided_before_it(worker: Bus, rival: Bus, ready: Event) -> None:
    claim = await HeldClaim.take(worker.journal, ready, ttl_s=0.4)
    seen = await worker.journal.read_last("step.claimed.c1.s1.1")
    assert seen is not None
    keeping = asyncio.create_task(claim.keep())
    await eventually(lambda: worker.journal.read_last("step.renewed.c1.s1.1"))
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    subject = build("step.expired", "c1", "s1", 1)
    with pytest.raises(ConflictError):
        await rival.journal.append(Fact(subject, StepExpired(reason="late")), fence=attempt_fence(subject, seen.seq))


# Zombies


async def test_zombie_cannot_record_after_its_claim_was_taken(worker: Bus, rival: Bus, ready: Event) -> None:
    claim = await HeldClaim.take(worker.journal, ready, ttl_s=0.2)
    await hand_over_dead_claim(ready, rival)
    with pytest.raises(ClaimLostError):
        await claim.record(record("from the grave"))
    assert await executed(worker, "c1") is None


async def test_zombie_cannot_renew_or_release_after_its_claim_was_taken(worker: Bus, rival: Bus, ready: Event) -> None:
    claim = await HeldClaim.take(worker.journal, ready, ttl_s=0.2)
    await hand_over_dead_claim(ready, rival)
    await asyncio.wait_for(claim.keep(), 5)  # ends, because the claim was lost
    with pytest.raises(ClaimLostError):
        await claim.release("too late")
    assert await kinds(worker, "c1") == ["step.ready", "step.claimed", "step.expired"]


# Outsiders


@pytest.mark.parametrize("verb", ["renewed", "nonsense"])
async def test_rubbish_before_the_claim_does_not_keep_a_worker_out(
    nats_url: str, orchestrator: Bus, link: Link, namespace: Namespace, verb: str
) -> None:
    agent = Agent("worker", role="executor")

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0)

    await outsider_writes(link, namespace, f"step.{verb}.c1.s1.1")
    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        await eventually(lambda: executed(orchestrator, "c1"))


async def test_a_forged_renewal_before_the_claim_does_not_keep_a_worker_out(
    nats_url: str, orchestrator: Bus, link: Link, namespace: Namespace
) -> None:
    agent = Agent("worker", role="executor")

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0)

    forged = StepRenewed(owner="nobody", nonce="12345678", ttl_s=3_600, attempt=1)
    await outsider_writes(link, namespace, "step.renewed.c1.s1.1", forged.to_json())
    await offer(orchestrator, "c1")
    async with running(agent, nats_url, namespace):
        await eventually(lambda: executed(orchestrator, "c1"))


@pytest.mark.parametrize("verb", ["renewed", "claimed", "nonsense"])
async def test_rubbish_behind_the_claim_does_not_take_it_away(
    worker: Bus, ready: Event, link: Link, namespace: Namespace, verb: str
) -> None:
    claim = await HeldClaim.take(worker.journal, ready, ttl_s=0.6)
    keeping = asyncio.create_task(claim.keep())
    await outsider_writes(link, namespace, f"step.{verb}.c1.s1.1")

    async def renewed() -> bool:
        events = await worker.journal.read_conversation("c1")
        return any(event.kind == "step.renewed" and event.source for event in events)

    await eventually(renewed)
    await outsider_writes(link, namespace, f"step.{verb}.c1.s1.1")
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await claim.record(record())
    assert await executed(worker, "c1") is not None


async def test_a_later_attempt_is_kept_and_recorded_behind_rubbish_like_the_first(
    orchestrator: Bus, worker: Bus, ready: Event, link: Link, namespace: Namespace
) -> None:
    second = await offer(orchestrator, "c1", attempt=2)
    claim = await HeldClaim.take(worker.journal, second)
    await outsider_writes(link, namespace, "step.renewed.c1.s1.2")
    await claim.record(record())
    assert await executed(worker, "c1", attempt=2) is not None


@pytest.mark.parametrize("verb", ["renewed", "claimed", "nonsense"])
async def test_rubbish_behind_a_dead_claim_does_not_keep_it_alive(
    worker: Bus, rival: Bus, ready: Event, link: Link, namespace: Namespace, verb: str
) -> None:
    await HeldClaim.take(worker.journal, ready, ttl_s=0.2)
    await outsider_writes(link, namespace, f"step.{verb}.c1.s1.1")
    await hand_over_dead_claim(ready, rival)
    assert await expired(rival) is not None


async def test_a_rubbish_claim_is_dead_at_once(rival: Bus, ready: Event, link: Link, namespace: Namespace) -> None:
    await outsider_writes(link, namespace, "step.claimed.c1.s1.1")
    await hand_over_dead_claim(ready, rival)
    assert await expired(rival) is not None


async def test_a_rubbish_outcome_ends_the_attempt_and_blocks_nothing(
    rival: Bus, ready: Event, link: Link, namespace: Namespace
) -> None:
    await outsider_writes(link, namespace, "step.executed.c1.s1.1")
    await yield_to_owner(rival.journal, ready)
    attempt = (await rival.conversations.load("c1")).attempt("s1", 1)
    assert attempt is not None
    assert attempt.ended
