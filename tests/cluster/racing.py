"""Decisions of an orchestrator that race with facts of others, on a replicated stream."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from motet_bus import Bus, Decision
from motet_bus.delivery import Delivery
from motet_bus.reconciler import Reconciler
from motet_schemas import Conversation, Event, Fact, PlanRequested, TaskCancel, TaskSubmitted
from motet_schemas.subjects import build

REQUESTS: Final = 4
CANCELS: Final = 6


def say_what_was_seen(state: Conversation) -> Decision:
    """Ask for plans one after the other; each request names the sequence that it was decided on."""
    number = len(state.revisions) + 1
    fact = Fact(build("plan.requested", state.id, number), PlanRequested(reason=str(state.last_seq)))
    return Decision((fact,), final=False) if number <= REQUESTS else Decision()


async def race(orchestrator: Bus, clients: list[Bus], conversation: str) -> list[Event]:
    """Let the orchestrator decide on a conversation while clients write to it; return what is recorded."""
    submitted = Fact(build("task.submitted", conversation, "demo"), TaskSubmitted(kind="demo"))
    seq = await clients[0].journal.append(submitted)
    reconciler = Reconciler(orchestrator, say_what_was_seen, consumer="orchestrator")
    [event] = await orchestrator.journal.read_kind(str(submitted.subject), at_least=seq)
    delivery = Delivery(orchestrator.link, str(submitted.subject), {}, b"", f"$JS.ACK.s.orchestrator.1.{seq}.1.1.0")
    await asyncio.gather(reconciler.handle(event, delivery), *(_write(bus, conversation) for bus in clients))
    last = await clients[0].journal.append(Fact(build("task.cancel", conversation, "end"), TaskCancel()))
    return await orchestrator.journal.read_conversation(conversation, at_least=last)


async def _write(bus: Bus, conversation: str) -> None:
    for number in range(CANCELS):
        await bus.journal.append(Fact(build("task.cancel", conversation, f"{bus.instance}-{number}"), TaskCancel()))


def decided_in_order(events: list[Event]) -> tuple[set[str], set[str]]:
    """Return the sequences that decisions were made on: those whose record follows at once, and those overtaken."""
    followed: set[str] = set()
    overtaken: set[str] = set()
    for before, event in itertools.pairwise(events):
        if event.subject.family == "handled":
            seen = event.subject.detail[0]
            (followed if str(before.seq) == seen else overtaken).add(seen)
    return followed, overtaken


def acted_on(events: list[Event]) -> list[str]:
    """Return the sequences that the requests in a conversation were decided on."""
    return [event.data.reason for event in events if isinstance(event.data, PlanRequested)]
