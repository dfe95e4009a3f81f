"""Moves what is recorded of ended conversations out of the stream, so that a crash at any point loses nothing.

Each conversation in turn: write the archive and read it back, record where it is, then purge what was read and nothing
else. The `task.…` facts stay, so that nothing archived can come back; doing any of it again changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import structlog

from motet_bus import direct
from motet_bus.answers import StoredMessage
from motet_bus.archive_format import Archived, ArchiveError
from motet_bus.archives import Archives
from motet_bus.bus import Bus
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.fences import conversation_fence
from motet_bus.topology import CONVERSATIONS, DEAD_LETTERS, TIMERS
from motet_schemas import (
    ConflictError,
    Conversation,
    Event,
    Fact,
    InvalidInputError,
    TaskArchived,
    check_token,
    fold_all,
)
from motet_schemas.subjects import ALARM, FAMILIES, TICK, build, conversation_filter

log = structlog.get_logger(__name__)

Done = Literal["archived", "cleared", "would archive"]
"""`cleared`: an earlier run that was stopped had archived it, and now it is purged."""
Stays = Literal["nothing left", "unknown", "running", "too young", "awaited", "unsettled"]
"""`awaited`: a consumer has not had all of its facts; `unsettled`: nobody has retried or discarded its dead letter."""

_KEPT: Final = "task"
_ENDS: Final = ("task.completed.>", "task.failed.>", "task.cancelled.>")
_ROUNDS: Final = 5
_PURGE_S: Final = 60.0
_MOST_FILTERS: Final = 1_024
_SUBJECTS: Final = tuple(family for family in FAMILIES if family != _KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one conversation: messages taken off the stream, and bytes of the archive (compressed)."""

    conversation: str
    status: Done | Stays
    messages: int = 0
    archive_bytes: int = 0


class Archiver:
    """Archives the conversations of one bus as `by`, into `folder` or (None) the object store."""

    def __init__(self, bus: Bus, *, by: str, folder: Path | None = None, crash: CrashPoint = no_crash) -> None:
        self._bus = bus
        self._by = by
        self._folder = folder
        self._crash = crash
        self._archives = Archives(bus.link, bus.namespace, bus.objects)

    async def candidates(self, before: datetime) -> AsyncGenerator[list[str]]:
        """Yield the conversations that ended before a time of the server and left something to archive, in pages.

        Reads 256 ends at a time, so that memory does not grow with their number; one conversation may come twice.
        """
        journal = self._bus.journal
        for name in _ENDS:
            next_seq = 1
            while True:
                wire = journal.namespace.wire(name)
                page = await direct.read_page(
                    journal.link, journal.stream, wire, start_seq=next_seq, timeout_s=_PURGE_S
                )
                events = [event for message in page if (event := await journal.event_from(message)) is not None]
                ended = dict.fromkeys(event.subject.conversation for event in events if event.time < before)
                if ended:
                    yield await self._unarchived(list(ended))
                if not page or page[-1].left == 0 or page[-1].time >= before:
                    break
                next_seq = page[-1].seq + 1

    async def archive(
        self, conversation: str, before: datetime, *, up_to: int | None = None, dry_run: bool = False
    ) -> Outcome:
        """Archive one conversation if it ended before `before`, a time of the server.

        One with facts behind the sequence `up_to` stays: some consumer is yet to have them.

        Raises `ArchiveError` when what was archived before cannot be read, `InvalidInputError` when the archive cannot
        be written there, `ConflictError` when others keep recording, `BusUnavailableError`.
        """
        check_token(conversation, "conversation")
        for _ in range(_ROUNDS):
            messages = await self._stored(conversation)
            events = [event for one in messages if (event := await self._bus.journal.event_from(one)) is not None]
            state = fold_all(conversation, events)
            leaving = [one for one in messages if not self._stays(one)]
            if (status := _unfit(state, leaving, before)) is not None:
                return Outcome(conversation=conversation, status=status)
            if up_to is not None and leaving[-1].seq > up_to:
                return Outcome(conversation=conversation, status="awaited")
            letters = await self._letters(conversation)
            if not _settled(letters, events):
                return Outcome(conversation=conversation, status="unsettled")
            if dry_run:
                return Outcome(conversation=conversation, status="would archive", messages=len(leaving))
            await self._stop_timers(conversation)
            known = _last_archive(events)
            if known is not None and leaving[-1].seq <= known.last_seq:
                return await self._clear(conversation, known, Archived(tuple(leaving), letters))
            try:
                return await self._archive(conversation, events, Archived(tuple(messages), letters), leaving)
            except ConflictError as error:
                log.info("archive.again", conversation=conversation, reason=error.message)
        raise ConflictError(f"conversation {conversation}: others keep recording in it; try again later")

    async def _archive(
        self, conversation: str, events: Sequence[Event], content: Archived, leaving: list[StoredMessage]
    ) -> Outcome:
        fact = await self._archives.write(conversation, content, self._folder, by=self._by)
        self._crash("after the archive")
        await self._check(conversation, fact, content)
        self._crash("after reading it back")
        taken = {event.subject.detail[0] for event in events if event.kind == "task.archived"}
        number = next(number for number in range(1, len(taken) + 2) if str(number) not in taken)
        subject = build("task.archived", conversation, number)
        await self._bus.journal.append(Fact(subject, fact), fence=conversation_fence(conversation, fact.last_seq))
        self._crash("after the fact")
        await self._purge(conversation, Archived(tuple(leaving), content.letters))
        log.debug("archive.done", conversation=conversation, messages=fact.count, bytes=fact.reference.size_bytes)
        return Outcome(
            conversation=conversation,
            status="archived",
            messages=len(leaving),
            archive_bytes=fact.reference.size_bytes,
        )

    async def _clear(self, conversation: str, fact: TaskArchived, leaving: Archived) -> Outcome:
        """Purge what a run that was stopped had archived, after a look at whether it really has."""
        await self._check(conversation, fact, leaving)
        await self._purge(conversation, leaving)
        return Outcome(conversation=conversation, status="cleared", messages=len(leaving.messages))

    async def _check(self, conversation: str, fact: TaskArchived, content: Archived) -> None:
        """Read an archive back. Raises `ArchiveError` unless it holds every message and letter as it is."""
        kept = await self._archives.read(conversation, fact, self._folder)
        if not (_holds(kept.messages, content.messages) and _holds(kept.letters, content.letters)):
            raise ArchiveError(
                f"the archive of {conversation} does not hold what the stream holds, so nothing was purged"
            )

    async def _purge(self, conversation: str, leaving: Archived) -> None:
        """Purge what was read; the letters first, for without the facts about them they would seem unsettled."""
        if leaving.letters:
            await self._purge_from(DEAD_LETTERS, f"dead.*.{conversation}.>", leaving.letters[-1].seq)
        families = {self._bus.namespace.strip(one.subject).partition(".")[0] for one in leaving.messages}
        for family in sorted(families):
            await self._purge_from(CONVERSATIONS, f"{family}.*.{conversation}.>", leaving.messages[-1].seq)

    async def _purge_from(self, stream: str, name: str, last_seq: int) -> None:
        namespace = self._bus.namespace
        asked = {"filter": namespace.wire(name), "seq": last_seq + 1}
        await self._bus.link.api(f"STREAM.PURGE.{namespace.stream(stream)}", asked, timeout_s=_PURGE_S)
        self._crash("between purges")

    async def _stop_timers(self, conversation: str) -> None:
        """Take its alarms back: nothing waits for them any more, and each would leave a tick behind."""
        stream = self._bus.namespace.stream(TIMERS)
        for family in (ALARM, TICK):
            name = self._bus.namespace.wire(f"{family}.{conversation}.>")
            await self._bus.link.api(f"STREAM.PURGE.{stream}", {"filter": name}, timeout_s=_PURGE_S)

    async def _stored(self, conversation: str) -> list[StoredMessage]:
        """Return all messages of a conversation, in order.

        The last of each subject are all there are where no subject holds two; finding them costs the server a tenth.
        """
        link, stream = self._bus.link, self._bus.journal.stream
        wire = self._bus.namespace.wire(conversation_filter(conversation))
        try:
            last = await link.read_last(stream, [wire], timeout_s=_PURGE_S)
            info = await link.api(f"STREAM.INFO.{stream}", {"subjects_filter": wire}, timeout_s=_PURGE_S)
        except InvalidInputError:  # more subjects than one answer holds
            return await link.read_batch(stream, wire, timeout_s=_PURGE_S)
        if (info["state"].get("subjects") or {}) == {message.subject: 1 for message in last}:
            return last
        return await link.read_batch(stream, wire, timeout_s=_PURGE_S)

    async def _letters(self, conversation: str) -> tuple[StoredMessage, ...]:
        namespace = self._bus.namespace
        stream, name = namespace.stream(DEAD_LETTERS), namespace.wire(f"dead.*.{conversation}.>")
        return tuple(await self._bus.link.read_batch(stream, name, timeout_s=_PURGE_S))

    def _stays(self, message: StoredMessage) -> bool:
        return self._bus.namespace.strip(message.subject).startswith(f"{_KEPT}.")

    async def _unarchived(self, conversations: list[str]) -> list[str]:
        """Return those of which something is left to archive. Most of a page were archived long ago."""
        archived = await self._having(conversations, (f"{_KEPT}.archived",))
        left = await self._having(sorted(archived), tuple(f"{family}.*" for family in _SUBJECTS))
        return [one for one in conversations if one not in archived or one in left]

    async def _having(self, conversations: Sequence[str], kinds: Sequence[str]) -> set[str]:
        """Return the conversations of which the stream holds any of these kinds."""
        found: set[str] = set()
        size = max(1, _MOST_FILTERS // len(kinds))
        for first in range(0, len(conversations), size):
            some = conversations[first : first + size]
            found |= await self._last_of(some, kinds)
        return found

    async def _last_of(self, conversations: Sequence[str], kinds: Sequence[str]) -> set[str]:
        namespace = self._bus.namespace
        filters = [namespace.wire(f"{kind}.{conversation}.>") for conversation in conversations for kind in kinds]
        try:
            last = await self._bus.link.read_last(self._bus.journal.stream, filters, timeout_s=_PURGE_S)
        except InvalidInputError:  # more than one answer holds: then there is enough to look at each
            return set(conversations)
        return {namespace.strip(one.subject).split(".")[2] for one in last}


def _unfit(state: Conversation, leaving: Sequence[StoredMessage], before: datetime) -> Stays | None:
    """Return why a conversation is not archived now, None when it is."""
    if state.now is None:
        return "unknown"
    if state.ending is None:
        return "running"
    if state.ending.at >= before:
        return "too young"
    return None if leaving else "nothing left"


def _settled(letters: Sequence[StoredMessage], events: Sequence[Event]) -> bool:
    """Say whether every dead letter was retried or discarded; what was recorded after the end counts, too."""
    settled = {event.subject.letter for event in events if event.kind in ("letter.retried", "letter.discarded")}
    return all("-".join(letter.subject.split(".")[-3::2]) in settled for letter in letters)


def _holds(kept: Sequence[StoredMessage], wanted: Sequence[StoredMessage]) -> bool:
    by_seq = {one.seq: one for one in kept}
    return all(by_seq.get(one.seq) == one for one in wanted)


def _last_archive(events: Sequence[Event]) -> TaskArchived | None:
    return next((event.data for event in reversed(events) if isinstance(event.data, TaskArchived)), None)
