"""Wakes a pure decider on events: load the conversation, ask what is missing, commit the whole decision in one fact.

The fence is the conversation's last sequence. Any number of processes may do this for the same conversation.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

import structlog

from motet_bus import tracing
from motet_bus.bus import Bus
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.decision_metrics import HumanWaits, decided
from motet_bus.delivery import Delivery
from motet_bus.emit import emit
from motet_bus.fences import conversation_fence
from motet_bus.landmarks import Landmarks, joined_steps, link_fan_in
from motet_schemas import (
    ConflictError,
    Conversation,
    EscalateAnswered,
    EscalateTimedOut,
    Event,
    Fact,
    Handled,
    NewerVersionError,
    TimerSet,
    TransientError,
    decode_output,
)
from motet_schemas.envelope import Unreadable
from motet_schemas.subjects import build, handled

log = structlog.get_logger(__name__)

_ROUNDS: Final = 50
_ENDS: Final = frozenset({"task.completed", "task.failed", "task.cancelled"})
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Decision:
    """What is missing. `final` says that nothing more would be decided once these facts are recorded."""

    facts: tuple[Fact, ...] = ()
    final: bool = True
    held: str = ""
    """Why nothing more may be decided here: a newer Motet wrote what this one cannot read."""


Decide = Callable[[Conversation], Decision]
"""Pure: no I/O and no clock; "now" is the stored time of the conversation's newest event."""


class Reconciler:
    """Handles whatever may change a conversation, by deciding anew on all that is recorded."""

    def __init__(self, bus: Bus, decide: Decide, *, consumer: str, crash: CrashPoint = no_crash) -> None:
        self._bus = bus
        self._decide = decide
        self._consumer = consumer
        self._crash = crash
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._settled: OrderedDict[str, int] = OrderedDict()
        self._landmarks = Landmarks()
        self._waits = HumanWaits()

    async def handle(self, event: Event, delivery: Delivery) -> None:
        """Decide until nothing is missing. Raises `TransientError` when others keep getting in first."""
        conversation = event.subject.conversation
        turn = self._turns.get(conversation) or asyncio.Lock()
        self._turns[conversation] = turn  # kept for as long as somebody holds it or waits for it
        if tracing.is_traced():
            await self._tell(event)
        async with turn:
            if self._settled.get(conversation, 0) < event.seq:
                await self._reconcile(conversation, event)
            if event.kind == "escalate.answered":
                state = await self._bus.conversations.load(conversation, at_least=event.seq)
                self._waits.answered(state, event.subject.number)

    async def _tell(self, event: Event) -> None:
        """Emit the landmarks of the trace that an event makes known: before anything that hangs from them."""
        if event.kind == "task.submitted":
            self._landmarks.root(event)
        elif isinstance(event.data, EscalateAnswered):
            await self._tell_wait(event, event.subject.number, event.data.decision)

    async def _tell_wait(self, event: Event, number: int, decision: str) -> None:
        raised = await self._bus.journal.read_last(build("escalate.raised", event.subject.conversation, number))
        if raised is not None:
            self._landmarks.wait(raised, event.time, decision)

    async def _tell_decision(self, state: Conversation, decision: Decision, event: Event) -> None:
        """Link the span to all that a decision rests on, and end the waits that it ends."""
        link_fan_in(self._bus.conversations.verdicts(state.id, joined_steps(state, decision.facts, event)))
        for fact in decision.facts:
            if isinstance(fact.data, EscalateTimedOut):
                await self._tell_wait(event, fact.subject.number, "timed_out")

    async def _reconcile(self, conversation: str, event: Event) -> None:
        state = await self._bus.conversations.load(conversation, at_least=event.seq)
        for _ in range(_ROUNDS):
            if not await self._emit_pending(state, event):
                state = await self._again(state, event)
            decision = self._decide(state)
            if not decision.facts:
                if not decision.held:
                    self._settle(state)
                elif event.kind != "letter.dead":  # a letter wanted no more than that somebody is asked
                    raise NewerVersionError(decision.held)
                return
            self._crash("after the handler")
            try:
                complete = await self._commit(state, decision, event)
            except ConflictError as refusal:
                state = await self._again(state, event, refusal.last_sequence or 0)
                continue
            if tracing.is_traced():
                await self._tell_decision(state, decision, event)
            if decision.final and complete:
                self._settle(state)
                return
            state = await self._bus.conversations.load(conversation, at_least=event.seq)
        raise TransientError(f"conversation {conversation}: no decision could be recorded in {_ROUNDS} rounds")

    async def _again(self, state: Conversation, event: Event, at_least: int = 0) -> Conversation:
        """Load what came meanwhile; from the start when that is nothing: then messages were removed by hand."""
        at_least = max(at_least, event.seq)
        newer = await self._bus.conversations.load(state.id, at_least=at_least)
        if newer.last_seq > state.last_seq:
            return newer
        return await self._bus.conversations.load(state.id, at_least=at_least, fresh=True)

    async def _commit(self, state: Conversation, decision: Decision, event: Event) -> bool:
        """Record the decision; False when an output's place was taken. Raises `ConflictError` when it is stale."""
        fence = conversation_fence(state.id, state.last_seq)
        journal = self._bus.journal
        alone = len(decision.facts) == 1 and not isinstance(decision.facts[0].data, TimerSet)  # an alarm comes second
        if alone and not self._bus.replicated:
            await journal.append(decision.facts[0], fence=fence, cause=event.seq)
            decided(state, decision.facts)
            self._crash("after the commit")
            complete = True
        else:
            outputs = tuple(fact.to_output() for fact in decision.facts)
            record = Fact(handled(self._consumer, state.id, state.last_seq), Handled(outputs=outputs))
            seq = await journal.append(record, fence=fence, cause=event.seq)
            self._crash("between record and emit")
            if self._bus.replicated:
                await self._check_order(state, seq)
            decided(state, decision.facts)
            complete = await emit(journal, decision.facts, cause=event.seq)
        if complete and any(fact.subject.kind in _ENDS for fact in decision.facts):
            await self._bus.ended.tell(state.id)
        return complete

    async def _check_order(self, state: Conversation, seq: int) -> None:
        """Raise `ConflictError` when something was said between what a decision was made on and its record.

        The fence did not see what was still on its way to the replicas; such a record is void (`fold` says the same).
        """
        behind = await self._bus.journal.read_conversation(state.id, start_seq=state.last_seq + 1, at_least=seq)
        if behind[0].seq < seq:
            log.debug("reconciler.overtaken", conversation=state.id, seq=seq, by=str(behind[0].subject))
            raise ConflictError(f"conversation {state.id}: {behind[0].subject} came first", last_sequence=seq)

    async def _emit_pending(self, state: Conversation, event: Event) -> bool:
        """Emit what some orchestrator recorded as decided and nobody has emitted; False when a place was taken."""
        facts: list[Fact] = []
        for output, _ in state.pending.values():
            subject, data = decode_output(output)
            if not isinstance(data, Unreadable):
                facts.append(Fact(subject, data, id=output.id))
        if not facts:
            return True
        log.debug("reconciler.emitting", conversation=state.id, facts=len(facts))
        return await emit(self._bus.journal, facts, cause=event.seq)

    def _settle(self, state: Conversation) -> None:
        """Remember that everything up to this sequence has been decided on, so that late wake-ups cost nothing."""
        self._settled[state.id] = state.last_seq
        self._settled.move_to_end(state.id)
        while len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)
