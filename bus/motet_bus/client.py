"""What any other system does: submit tasks, ask for a stop, and look at conversations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from motet_bus.answers import Message
from motet_bus.archives import with_archived
from motet_bus.bus import Bus, open_bus
from motet_bus.connect import ConnectOptions
from motet_bus.grants import Role
from motet_bus.journal import Journal
from motet_bus.link import Link
from motet_bus.presence import AgentCard, roll_call
from motet_schemas import (
    ANY_LIMITS,
    ConflictError,
    Conversation,
    Event,
    Fact,
    Namespace,
    NotFoundError,
    Reference,
    Task,
    TaskArchived,
    TaskCancel,
    TaskSubmitted,
    check_token,
    fold_all,
    limits_context,
)
from motet_schemas.standing import open_questions, status
from motet_schemas.subjects import build, conversation_filter

_ANY: Final = limits_context(ANY_LIMITS)  # whoever made the task kept its playbook's limits
_LOOK_AGAIN_S: Final = 5.0
_SUMMARIZED: Final = ["task.>", "escalate.>"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What became of a submitted task: `created` is False when the same one had been submitted before."""

    conversation: str
    seq: int
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One conversation in a line. `status` is running, waiting, completed, failed or cancelled.

    `archived` says that most of its facts have left the stream.
    """

    conversation: str
    kind: str
    owner: str | None
    submitted_at: datetime
    status: str
    verdict: str | None
    questions: int
    archived: bool = False


class Client:
    """A guest on the bus: may submit and ask for a stop. Get one with `open_client`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @property
    def link(self) -> Link:
        """The connection."""
        return self._bus.link

    @property
    def namespace(self) -> Namespace:
        """The namespace that everything is under."""
        return self._bus.namespace

    @property
    def journal(self) -> Journal:
        """The journal, in this client's role."""
        return self._bus.journal

    async def submit(self, task: Task, conversation: str) -> Submission:
        """Submit `task` under its idempotency key. The same id and content again returns the first submission.

        Raises `ConflictError` when the id is taken by another task, `InvalidInputError` when it is no token.
        """
        subject = build("task.submitted", check_token(conversation, "id"), task.kind)
        fact = Fact(subject, TaskSubmitted.model_validate(dict(task), strict=False, context=_ANY))
        try:
            seq = await self._bus.journal.append(fact)
        except ConflictError as refusal:
            said = await self._bus.journal.read_kind(f"task.*.{conversation}.>", at_least=refusal.last_sequence or 0)
            first = next((event for event in said if event.kind == "task.submitted"), None)
            if first is not None and isinstance(first.data, TaskSubmitted) and _same(first.data, task):
                return Submission(conversation=conversation, seq=first.seq, created=False)
            if first is None:
                raise ConflictError(
                    f"id: under {conversation!r} something else was said before; choose another"
                ) from None
            raise ConflictError(
                f"id: {conversation!r} was submitted before with other content; choose another id, or look at it with "
                f"`motet show {conversation}`"
            ) from None
        return Submission(conversation=conversation, seq=seq, created=True)

    async def cancel(self, conversation: str, *, by: str, reason: str = "") -> None:
        """Ask for a stop. Raises `NotFoundError` for an unknown conversation, `ConflictError` for an ended one."""
        state = fold_all(conversation, await self._recorded(conversation))
        if state.ending is not None:
            raise ConflictError(f"conversation {conversation} has ended already: {state.ending.status}")
        request = TaskCancel(requested_by=by, reason=reason)
        try:
            await self._bus.journal.append(Fact(build("task.cancel", conversation, check_token(by, "by")), request))
        except ConflictError:
            return  # the same person asked before

    async def load(self, conversation: str) -> Conversation:
        """Return the conversation as recorded. Raises what `events` raises."""
        return fold_all(conversation, await self.events(conversation))

    async def events(self, conversation: str, archive: Path | None = None) -> list[Event]:
        """Return the recorded facts in order, those that were archived among them.

        `archive` is a folder with archives; by default they are looked for where they were put. Raises `NotFoundError`
        when nothing is recorded, `ArchiveError` when an archive cannot be read.
        """
        return await with_archived(self._bus, conversation, await self._recorded(conversation), archive)

    async def _recorded(self, conversation: str) -> list[Event]:
        """Return the facts that are in the stream. Raises `NotFoundError` when there are none."""
        events = await self._bus.journal.read_conversation(check_token(conversation, "conversation"))
        if not events:
            raise NotFoundError(f"no conversation {conversation!r} here; `motet list` shows what there is")
        return events

    async def watch(self, conversation: str) -> AsyncGenerator[Conversation]:
        """Yield the conversation as it is, then again after every change, for as long as the caller iterates."""
        changed = asyncio.Event()

        async def on_fact(_: Message) -> None:
            changed.set()

        name = self.namespace.wire(conversation_filter(conversation))
        subscription = await self.link.subscribe(name, on_fact)
        try:
            seen = -1
            while True:
                changed.clear()
                state = await self._bus.conversations.load(conversation)
                if state.last_seq != seen:
                    seen = state.last_seq
                    yield state
                # A message that was lost with the connection is made up for by looking again.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await changed.wait()
        finally:
            await subscription.unsubscribe()

    async def conversations(self) -> list[Summary]:
        """Return all conversations in a line each, newest first."""
        events: dict[str, list[Event]] = {}
        for name in _SUMMARIZED:
            for event in await self._bus.journal.read_kind(name):
                events.setdefault(event.subject.conversation, []).append(event)
        summaries: list[Summary] = []
        for conversation, facts in events.items():
            state = fold_all(conversation, sorted(facts, key=lambda event: event.seq))
            if open_questions(state):  # whether they still matter depends on all that is recorded
                state = await self._bus.conversations.load(conversation)
            if state.submitted_at is not None:
                archived = any(isinstance(fact.data, TaskArchived) for fact in facts)
                summaries.append(_summary(state, state.submitted_at, archived=archived))
        return sorted(summaries, key=lambda one: one.submitted_at, reverse=True)

    async def roll_call(self, *, for_s: float = 0.5) -> list[AgentCard]:
        """Return who is alive."""
        return await roll_call(self.link, self.namespace, for_s=for_s)

    async def put_document(self, data: bytes, media_type: str) -> Reference:
        """Store a large body once and return the reference by which it travels."""
        return await self._bus.objects.put(data, media_type)

    async def get_document(self, reference: Reference) -> bytes:
        """Return a stored body. Raises `NotFoundError` when it is not there or not what was referenced."""
        return await self._bus.objects.get(reference)


def _same(first: Task, second: Task) -> bool:
    one, other = (Task.model_validate(dict(task), context=_ANY) for task in (first, second))
    return one.fingerprint() == other.fingerprint()


def _summary(state: Conversation, submitted_at: datetime, *, archived: bool) -> Summary:
    questions = len(open_questions(state))
    stands = status(state)
    return Summary(
        conversation=state.id,
        kind=state.task.kind if state.task else "unreadable",
        owner=state.task.owner if state.task else None,
        submitted_at=submitted_at,
        status=stands,
        verdict=state.ending.report.verdict if state.ending else "needs_human" if stands == "waiting" else None,
        questions=questions,
        archived=archived and state.ending is not None,
    )


@asynccontextmanager
async def open_client(
    options: ConnectOptions, *, namespace: str = "", by: str = "client", role: Role = "client"
) -> AsyncGenerator[Client]:
    """Connect as a guest called `by`; closes at the end. Raises what `open_bus` raises."""
    async with open_bus(options, role=role, name=check_token(by, "by"), namespace=namespace) as bus:
        yield Client(bus)
