"""The journal: facts are appended behind a fence, and read back in order.

A fact is recorded at most once: its identity is its subject, and the fence says what that subject and its rivals must
look like. When the server's answer is lost, the fact is sent again with the same id; a refusal is then compared by id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import structlog
from pydantic_core import PydanticSerializationError

from motet_bus import tracing
from motet_bus.answers import PubAck, StoredMessage
from motet_bus.backoff import backoff_s
from motet_bus.delivery import Delivery
from motet_bus.fences import EXPECTED_FILTER, EXPECTED_SEQUENCE, Fence, natural_fence
from motet_bus.grants import Role, check_grant
from motet_bus.link import Link
from motet_bus.objects import Objects
from motet_schemas import (
    BusUnavailableError,
    ConflictError,
    Event,
    Fact,
    InvalidInputError,
    Namespace,
    NotFoundError,
    Reference,
    Subject,
    TimerFired,
    TimerSet,
    Unreadable,
    decode,
    encode,
)
from motet_schemas.envelope import BODY_REFERENCE, CE_ID, NATS_MSG_ID
from motet_schemas.subjects import alarm_of, attempt_filter, build, conversation_filter

log = structlog.get_logger(__name__)

STREAM: Final = "CONVERSATIONS"
LARGEST_BODY: Final = 256 * 1024
_PATIENCE_S: Final = 60.0
_ANSWER_S: Final = 5.0
_TICK_KEPT: Final = "86400s"
"""How long a tick stays in its own stream: the server copies it to the conversations at once, or when it can."""


class Journal:
    """Appends and reads facts for one writer: a role, and the instance that plays it."""

    def __init__(self, link: Link, namespace: Namespace, objects: Objects, *, role: Role, instance: str) -> None:
        self.link = link
        self.namespace = namespace
        self.objects = objects
        self.role: Role = role
        self.instance = instance
        self.stream = namespace.stream(STREAM)
        self._source = f"/agents/{role}/{instance}"

    async def append(
        self, fact: Fact, *, fence: Fence | None = None, cause: int | None = None, patience_s: float = _PATIENCE_S
    ) -> int:
        """Record `fact` once and return its stream sequence. Safe to call again with the same `Fact`.

        Without `fence` the fact's natural one is used. Raises `ConflictError` when somebody else recorded it or the
        decision is stale, `NotAllowedError` when this role may not say it, `BusUnavailableError` when the bus did not
        answer for `patience_s` seconds.
        """
        check_grant(self.role, fact.subject)
        fence = fence or natural_fence(fact.subject, cause)
        wire, headers, body = await self._message(fact, fence, cause)
        give_up = asyncio.get_running_loop().time() + patience_s
        if isinstance(fact.data, TimerSet):  # before the fact: what is recorded as set does ring
            await self._publish(*self._alarm(fact, fact.data, cause), give_up)
        while True:
            try:
                ack = await self._publish(wire, headers, body, give_up)
            except ConflictError:
                if (known := await self._recorded(wire, fact)) is not None:
                    return known
                behind = await self._behind_strangers(fence)
                if behind is None or asyncio.get_running_loop().time() > give_up:
                    raise
                headers[EXPECTED_SEQUENCE] = str(behind)
            else:
                if not ack.duplicate:
                    return ack.seq
                # Nothing was stored: a message elsewhere bears this id. The fence alone identifies the fact.
                headers.pop(NATS_MSG_ID, None)

    async def _publish(self, wire: str, headers: Mapping[str, str], body: bytes, give_up: float) -> PubAck:
        """Publish until the server answers. Raises `BusUnavailableError` when it has not by `give_up` (loop time)."""
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            try:
                within_s = max(0.1, min(_ANSWER_S, give_up - loop.time()))
                return await self.link.publish_stored(wire, body, headers, timeout_s=within_s)
            except BusUnavailableError as error:
                wait_s = backoff_s(tries, 0.05, 2.0)
                tries += 1
                if loop.time() + wait_s > give_up:
                    raise
                log.warning("journal.retry", subject=wire, tries=tries, error=error.message)
            await asyncio.sleep(wait_s)

    async def _recorded(self, wire: str, fact: Fact) -> int | None:
        """Return the sequence of `fact` when it is the last on its subject, by its id."""
        last = await self.link.read_last_for(self.stream, wire)
        return last.seq if last is not None and last.headers.get(CE_ID) == fact.id else None

    async def _behind_strangers(self, fence: Fence) -> int | None:
        """Return the last sequence on a fence's filter when all behind `fence.last` is on subjects of no event.

        What no reader can see must not keep a fact out. None when a fact of ours is there, or nothing.
        """
        if fence.filter is None:
            return None
        wire = self.namespace.wire(fence.filter)
        behind = await self.link.read_batch(self.stream, wire, start_seq=fence.last + 1)
        strange = behind and not any(self._is_ours(message) for message in behind)
        return behind[-1].seq if strange else None

    def _is_ours(self, message: StoredMessage) -> bool:
        try:
            self.namespace.parse(message.subject)
        except InvalidInputError:
            return False
        return True

    async def _message(self, fact: Fact, fence: Fence, cause: int | None) -> tuple[str, dict[str, str], bytes]:
        subject = fact.subject
        trace = tracing.outgoing(subject.conversation)
        try:
            headers, body = encode(fact, source=self._source, cause=cause, trace=trace)
        except PydanticSerializationError as error:
            raise InvalidInputError(f"{subject}: holds what JSON cannot say: {error}", field=subject.kind) from error
        if len(body) > LARGEST_BODY:
            body = (await self.objects.put(body, "application/json")).to_json()
            headers[BODY_REFERENCE] = "1"
        headers[EXPECTED_SEQUENCE] = str(fence.last)
        if fence.filter is not None:
            headers[EXPECTED_FILTER] = self.namespace.wire(fence.filter)
        headers[NATS_MSG_ID] = fact.id
        return self.namespace.wire(subject), headers, body

    def _alarm(self, fact: Fact, timer: TimerSet, cause: int | None) -> tuple[str, dict[str, str], bytes]:
        """Return the schedule behind a timer: who says it again, replaces it with the same."""
        subject = fact.subject
        waits, rings = map(self.namespace.wire, alarm_of(subject))
        tick = Fact(build("timer.fired", subject.conversation, *subject.detail), TimerFired(at=timer.at, why=timer.why))
        trace = tracing.outgoing(subject.conversation)
        headers, body = encode(tick, source=self._source, cause=cause, trace=trace)
        at = timer.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # No message id: the tick is stored with the schedule's headers and would be taken for its duplicate.
        schedule = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": rings, "Nats-Schedule-TTL": _TICK_KEPT}
        return waits, {**headers, **schedule}, body

    async def read_conversation(self, conversation: str, *, start_seq: int = 1) -> list[Event]:
        """Return the facts of one conversation from `start_seq` on, in the order of the stream."""
        return await self._read(conversation_filter(conversation), start_seq)

    async def read_kind(self, name: str) -> list[Event]:
        """Return all facts that a filter such as `task.>` matches, of all conversations, in the order of the stream."""
        return await self._read(name, 1)

    async def read_attempt(self, subject: Subject) -> list[Event]:
        """Return claim, renewals and outcome of the attempt that `subject` speaks of, in the order of the stream."""
        return await self._read(attempt_filter(subject.conversation, subject.step, subject.number), 1)

    async def read_last(self, subject_or_filter: Subject | str) -> Event | None:
        """Return the last fact on a subject or filter, None when there is none."""
        wire = self.namespace.wire(subject_or_filter)
        stored = await self.link.read_last_for(self.stream, wire)
        return None if stored is None else await self._from_stored(stored)

    async def server_time(self) -> datetime:
        """Return the server's clock, by which stored times are measured."""
        return await self.link.server_time(self.stream)

    async def event_of(self, delivery: Delivery) -> Event:
        """Return the event that was delivered. Raises `InvalidInputError` when its subject is not one of ours."""
        subject = self.namespace.parse(delivery.subject)
        return await self._decode(subject, delivery.headers, delivery.body, delivery.stream_seq, delivery.time)

    async def _read(self, name: str, start_seq: int) -> list[Event]:
        stored = await self.link.read_batch(self.stream, self.namespace.wire(name), start_seq=start_seq)
        return [event for message in stored if (event := await self._from_stored(message)) is not None]

    async def _from_stored(self, message: StoredMessage) -> Event | None:
        try:
            subject = self.namespace.parse(message.subject)
        except InvalidInputError:
            return None
        return await self._decode(subject, message.headers, message.body, message.seq, message.time)

    async def _decode(
        self, subject: Subject, headers: Mapping[str, str], body: bytes, seq: int, time: datetime
    ) -> Event:
        if BODY_REFERENCE in headers:
            try:
                body = await self.objects.get(Reference.model_validate_json(body))
            except (ValueError, InvalidInputError, NotFoundError) as error:
                event = decode(subject, headers, b"{}", seq=seq, time=time)
                reason = f"{subject.kind}: its body in the object store cannot be read: {error}"
                return Event(subject, Unreadable(reason), seq, time, event.id, event.source, event.cause, headers)
        return decode(subject, headers, body, seq=seq, time=time)
