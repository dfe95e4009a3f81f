"""Dead letters as they are kept: which there are, what each holds, and what was done with it."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

import structlog
from pydantic import ValidationError

from motet_bus import direct
from motet_bus.answers import StoredMessage
from motet_bus.bus import Bus
from motet_bus.topology import DEAD_LETTERS
from motet_schemas import (
    DeadLetter,
    Event,
    InvalidInputError,
    LetterDiscarded,
    LetterRetried,
    NotFoundError,
    Reference,
    Subject,
)
from motet_schemas.envelope import BODY_REFERENCE
from motet_schemas.subjects import letter_filter, parse

log = structlog.get_logger(__name__)

LetterStatus = Literal["dead", "retried", "discarded"]

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}-[0-9]{1,19}")
_PAGE_S: Final = 30.0
_NEAREST: Final = 3
_COMPARED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLetter:
    """One dead letter, and what was done with it. `id` is `<consumer>-<sequence>`.

    `conversation` is None for a message whose subject names none; `died_at` is when the letter was stored.
    """

    id: str
    conversation: str | None
    letter: DeadLetter
    died_at: datetime
    status: LetterStatus = "dead"
    by: str = ""
    reason: str = ""
    acted_at: datetime | None = None

    @property
    def agent(self) -> str:
        """The name of the agent that gave up; its instances are called after it."""
        return self.letter.agent or self.letter.instance.rpartition("-")[0]

    @property
    def first_failed_at(self) -> datetime:
        """When the message failed for the first time; for letters that do not say so, when it was given up."""
        return self.letter.first_failed_at or self.died_at

    @property
    def message(self) -> int:
        """The message's sequence in the stream of conversations."""
        return self.letter.message or self.letter.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which letters are meant; what is None does not matter. `since` and `until` are about when they died."""

    conversation: str | None = None
    consumer: str | None = None
    code: str | None = None
    agent: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    statuses: frozenset[LetterStatus] = field(default_factory=lambda: frozenset({"dead"}))

    def accepts(self, kept: KeptLetter) -> bool:
        """Say whether a letter is meant."""
        return (
            kept.status in self.statuses
            and self.conversation in (None, kept.conversation)
            and self.consumer in (None, kept.letter.consumer)
            and self.code in (None, kept.letter.failure.code)
            and self.agent in (None, kept.agent, kept.letter.instance)
            and (self.since is None or kept.died_at >= self.since)
            and (self.until is None or kept.died_at < self.until)
        )


class DeadLetters:
    """The dead letters of one bus, for reading."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._stream = bus.namespace.stream(DEAD_LETTERS)

    async def find_all(self, wanted: LetterFilter) -> AsyncGenerator[KeptLetter]:
        """Yield the letters that are meant, oldest first, without their bodies, which may be large."""
        acts = await self._acts()
        async for stored in self._stored(wanted.consumer):
            kept = self._read(stored, acts)
            if kept is not None and wanted.accepts(kept):
                yield replace(kept, letter=kept.letter.evolve(body="", reference=None))

    async def find(self, letter_id: str) -> KeptLetter:
        """Return one letter whole. Raises `NotFoundError`, with the nearest ids, when there is none of that id."""
        consumer, _, sequence = letter_id.rpartition("-")
        stored = None
        if _ID.fullmatch(letter_id):
            name = self._bus.namespace.wire(f"dead.{consumer}.*.{sequence}")
            stored = await self._bus.link.read_last_for(self._stream, name)
        kept = None if stored is None else self._read(stored, {})
        if kept is None:
            raise NotFoundError(f"no dead letter {letter_id!r}{await self._nearest(letter_id)}")
        return _with_act(kept, await self._acts(consumer, sequence))

    async def payload(self, kept: KeptLetter) -> bytes:
        """Return the message's body, fetched from the object store where it lies there.

        Raises `NotFoundError` when it is not there any more, `InvalidInputError` when its reference does not parse.
        """
        letter = kept.letter
        body = await self._fetch(letter.reference) if letter.reference else base64.b64decode(letter.body)
        if BODY_REFERENCE not in letter.headers:
            return body
        try:
            return await self._fetch(Reference.model_validate_json(body))
        except ValidationError as error:
            raise InvalidInputError("payload: is said to be a reference, and is none", field="payload") from error

    async def _fetch(self, reference: Reference) -> bytes:
        return await self._bus.objects.get(reference)

    async def _nearest(self, letter_id: str) -> str:
        every = LetterFilter(statuses=frozenset({"dead", "retried", "discarded"}))
        known: list[str] = []
        async for kept in self.find_all(every):
            known.append(kept.id)
            if len(known) >= _COMPARED:
                break
        near = difflib.get_close_matches(letter_id, known, n=_NEAREST, cutoff=0.4)
        return f"; did you mean {', '.join(near)}?" if near else "; `motet dead list --all` shows what there is"

    async def _stored(self, consumer: str | None) -> AsyncGenerator[StoredMessage]:
        if consumer is not None:
            letter_filter(consumer)  # refuses what cannot be a consumer's name
        name, start = self._bus.namespace.wire(f"dead.{consumer or '*'}.*.*"), 1
        while page := await direct.read_page(self._bus.link, self._stream, name, start_seq=start, timeout_s=_PAGE_S):
            for stored in page:
                yield stored
            start = page[-1].seq + 1

    def _read(self, stored: StoredMessage, acts: dict[str, Event]) -> KeptLetter | None:
        """Return the letter; None for what somebody else put among them."""
        consumer, _, sequence = self._bus.namespace.strip(stored.subject).split(".")[1:]
        try:
            letter = DeadLetter.model_validate_json(stored.body, extra="ignore")
        except ValidationError as error:
            log.warning("letter.unreadable", subject=stored.subject, problems=error.error_count())
            return None
        try:
            conversation = self._subject_of(letter).conversation
        except InvalidInputError:
            conversation = None
        name = f"{consumer}-{sequence}"
        kept = KeptLetter(id=name, conversation=conversation, letter=letter, died_at=stored.time)
        return _with_act(kept, acts)

    def _subject_of(self, letter: DeadLetter) -> Subject:
        """Return the message's subject. One that was not ours when it died may be today: then it has its namespace."""
        try:
            return parse(letter.subject)
        except InvalidInputError:
            return self._bus.namespace.parse(letter.subject)

    async def _acts(self, consumer: str = "*", sequence: str = "*") -> dict[str, Event]:
        """Return the first act on each letter, by the letter's id."""
        names = [f"letter.{verb}.*.{consumer}.{sequence}" for verb in ("retried", "discarded")]
        events = [event for name in names for event in await self._bus.journal.read_kind(name)]
        acts: dict[str, Event] = {}
        for event in sorted(events, key=lambda one: one.seq):
            if isinstance(event.data, LetterRetried | LetterDiscarded):
                acts.setdefault(event.subject.letter, event)
        return acts


def _with_act(kept: KeptLetter, acts: dict[str, Event]) -> KeptLetter:
    event = acts.get(kept.id)
    if event is None or not isinstance(event.data, LetterRetried | LetterDiscarded):
        return kept
    status: LetterStatus = "retried" if isinstance(event.data, LetterRetried) else "discarded"
    return replace(kept, status=status, by=event.data.by, reason=event.data.reason, acted_at=event.time)
