"""One conversation's part of the stream, in memory: fences, stored times and schedules as nats-server has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from motet_bus.fences import Fence, natural_fence
from motet_schemas import ConflictError, Conversation, Event, Fact, Subject, TimerSet, decode, encode, fold
from motet_schemas.subjects import build
from tests.schemas.histories import line_of
from tests.schemas.samples import START

_TICK = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored message: the event, who wrote it, and what the wire carried."""

    event: Event
    by: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Schedule:
    """A message that the server will send."""

    at: datetime
    target: Subject
    body: bytes


class MemoryStream:
    """Appends behind fences, reads in order. Its clock moves a millisecond with every message, and with `advance`."""

    def __init__(self, conversation: str = "c") -> None:
        self.conversation = conversation
        self.now = START
        self.messages: dict[int, Stored] = {}
        self.schedules: dict[str, Schedule] = {}
        self.listeners: list[Callable[[Stored], None]] = []
        self._next_seq = 1
        self._known = Conversation(id=conversation)

    def append(self, fact: Fact, *, by: str, fence: Fence | None = None, cause: int | None = None) -> int:
        """Record a fact and return its sequence. Raises `ConflictError` as the server would."""
        fence = fence or natural_fence(fact.subject, cause)
        if self.last(fence.filter or str(fact.subject)) != fence.last:
            raise ConflictError(f"{fact.subject}: wrong last sequence")
        headers, body = encode(fact, source=f"/agents/{by}/{by}-1", cause=cause, time=self.now)
        seq = self._store(fact.subject, headers, body, by)
        if isinstance(fact.data, TimerSet):
            at = fact.data.at.replace(microsecond=fact.data.at.microsecond // 1000 * 1000)
            target = build("timer.fired", self.conversation, *fact.subject.detail)
            self.schedules[str(fact.subject)] = Schedule(max(at, self.now), target, body)
        return seq

    def write(self, subject: Subject, body: bytes, *, by: str = "outsider") -> int:
        """Write without a fence, as anybody can who may publish."""
        return self._store(subject, {}, body, by)

    def _store(self, subject: Subject, headers: dict[str, str], body: bytes, by: str) -> int:
        self.now += _TICK
        seq = self._next_seq
        self._next_seq += 1
        stored = Stored(decode(subject, headers, body, seq=seq, time=self.now), by, body)
        self.messages[seq] = stored
        for listener in self.listeners:
            listener(stored)
        return seq

    def last(self, name: str) -> int:
        """Return the last sequence on a subject or filter; 0 when there is nothing."""
        tokens = name.split(".")
        for seq in reversed(self.messages):
            if _matches(tokens, str(self.messages[seq].event.subject).split(".")):
                return seq
        return 0

    def read(self, name: str) -> list[Event]:
        """Return the events on a filter, in order."""
        tokens = name.split(".")
        stored = (message.event for message in self.messages.values())
        return [event for event in stored if _matches(tokens, str(event.subject).split("."))]

    def load(self, *, fresh: bool = False) -> Conversation:
        """Return the conversation, from the start or from where it was last read."""
        state = Conversation(id=self.conversation) if fresh else self._known
        for seq, message in self.messages.items():
            if seq > state.last_seq:
                state = fold(state, message.event)
        if not fresh:
            self._known = state
        return state

    def next_due(self) -> datetime | None:
        """Return when the next schedule fires, None without one."""
        return min((schedule.at for schedule in self.schedules.values()), default=None)

    def advance(self, by: timedelta) -> None:
        """Let time pass; schedules fire on the way: the server stores their ticks."""
        until = self.now + by
        while (due := self.next_due()) is not None and due <= until:
            name = min(self.schedules, key=lambda one: self.schedules[one].at)
            schedule = self.schedules.pop(name)
            self.now = max(self.now, schedule.at)
            self._store(schedule.target, {}, schedule.body, "server")
        self.now = max(self.now, until)

    def dump(self) -> str:
        """Return the messages in the format of the recorded histories."""
        return "".join(f"{line_of(message.event, message.body)}\n" for message in self.messages.values())


def _matches(pattern: list[str], subject: list[str]) -> bool:
    for position, part in enumerate(pattern):
        if part == ">":
            return len(subject) > position
        if position >= len(subject) or part not in ("*", subject[position]):
            return False
    return len(pattern) == len(subject)
