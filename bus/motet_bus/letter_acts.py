"""What an operator does with dead letters: has the consumer that gave up try again, or gives them up.

Each act is one fact of the letter's conversation; a letter has one act at most, whoever is quicker.
"""

from __future__ import annotations

from typing import Final

import structlog
from pydantic import ValidationError

from motet_bus.bus import Bus
from motet_bus.dead_letters import NO_CONVERSATION
from motet_bus.fences import Fence
from motet_bus.letters import KeptLetter
from motet_bus.topology import filters_of
from motet_schemas import (
    ConflictError,
    Event,
    Fact,
    InvalidInputError,
    LetterDiscarded,
    LetterRetried,
    NotFoundError,
)
from motet_schemas.subjects import build, letter_filter, matches
from motet_schemas.validation import explain

log = structlog.get_logger(__name__)

_ROUNDS: Final = 5


async def retry(bus: Bus, kept: KeptLetter, *, by: str, reason: str = "") -> int:
    """Have the consumer that gave up handle the message again, once it runs; return the sequence of this act.

    Raises `ConflictError` when somebody has acted on the letter, and `InvalidInputError` or `NotFoundError` when a
    retry could not reach anybody.
    """
    letter = kept.letter
    if kept.conversation is None:
        raise InvalidInputError(
            f"letter {kept.id}: its message is no event of a conversation ({letter.subject}), so that no consumer can "
            "handle it; discard it",
            field="letter",
            value=kept.id,
        )
    _refuse_second(kept)
    await _check_delivery(bus, kept)
    try:
        act = LetterRetried(
            by=by,
            reason=reason,
            message=kept.message,
            subject=letter.subject,
            tries=letter.deliveries,
            first_failed_at=kept.first_failed_at,
        )
    except ValidationError as error:
        raise explain(error, LetterRetried, "retry") from error
    subject = build("letter.retried", kept.conversation, letter.consumer, letter.sequence)
    return await _act(bus, kept, Fact(subject, act))


async def discard(bus: Bus, kept: KeptLetter, *, by: str, reason: str) -> int:
    """Give the letter up; return the sequence of this act. Raises `ConflictError` when somebody has acted on it."""
    _refuse_second(kept)
    conversation = kept.conversation or NO_CONVERSATION
    try:
        act = LetterDiscarded(by=by, reason=reason)
    except ValidationError as error:
        raise explain(error, LetterDiscarded, "discard") from error
    subject = build("letter.discarded", conversation, kept.letter.consumer, kept.letter.sequence)
    return await _act(bus, kept, Fact(subject, act))


def _refuse_second(kept: KeptLetter) -> None:
    if kept.acted_at is not None:
        raise ConflictError(_too_late(kept, kept.status, kept.by, f"{kept.acted_at:%Y-%m-%d %H:%M:%S} UTC"))


def _too_late(kept: KeptLetter, verb: str, by: str, at: str) -> str:
    again = "; if it failed again, that is a letter of its own" if verb == "retried" else ""
    return f"letter {kept.id} was {verb} by {by} at {at} already{again}"


async def _check_delivery(bus: Bus, kept: KeptLetter) -> None:
    """Raise unless a retry would be delivered and could be followed."""
    consumer, stream = kept.letter.consumer, bus.journal.stream
    try:
        found = (await bus.link.api(f"CONSUMER.INFO.{stream}.{consumer}", {}))["config"]
    except NotFoundError:
        raise NotFoundError(
            f"letter {kept.id}: there is no consumer {consumer} any more; start the agent that serves it, then retry"
        ) from None
    retries, listens = bus.namespace.wire(letter_filter(consumer)), filters_of(found)
    if listens and not any(matches(name, retries) for name in listens):
        raise ConflictError(
            f"letter {kept.id}: whoever serves {consumer} is too old to hear of retries; restart it with this version "
            "of Motet, then retry"
        )
    if await bus.link.read_one(stream, kept.message) is None:
        raise NotFoundError(
            f"letter {kept.id}: message {kept.message} is not in the stream any more (archived or purged), so nothing "
            "can be retried; discard it"
        )


async def _act(bus: Bus, kept: KeptLetter, fact: Fact) -> int:
    """Record an act unless there is one: both kinds are behind the same fence."""
    subject, at_least = fact.subject, 0
    rivals = f"letter.*.{subject.conversation}.{subject.detail[0]}.{subject.detail[1]}"
    for _ in range(_ROUNDS):
        events = await bus.journal.read_kind(rivals, at_least=at_least)
        _refuse_after(kept, events)
        try:
            seq = await bus.journal.append(fact, fence=Fence(events[-1].seq if events else 0, rivals))
        except ConflictError as refusal:
            at_least = refusal.last_sequence or 0
        else:
            log.info(subject.kind, letter=kept.id, sequence=seq)
            return seq
    raise ConflictError(f"letter {kept.id}: others keep writing about it; look at it with `motet dead show`, try again")


def _refuse_after(kept: KeptLetter, events: list[Event]) -> None:
    """Raise `ConflictError` when one of the events is an act; what does not parse is none."""
    for event in events:
        if isinstance(event.data, LetterRetried | LetterDiscarded):
            at = f"{event.time:%Y-%m-%d %H:%M:%S} UTC"
            raise ConflictError(_too_late(kept, event.subject.verb, event.data.by, at), last_sequence=event.seq)
