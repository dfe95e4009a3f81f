"""The reconciler: a pure decision, committed whole behind the conversation's last sequence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from motet_bus import Agent, Bus, Decision, RunOptions
from motet_bus.conversations import Conversations
from motet_bus.delivery import Delivery
from motet_bus.link import Link
from motet_bus.reconciler import Decide, Reconciler
from motet_schemas import (
    BusUnavailableError,
    Conversation,
    Fact,
    Handled,
    Namespace,
    PlanRequested,
    Report,
    StepExpired,
    TaskCancel,
    TaskCancelled,
    TimerSet,
    TotalUsage,
)
from motet_schemas.subjects import build, handled
from tests.bus.support import (
    bus_as,
    dead_letters,
    eventually,
    is_settled,
    kinds,
    last_of,
    outsider_writes,
    running,
    stored_twice,
    submit,
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retries follow one another at once."""
    monkeypatch.setattr("motet_bus.consumer._RETRY_LONGEST_S", 0.05)


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "client") as bus:
        yield bus


def orchestrator(decide: Decide) -> Agent:
    agent = Agent("orchestrator", role="orchestrator")
    agent.reconcile("task.submitted", "task.cancel", "timer.fired", decide=decide)
    return agent


def request(state: Conversation, number: int) -> Fact:
    return Fact(build("plan.requested", state.id, number), PlanRequested(reason=f"seen {state.last_seq}"))


def requests(wanted: int, at_once: int) -> Callable[[Conversation], Decision]:
    """Return a decision that asks for `wanted` plans, `at_once` at a time."""

    def decide(state: Conversation) -> Decision:
        missing = [number for number in range(1, wanted + 1) if number not in state.revisions][:at_once]
        facts = tuple(request(state, number) for number in missing)
        return Decision(facts, final=len(state.revisions) + len(facts) == wanted)

    return decide


@pytest.mark.parametrize("at_once", [1, 2, 5])
async def test_what_is_missing_is_recorded_until_nothing_is(
    nats_url: str, namespace: Namespace, client: Bus, link: Link, at_once: int
) -> None:
    await submit(client, "c1")
    async with running(orchestrator(requests(5, at_once)), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
    found = await kinds(client, "c1")
    assert found.count("plan.requested") == 5
    records = [event.data for event in await client.journal.read_kind("handled.>")]
    assert [len(record.outputs) for record in records if isinstance(record, Handled)] == {1: [], 2: [2, 2], 5: [5]}[
        at_once
    ]


async def test_any_number_of_orchestrators_decide_once(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    names = [f"c{number}" for number in range(25)]
    agents = [orchestrator(requests(4, 2)) for _ in range(3)]
    async with (
        running(agents[0], nats_url, namespace),
        running(agents[1], nats_url, namespace),
        running(agents[2], nats_url, namespace),
    ):
        await asyncio.gather(*(submit(client, name) for name in names))
        cancels = [
            Fact(build("task.cancel", name, f"by{number}"), TaskCancel()) for name in names for number in range(4)
        ]
        await asyncio.gather(*(client.journal.append(fact) for fact in cancels))
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
    for name in names:
        assert (await kinds(client, name)).count("plan.requested") == 4
    assert await stored_twice(link, namespace) == []
    assert await dead_letters(link, namespace) == []


async def test_a_decision_made_on_what_is_no_longer_so_is_made_again(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    """While the orchestrator decides, an outsider's event moves the conversation on."""
    seen: list[int] = []
    let_in = asyncio.Event()

    def decide(state: Conversation) -> Decision:
        seen.append(state.last_seq)
        return Decision(() if state.revisions else (request(state, 1),))

    await submit(client, "c1")
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        from motet_bus.reconciler import Reconciler

        reconciler = Reconciler(bus, decide, consumer="orchestrator")
        load = bus.conversations.load

        async def load_then_somebody_writes(
            conversation: str, *, at_least: int = 0, fresh: bool = False
        ) -> Conversation:
            state = await load(conversation, at_least=at_least, fresh=fresh)
            if not let_in.is_set():
                let_in.set()
                await outsider_writes(link, namespace, "letter.dead.c1.x-1", b"{}")
            return state

        bus.conversations.load = load_then_somebody_writes  # type: ignore[method-assign]
        event = await last_of(client, "task.submitted.c1.*")
        await reconciler.handle(event, None)  # type: ignore[arg-type]
    assert len(seen) == 2
    assert seen[1] > seen[0]
    assert (await last_of(client, "plan.requested.c1.1")).data == PlanRequested(reason=f"seen {seen[1]}")


async def test_what_another_orchestrator_decided_and_did_not_emit_is_emitted(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    submitted = await submit(client, "c1")
    facts = [Fact(build("plan.requested", "c1", number), PlanRequested(reason="left behind")) for number in (1, 2)]
    record = Handled(outputs=tuple(fact.to_output() for fact in facts))
    async with bus_as(nats_url, namespace, "orchestrator", "dead") as dead:
        await dead.journal.append(Fact(handled("orchestrator", "c1", submitted.seq), record), cause=submitted.seq)
    async with running(orchestrator(requests(2, 2)), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
    events = await client.journal.read_kind("plan.requested.>")
    assert [event.id for event in events] == [fact.id for fact in facts]
    assert (await kinds(client, "c1")).count("handled") == 1


async def test_one_fact_that_ends_a_conversation_is_told_to_everybody(
    nats_url: str, namespace: Namespace, client: Bus
) -> None:
    def decide(state: Conversation) -> Decision:
        usage = TotalUsage(tokens=0, cost_usd=0.0, attempts=0, elapsed_ms=0)
        report = TaskCancelled(**dict(Report(verdict="needs_human", summary="over", usage=usage)))
        end = Fact(build("task.cancelled", state.id, "content-qa"), report)
        return Decision(() if state.ending else (end,))

    async with running(orchestrator(decide), nats_url, namespace):
        await submit(client, "c1")

        async def heard() -> bool:
            return "c1" in client.ended

        await eventually(heard)
    assert "c2" not in client.ended


@pytest.mark.usefixtures("impatient")
async def test_a_decider_that_never_comes_to_an_end_is_given_up_and_told(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    def decide(state: Conversation) -> Decision:
        return Decision((request(state, len(state.revisions) + 1),), final=False)

    await submit(client, "c1")
    async with running(orchestrator(decide), nats_url, namespace):
        await eventually(lambda: client.journal.read_last("letter.dead.c1.>"), within_s=30)
    letters = await dead_letters(link, namespace)
    assert letters[0].consumer == "orchestrator"
    assert "rounds" in letters[0].failure.message


@pytest.mark.usefixtures("impatient")
async def test_a_decider_that_breaks_goes_to_the_dead_letters_and_blocks_no_other_conversation(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    def decide(state: Conversation) -> Decision:
        if state.id == "c1":
            raise ZeroDivisionError("a bug")
        return requests(1, 1)(state)

    await submit(client, "c1")
    await submit(client, "c2")
    async with running(orchestrator(decide), nats_url, namespace):
        await eventually(lambda: client.journal.read_last("plan.requested.c2.1"))
        await eventually(lambda: client.journal.read_last("letter.dead.c1.>"), within_s=20)
    [letter] = await dead_letters(link, namespace)
    assert letter.failure.type == "ZeroDivisionError"


async def test_a_timer_alone_is_recorded_before_it_is_set_and_rings_once(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    """Two orchestrators may want different times: only the one whose decision was recorded sets the alarm."""
    ticks: list[str] = []

    def decide(state: Conversation) -> Decision:
        assert state.now is not None
        if not state.alarms:
            at = datetime.now(UTC) + timedelta(seconds=0.3)
            return Decision((Fact(build("timer.set", state.id, "look"), TimerSet(at=at)),))
        if state.alarms["look"].fired and 1 not in state.revisions:
            ticks.append(state.id)
            return Decision((request(state, 1),))
        return Decision()

    await submit(client, "c1")
    async with running(orchestrator(decide), nats_url, namespace):
        await eventually(lambda: client.journal.read_last("plan.requested.c1.1"))
    assert ticks == ["c1"]
    assert await kinds(client, "c1") == ["task.submitted", "handled", "timer.set", "timer.fired", "plan.requested"]


async def test_a_conversation_that_somebody_purged_is_read_again_from_the_start(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    """What the orchestrator knows is ahead of the stream, so that its decision is refused although nothing came."""
    await submit(client, "c1")
    await client.journal.append(Fact(build("task.cancel", "c1", "me"), TaskCancel(requested_by="me")))
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        known = await bus.conversations.load("c1")
        await link.api(f"STREAM.PURGE.{namespace.stream('CONVERSATIONS')}", {"filter": namespace.wire("task.cancel.>")})
        [event] = await bus.journal.read_conversation("c1")
        assert event.seq < known.last_seq
        delivery = Delivery(bus.link, str(event.subject), {}, b"", f"$JS.ACK.stream.orchestrator.1.{event.seq}.1.1.0")
        await Reconciler(bus, requests(1, 1), consumer="orchestrator").handle(event, delivery)
    assert await kinds(client, "c1") == ["task.submitted", "plan.requested"]


@pytest.mark.parametrize("subject", ["task.nonsense.c1.x", "plan.nonsense.c1.1", "handled.orchestrator.c1.1"])
async def test_rubbish_in_the_conversation_does_not_keep_a_decision_out(
    nats_url: str, namespace: Namespace, client: Bus, link: Link, subject: str
) -> None:
    await submit(client, "c1")
    await outsider_writes(link, namespace, subject)
    async with running(orchestrator(requests(3, 2)), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
    assert (await kinds(client, "c1")).count("plan.requested") == 3
    assert await dead_letters(link, namespace) == []


async def test_an_output_in_a_record_that_cannot_be_read_is_passed_over(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    await submit(client, "c1")
    body = (
        b'{"outputs": [{"subject": "plan.requested.c1.1", "id": "12345678", "data": {"reason": 3}},'
        b'{"subject": "no.such.c1.1", "id": "12345678", "data": {}},'
        b'{"subject": "plan.requested.c2.1", "id": "12345678", "data": {}}]}'
    )
    await outsider_writes(link, namespace, "handled.orchestrator.c1.99", body)
    async with running(orchestrator(requests(2, 2)), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
    assert await kinds(client, "c2") == []
    assert await dead_letters(link, namespace) == []


# Loading


async def test_a_conversation_is_loaded_up_to_the_event_that_woke_or_not_at_all(client: Bus) -> None:
    first = await submit(client, "c1")
    assert (await client.conversations.load("c1", at_least=first.seq)).last_seq == first.seq
    with pytest.raises(BusUnavailableError, match="not yet"):
        await client.conversations.load("c1", at_least=first.seq + 1)


async def test_no_more_conversations_are_kept_than_allowed(client: Bus) -> None:
    few = Conversations(client.journal, size=2)
    for name in ("c1", "c2", "c3"):
        await submit(client, name)
        await few.load(name)
    assert list(few._known) == ["c2", "c3"]  # pyright: ignore[reportPrivateUsage]


async def test_the_whole_is_read_again_when_asked_for(client: Bus, nats_url: str, namespace: Namespace) -> None:
    await submit(client, "c1")
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        await bus.journal.append(Fact(build("step.expired", "c1", "s1", 1), StepExpired(reason="x")))
        cached = await bus.conversations.load("c1")
        assert await bus.conversations.load("c1", fresh=True) == cached


def test_run_options_are_for_production_unless_told_otherwise() -> None:
    defaults = RunOptions()
    assert (defaults.claim_ttl_s, defaults.ack_wait_s) == (30.0, 10.0)
    defaults.crash("anywhere")
