"""Messages that cannot be handled: kept with their cause, told to their conversation, and taken out of the way."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import structlog

from motet_bus import metrics
from motet_bus.bus import Bus
from motet_bus.delivery import Delivery
from motet_bus.fences import EXPECTED_SEQUENCE
from motet_bus.journal import LARGEST_BODY
from motet_bus.redaction import redact
from motet_bus.topology import DEAD_LETTERS
from motet_schemas import (
    ConflictError,
    DeadLetter,
    Fact,
    Failure,
    InvalidInputError,
    LetterDead,
    LetterNotice,
    MotetError,
    Subject,
)
from motet_schemas.printing import cut
from motet_schemas.subjects import build

log = structlog.get_logger(__name__)

NO_CONVERSATION: Final = "none"
"""Stands where a letter's conversation would, for a message whose subject names none."""
_STACK: Final = 8_000
_MESSAGE: Final = 4_000
_HEADER: Final = 4_000
_HEADERS: Final = 64_000
_LONGEST_HINT_S: Final = 86_400.0


def failure_of(error: BaseException) -> Failure:
    """Return an exception as it travels: code, message, and whether trying again can help.

    An exception that is not ours counts as retryable: whoever knows better raises `PermanentError`.
    """
    if isinstance(error, MotetError):
        code, retryable, after_s = error.code, error.retryable, error.retry_after_s
        after_s = None if after_s is None else min(max(after_s, 0.0), _LONGEST_HINT_S)
    else:
        code, retryable, after_s = "exception", True, None
    message = _words(error)
    return Failure(
        code=code,
        message=message[:_MESSAGE],
        retryable=retryable,
        type=type(error).__qualname__[:200],
        retry_after_s=after_s,
    )


def _words(error: BaseException) -> str:
    """Return what an exception says as text that JSON can hold: surrogates (from file names, say) have no UTF-8."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is still has a class
        said = ""
    return redact(said or type(error).__name__).encode("utf-8", "replace").decode()


async def bury(
    bus: Bus,
    delivery: Delivery,
    *,
    consumer: str,
    failure: Failure,
    error: BaseException | None,
    first_failed_at: datetime | None = None,
) -> None:
    """Move a message to the dead letters and tell its conversation; safe to repeat. The caller terminates it.

    `first_failed_at` is when it failed here for the first time, where that was not now. Raises `BusUnavailableError`
    when the letter could not be stored: then the message must stay where it is.
    """
    subject = _parsed(bus, delivery)
    letter = await _letter(bus, delivery, subject, consumer, failure, error, first_failed_at or datetime.now(UTC))
    conversation = subject.conversation if subject is not None else NO_CONVERSATION
    wire = bus.namespace.wire(f"dead.{consumer}.{conversation}.{letter.sequence}")
    try:
        await bus.link.publish_stored(wire, letter.to_json(), {EXPECTED_SEQUENCE: "0"})
    except ConflictError:
        log.info("letter.stored_before", subject=letter.subject, sequence=letter.sequence)
    else:
        metrics.buried(consumer)
    log.error(
        "letter.dead",
        subject=letter.subject,
        sequence=letter.sequence,
        consumer=consumer,
        deliveries=letter.deliveries,
        code=failure.code,
        error=failure.message,
    )
    # A letter about a letter's death would have no end; a retry is told of, for there is one for each act of a human.
    if subject is not None and (subject.family != "letter" or delivery.retry is not None):
        await tell(bus, subject, letter)


async def tell_of_earlier_letter(bus: Bus, delivery: Delivery, *, consumer: str) -> None:
    """Tell the conversation of a letter that a process stored for this message and died before it could tell.

    The message came again and was handled this time, so nobody else would. Costs one read for each redelivery.
    """
    subject = _parsed(bus, delivery)
    if subject is None:
        return
    wire = bus.namespace.wire(f"dead.{consumer}.{subject.conversation}.{delivery.letter}")
    stored = await bus.link.read_last_for(bus.namespace.stream(DEAD_LETTERS), wire)
    if stored is not None:
        await tell(bus, subject, DeadLetter.model_validate_json(stored.body, extra="ignore"))


async def _letter(
    bus: Bus,
    delivery: Delivery,
    subject: Subject | None,
    consumer: str,
    failure: Failure,
    error: BaseException | None,
    failed_at: datetime,
) -> DeadLetter:
    retry, large = delivery.retry, len(delivery.body) > LARGEST_BODY
    return DeadLetter(
        consumer=consumer,
        subject=delivery.subject[:500] if subject is None else str(subject),
        sequence=delivery.letter,
        message=None if retry is None else delivery.stream_seq,
        deliveries=delivery.deliveries + (0 if retry is None else retry.tries),
        failure=failure,
        instance=bus.instance,
        agent=bus.name,
        version=version("motet"),
        first_failed_at=(retry and retry.first_failed_at) or failed_at,
        headers=_kept(delivery.headers),
        body="" if large else base64.b64encode(delivery.body).decode(),
        reference=await bus.objects.put(delivery.body, "application/octet-stream") if large else None,
        stack=_stack(error),
        stored_at=delivery.time,
    )


async def tell(bus: Bus, subject: Subject, letter: DeadLetter) -> None:
    """Tell a conversation of a letter about one of its messages, once."""
    notice = LetterDead(**{name: getattr(letter, name) for name in LetterNotice.model_fields})
    name = build("letter.dead", subject.conversation, letter.consumer, letter.sequence)
    try:
        await bus.journal.append(Fact(name, notice), cause=letter.sequence)
    except ConflictError:
        log.debug("letter.told_before", conversation=subject.conversation, letter=name.letter)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a letter has room for; an outsider's may be as large as a whole message."""
    kept: dict[str, str] = {}
    room = _HEADERS
    for name, value in headers.items():
        kept_name, kept_value = cut(name, _HEADER), redact(cut(value, _HEADER))
        room -= len(json.dumps([kept_name, kept_value]))
        if room < 0:
            break
        kept[kept_name] = kept_value
    return kept


def _stack(error: BaseException | None) -> str:
    if error is None:
        return ""
    return redact("".join(traceback.format_exception(error))).encode("utf-8", "replace").decode()[-_STACK:]


def _parsed(bus: Bus, delivery: Delivery) -> Subject | None:
    try:
        return bus.namespace.parse(delivery.subject)
    except InvalidInputError:
        return None
