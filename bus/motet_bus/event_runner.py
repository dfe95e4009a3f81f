"""Runs the handler of one kind of event, and commits what it decided: one fenced fact, or record, then emit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final

import structlog

from motet_bus import metrics
from motet_bus.bus import Bus
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.delivery import Delivery
from motet_bus.emit import emit
from motet_bus.grants import check_grant
from motet_bus.inputs import fetch_texts
from motet_schemas import (
    ConflictError,
    Conversation,
    Event,
    EventData,
    Fact,
    Handled,
    NewerVersion,
    NewerVersionError,
    PermanentError,
    Reference,
    StepReady,
    Subject,
    Unreadable,
    decode_output,
)
from motet_schemas.subjects import build, handled

log = structlog.get_logger(__name__)


class Context:
    """What a handler of an event may know and do beside the event's data."""

    def __init__(self, bus: Bus, event: Event) -> None:
        self._bus = bus
        self._event = event
        self.facts: list[Fact] = []

    @property
    def subject(self) -> Subject:
        """The event's subject: kind, conversation, step, attempt."""
        return self._event.subject

    @property
    def conversation(self) -> str:
        """The conversation's id."""
        return self._event.subject.conversation

    @property
    def seq(self) -> int:
        """The event's sequence in the stream."""
        return self._event.seq

    @property
    def time(self) -> datetime:
        """When the event was stored, by the server's clock."""
        return self._event.time

    @property
    def source(self) -> str:
        """Who recorded the event: `/agents/<role>/<instance>`."""
        return self._event.source

    @property
    def instance(self) -> str:
        """This agent's own instance."""
        return self._bus.instance

    async def load(self) -> Conversation:
        """Return the conversation as recorded, at least up to this event.

        Raises `NewerVersionError` when it holds what only a newer Motet can read: it must not be judged here.
        """
        state = await self._bus.conversations.load(self.conversation, at_least=self.seq)
        if state.newer:
            raise NewerVersionError(next(iter(state.newer.values())))
        return state

    @property
    def settings(self) -> Mapping[str, str]:
        """What this process was started with, for example where its playbooks are."""
        return self._bus.settings

    async def fetch(self, reference: Reference) -> bytes:
        """Return a body from the object store. Raises `NotFoundError` when it is not there."""
        return await self._bus.objects.get(reference)

    async def fetch_texts(self, references: Mapping[str, Reference]) -> dict[str, str]:
        """Return those of `references` that are text, by name.

        Raises `PermanentError` for more than 64 MiB or what is not UTF-8, `NotFoundError` for what is not there.
        """
        return await fetch_texts(self._bus.objects, references)

    async def handoff(self) -> StepReady | None:
        """Return the handoff of the attempt that this event is about, None when nobody readable handed it out.

        Only for `step.…` and `verify.…` events; costs one read, however long the conversation is. Raises
        `NewerVersionError` when a newer Motet handed it out, in a version that cannot be read here.
        """
        subject = self.subject
        filter_ = f"step.ready.{subject.conversation}.{subject.step}.{subject.number}.*"
        offers = [offer.data for offer in await self._bus.journal.read_kind(filter_)]
        for offer in offers:
            if isinstance(offer, NewerVersion):
                raise NewerVersionError(offer.reason)
        return next((offer for offer in offers if isinstance(offer, StepReady)), None)

    def emit(self, kind: str, *detail: str | int, data: EventData, conversation: str | None = None) -> None:
        """Have a fact recorded when the handler returns; nothing is recorded when it raises.

        Raises `NotAllowedError` at once for what this agent's role may not say.
        """
        subject = build(kind, conversation or self.conversation, *detail)
        check_grant(self._bus.role, subject)
        self.facts.append(Fact(subject, data))


_ANSWERS: Final = frozenset({"plan.created", "plan.rejected", "verify.passed", "verify.failed"})

EventHandler = Callable[[EventData, Context], Awaitable[None]]


class EventRunner:
    """Handles one consumer's events. The handler may run twice; what it records happens once."""

    def __init__(self, bus: Bus, consumer: str, handler: EventHandler, *, crash: CrashPoint = no_crash) -> None:
        self._bus = bus
        self._consumer = consumer
        self._handler = handler
        self._crash = crash

    async def handle(self, event: Event, delivery: Delivery) -> None:
        """Run the handler, then commit. On a redelivery what was committed is emitted, and nothing runs again."""
        record = handled(self._consumer, event.subject.conversation, event.seq)
        if not delivery.fresh and await self._emit_recorded(record, event):
            return
        context = Context(self._bus, event)
        await self._handler(event.data, context)  # type: ignore[arg-type] # unreadable data never gets here
        self._crash("after the handler")
        if len(context.facts) == 1 and _answers(context.facts[0].subject, event.subject):
            await self._commit_one(context.facts[0], event)
            return
        outputs = tuple(fact.to_output() for fact in context.facts)
        try:
            await self._bus.journal.append(Fact(record, Handled(outputs=outputs)), cause=event.seq)
        except ConflictError as refusal:
            if not await self._emit_recorded(record, event, at_least=refusal.last_sequence or 0):
                reason = f"{record}: what stands there is no record of a run, so nothing was emitted"
                raise PermanentError(reason) from None
            return
        for fact in context.facts:
            metrics.recorded(fact)
        self._crash("between record and emit")
        await emit(self._bus.journal, context.facts, cause=event.seq)

    async def _commit_one(self, fact: Fact, event: Event) -> None:
        try:
            await self._bus.journal.append(fact, cause=event.seq)
        except ConflictError as error:
            log.debug("commit.refused", subject=str(fact.subject), reason=error.message)
        else:
            metrics.recorded(fact)

    async def _emit_recorded(self, record: Subject, event: Event, *, at_least: int = 0) -> bool:
        """Emit what an earlier run recorded; False when there is no such record."""
        found = await self._bus.journal.read_kind(str(record), at_least=at_least)
        recorded = found[-1].data if found else None
        if isinstance(recorded, NewerVersion):
            raise NewerVersionError(recorded.reason)
        if not isinstance(recorded, Handled):
            return False
        facts: list[Fact] = []
        for output in recorded.outputs:
            subject, data = decode_output(output)
            if isinstance(data, NewerVersion):
                raise NewerVersionError(data.reason)
            if isinstance(data, Unreadable):
                raise PermanentError(f"{record}: lists what cannot be emitted: {data.reason}")
            facts.append(Fact(subject, data, id=output.id))
        await emit(self._bus.journal, facts, cause=event.seq)
        return True


def _answers(subject: Subject, cause: Subject) -> bool:
    """Say whether the cause alone fixes where a fact goes, so that its own fence holds off a second run's."""
    return subject.kind in _ANSWERS and (subject.conversation, subject.detail) == (cause.conversation, cause.detail)
