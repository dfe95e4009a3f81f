"""The journal: facts are appended behind a fence, and read back in order.

A fact is recorded at most once: its identity is its subject, and the fence says what that subject and its rivals must
look like. When the server's answer is lost, the fact is sent again with the same id; a refusal is then compared by id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final, TypeVar

import structlog
from pydantic_core import PydanticSerializationError

from motet_bus import metrics, tracing
from motet_bus.answers import StoredMessage, UndecidedError
from motet_bus.backoff import backoff_s
from motet_bus.crashpoints import CrashPoint, no_crash, unread
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

Answer = TypeVar("Answer")

STREAM: Final = "CONVERSATIONS"
LARGEST_BODY: Final = 256 * 1024
_PATIENCE_S: Final = 60.0
_ANSWER_S: Final = 5.0
_WAITS_S: Final = (0.05, 2.0)
_UNDECIDED_WAITS_S: Final = (0.005, 0.1)
_READS: Final = 8
_STRANGERS: Final = 100
_TICK_KEPT: Final = "86400s"
"""How long a tick stays in its own stream: the server copies it to the conversations at once, or when it can."""


class Journal:
    """Appends and reads facts for one writer: a role, and the instance that plays it."""

    def __init__(
        self,
        link: Link,
        namespace: Namespace,
        objects: Objects,
        *,
        role: Role,
        instance: str,
        every_hop: bool = False,
        crash: CrashPoint = no_crash,
    ) -> None:
        """With `every_hop` each fact has a PRODUCER span; without it those that come in by a door."""
        self.link = link
        self.namespace = namespace
        self.objects = objects
        self.role: Role = role
        self.instance = instance
        self.stream = namespace.stream(STREAM)
        self._source = f"/agents/{role}/{instance}"
        self._every_hop = every_hop
        self._crash = crash

    @metrics.counted
    async def append(
        self, fact: Fact, *, fence: Fence | None = None, cause: int | None = None, patience_s: float = _PATIENCE_S
    ) -> int:
        """Record `fact` once and return its stream sequence. Safe to call again with the same `Fact`.

        Without `fence` the fact's natural one is used. Raises `ConflictError` when somebody else recorded it or the
        decision is stale, `NotAllowedError` when this role may not say it, `BusUnavailableError` when the bus did not
        answer for `patience_s` seconds.
        """
        check_grant(self.role, fact.subject)
        with tracing.publishing(fact.subject, every_hop=self._every_hop) as trace:
            return await self._append(fact, fence or natural_fence(fact.subject, cause), cause, patience_s, trace)

    async def _append(
        self, fact: Fact, fence: Fence, cause: int | None, patience_s: float, trace: Mapping[str, str]
    ) -> int:
        wire, headers, body = await self._message(fact, fence, cause, trace)
        give_up = asyncio.get_running_loop().time() + patience_s
        if isinstance(fact.data, TimerSet):  # before the fact: what is recorded as set does ring
            waits, schedule, tick = self._alarm(fact, fact.data, cause, trace)
            await self._patiently(
                lambda s: self.link.publish_stored(waits, tick, schedule, timeout_s=s), waits, give_up
            )
        return await self._patiently(lambda s: self._record(fact, fence, (wire, headers, body), s), wire, give_up)

    async def _patiently(self, ask: Callable[[float], Awaitable[Answer]], wire: str, give_up: float) -> Answer:
        """Call `ask` with the seconds that it may take until it is answered.

        Raises `BusUnavailableError` when that has not come to pass by `give_up` (loop time).
        """
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            try:
                return await ask(max(0.1, min(_ANSWER_S, give_up - loop.time())))
            except BusUnavailableError as error:
                undecided = isinstance(error, UndecidedError)
                wait_s = backoff_s(tries, *(_UNDECIDED_WAITS_S if undecided else _WAITS_S))
                tries += 1
                if loop.time() + wait_s > give_up:
                    raise
                (log.debug if undecided else log.warning)(
                    "journal.retry", subject=wire, tries=tries, error=error.message
                )
            await asyncio.sleep(wait_s)

    async def _record(
        self, fact: Fact, fence: Fence, message: tuple[str, dict[str, str], bytes], within_s: float
    ) -> int:
        """Publish, and settle what a refusal means. Raises `BusUnavailableError` when all of it can be tried again."""
        wire, headers, body = message
        for _ in range(_STRANGERS):
            try:
                ack = await self.link.publish_stored(wire, body, headers, timeout_s=within_s)
            except ConflictError as refusal:
                behind = await self._behind(wire, fence, refusal)
                ours = [stored for stored in behind if self._is_ours(stored)]
                if (known := _own(fact, wire, ours)) is not None:
                    return known
                if ours or fence.filter is None or not behind:
                    last = ours[-1].seq if ours else refusal.last_sequence
                    raise ConflictError(refusal.message, last_sequence=last) from None
                # What no reader can see must not keep a fact out.
                headers[EXPECTED_SEQUENCE] = str(behind[-1].seq)
            else:
                self._crash(unread(fact.subject.kind))
                if not ack.duplicate:
                    return ack.seq
                # Nothing was stored: a message elsewhere bears this id. The fence alone identifies the fact.
                headers.pop(NATS_MSG_ID, None)
        raise UndecidedError(f"{wire}: strangers keep writing behind its fence; try again")

    async def _behind(self, wire: str, fence: Fence, refusal: ConflictError) -> list[StoredMessage]:
        """Return what stands behind a fence that was refused, at least up to what the server refused it for."""
        name = wire if fence.filter is None else self.namespace.wire(fence.filter)
        if refusal.last_sequence is not None and refusal.last_sequence < fence.last:
            expected = await self._stored(name, fence.last, 0)
            if expected and expected[0].seq == fence.last:
                raise UndecidedError(f"{wire}: the server that refused it is behind the others; try again")
        return await self._stored(name, fence.last + 1, refusal.last_sequence or 0)

    async def _stored(self, wire: str, start_seq: int, at_least: int) -> list[StoredMessage]:
        """Read until the answer goes as far as `at_least`: any replica may answer, also one that is behind."""
        for read in range(_READS):
            stored = await self.link.read_batch(self.stream, wire, start_seq=start_seq)
            if at_least < start_seq or (stored and stored[-1].seq >= at_least):
                return stored
            await asyncio.sleep(0.01 * 2**read)
        raise BusUnavailableError(
            f"{wire}: the server that answers does not show sequence {at_least} yet: it is behind the others; try again"
        )

    def _is_ours(self, message: StoredMessage) -> bool:
        try:
            self.namespace.parse(message.subject)
        except InvalidInputError:
            return False
        return True

    async def _message(
        self, fact: Fact, fence: Fence, cause: int | None, trace: Mapping[str, str]
    ) -> tuple[str, dict[str, str], bytes]:
        subject = fact.subject
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

    def _alarm(
        self, fact: Fact, timer: TimerSet, cause: int | None, trace: Mapping[str, str]
    ) -> tuple[str, dict[str, str], bytes]:
        """Return the schedule behind a timer: who says it again, replaces it with the same."""
        subject = fact.subject
        waits, rings = map(self.namespace.wire, alarm_of(subject))
        tick = Fact(build("timer.fired", subject.conversation, *subject.detail), TimerFired(at=timer.at, why=timer.why))
        headers, body = encode(tick, source=self._source, cause=cause, trace=trace)
        at = timer.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # No message id: the tick is stored with the schedule's headers and would be taken for its duplicate.
        schedule = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": rings, "Nats-Schedule-TTL": _TICK_KEPT}
        return waits, {**headers, **schedule}, body

    async def read_conversation(self, conversation: str, *, start_seq: int = 1, at_least: int = 0) -> list[Event]:
        """Return the facts of one conversation from `start_seq` on, in the order of the stream; see `read_kind`."""
        return await self._read(conversation_filter(conversation), start_seq, at_least)

    async def read_kind(self, name: str, *, at_least: int = 0) -> list[Event]:
        """Return all facts that a filter such as `task.>` matches, of all conversations, in the order of the stream.

        With `at_least` the answer goes at least as far as that sequence, which is known to be on the filter. Raises
        `BusUnavailableError` when the replica that answers stays behind it.
        """
        return await self._read(name, 1, at_least)

    async def read_attempt(self, subject: Subject, *, at_least: int = 0) -> list[Event]:
        """Return claim, renewals and outcome of the attempt that `subject` speaks of; see `read_kind`."""
        return await self._read(attempt_filter(subject.conversation, subject.step, subject.number), 1, at_least)

    async def read_last(self, subject_or_filter: Subject | str) -> Event | None:
        """Return the last fact on a subject or filter, None when there is none."""
        wire = self.namespace.wire(subject_or_filter)
        stored = await self.link.read_last_for(self.stream, wire)
        return None if stored is None else await self.event_from(stored)

    async def server_time(self) -> datetime:
        """Return the server's clock, by which stored times are measured."""
        return await self.link.server_time(self.stream)

    async def event_of(self, delivery: Delivery) -> Event:
        """Return the event that was delivered. Raises `InvalidInputError` when its subject is not one of ours."""
        subject = self.namespace.parse(delivery.subject)
        return await self._decode(subject, delivery.headers, delivery.body, delivery.stream_seq, delivery.time)

    async def _read(self, name: str, start_seq: int, at_least: int = 0) -> list[Event]:
        stored = await self._stored(self.namespace.wire(name), start_seq, at_least)
        return [event for message in stored if (event := await self.event_from(message)) is not None]

    async def event_from(self, message: StoredMessage) -> Event | None:
        """Return the event that a stored message is, None when its subject is not one of ours."""
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


def _own(fact: Fact, wire: str, stored: list[StoredMessage]) -> int | None:
    """Return the sequence of `fact` when an earlier try of it, whose answer was lost, was stored after all."""
    return next((one.seq for one in stored if one.subject == wire and one.headers.get(CE_ID) == fact.id), None)
