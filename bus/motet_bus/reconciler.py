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

from motet_bus.bus import Bus
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.delivery import Delivery
from motet_bus.emit import emit
from motet_bus.fences import conversation_fence
from motet_schemas import ConflictError, Conversation, Event, Fact, Handled, TimerSet, TransientError, decode_output
from motet_schemas.envelope import Unreadable
from motet_schemas.subjects import handled

log = structlog.get_logger(__name__)

_ROUNDS: Final = 50
_ENDS: Final = frozenset({"task.completed", "task.failed", "task.cancelled"})
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Decision:
    """What is missing. `final` says that nothing more would be decided once these facts are recorded."""

    facts: tuple[Fact, ...] = ()
    final: bool = True


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

    async def handle(self, event: Event, delivery: Delivery) -> None:
        """Decide until nothing is missing. Raises `TransientError` when others keep getting in first."""
        conversation = event.subject.conversation
        turn = self._turns.get(conversation) or asyncio.Lock()
        self._turns[conversation] = turn  # kept for as long as somebody holds it or waits for it
        async with turn:
            if self._settled.get(conversation, 0) < event.seq:
                await self._reconcile(conversation, event)

    async def _reconcile(self, conversation: str, event: Event) -> None:
        state = await self._bus.conversations.load(conversation, at_least=event.seq)
        for _ in range(_ROUNDS):
            if not await self._emit_pending(state, event):
                state = await self._again(state, event)
            decision = self._decide(state)
            if not decision.facts:
                self._settle(state)
                return
            try:
                complete = await self._commit(state, decision, event)
            except ConflictError:
                state = await self._again(state, event)
                continue
            if decision.final and complete:
                self._settle(state)
                return
            state = await self._bus.conversations.load(conversation, at_least=event.seq)
        raise TransientError(f"conversation {conversation}: no decision could be recorded in {_ROUNDS} rounds")

    async def _again(self, state: Conversation, event: Event) -> Conversation:
        """Load what came meanwhile; from the start when that is nothing: then messages were removed by hand."""
        newer = await self._bus.conversations.load(state.id, at_least=event.seq)
        if newer.last_seq > state.last_seq:
            return newer
        return await self._bus.conversations.load(state.id, at_least=event.seq, fresh=True)

    async def _commit(self, state: Conversation, decision: Decision, event: Event) -> bool:
        """Record the decision; False when an output's place was taken. Raises `ConflictError` when it is stale."""
        fence = conversation_fence(state.id, state.last_seq)
        journal = self._bus.journal
        if len(decision.facts) == 1 and not isinstance(decision.facts[0].data, TimerSet):  # an alarm comes second
            fact = decision.facts[0]
            await journal.append(fact, fence=fence, cause=event.seq)
            self._crash("after the commit")
            if fact.subject.kind in _ENDS:
                await self._bus.ended.tell(state.id)
            return True
        outputs = tuple(fact.to_output() for fact in decision.facts)
        record = handled(self._consumer, state.id, state.last_seq)
        await journal.append(Fact(record, Handled(outputs=outputs)), fence=fence, cause=event.seq)
        self._crash("between record and emit")
        return await emit(journal, decision.facts, cause=event.seq)

    async def _emit_pending(self, state: Conversation, event: Event) -> bool:
        """Emit what some orchestrator recorded as decided and nobody has emitted; False when a place was taken."""
        facts: list[Fact] = []
        for output, _ in state.pending.values():
            subject, data = decode_output(output)
            if not isinstance(data, Unreadable):
                facts.append(Fact(subject, data, id=output.id))
        if not facts:
            return True
        log.info("reconciler.emitting", conversation=state.id, facts=len(facts))
        return await emit(self._bus.journal, facts, cause=event.seq)

    def _settle(self, state: Conversation) -> None:
        """Remember that everything up to this sequence has been decided on, so that late wake-ups cost nothing."""
        self._settled[state.id] = state.last_seq
        self._settled.move_to_end(state.id)
        while len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)
