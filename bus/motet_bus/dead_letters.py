"""Messages that cannot be handled: kept with their cause, told to their conversation, and taken out of the way."""

from __future__ import annotations

import base64
import traceback
from typing import Final

import structlog

from motet_bus.bus import Bus
from motet_bus.delivery import Delivery
from motet_bus.fences import EXPECTED_SEQUENCE
from motet_bus.journal import LARGEST_BODY
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
from motet_schemas.subjects import build

log = structlog.get_logger(__name__)

_NO_CONVERSATION: Final = "none"
_STACK: Final = 8_000
_MESSAGE: Final = 4_000
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
    return (said or type(error).__name__).encode("utf-8", "replace").decode()


async def bury(bus: Bus, delivery: Delivery, *, consumer: str, failure: Failure, error: BaseException | None) -> None:
    """Move a message to the dead letters and tell its conversation; safe to repeat. The caller terminates it.

    Raises `BusUnavailableError` when the letter could not be stored: then the message must stay where it is.
    """
    subject = _parsed(bus, delivery)
    letter = DeadLetter(
        consumer=consumer,
        subject=delivery.subject[:500] if subject is None else str(subject),
        sequence=delivery.stream_seq,
        deliveries=delivery.deliveries,
        failure=failure,
        instance=bus.instance,
        headers=dict(delivery.headers),
        body=base64.b64encode(delivery.body).decode() if len(delivery.body) <= LARGEST_BODY else "",
        reference=await bus.objects.put(delivery.body, "application/octet-stream")
        if len(delivery.body) > LARGEST_BODY
        else None,
        stack=_stack(error),
        stored_at=delivery.time,
    )
    conversation = subject.conversation if subject is not None else _NO_CONVERSATION
    wire = bus.namespace.wire(f"dead.{consumer}.{conversation}.{delivery.stream_seq}")
    try:
        await bus.link.publish_stored(wire, letter.to_json(), {EXPECTED_SEQUENCE: "0"})
    except ConflictError:
        log.info("letter.stored_before", subject=letter.subject, sequence=letter.sequence)
    log.error(
        "letter.dead",
        subject=letter.subject,
        sequence=letter.sequence,
        consumer=consumer,
        deliveries=letter.deliveries,
        code=failure.code,
        error=failure.message,
    )
    if subject is not None and subject.family != "letter":
        await _tell(bus, subject, letter)


async def _tell(bus: Bus, subject: Subject, letter: DeadLetter) -> None:
    notice = LetterDead(**{name: getattr(letter, name) for name in LetterNotice.model_fields})
    key = f"{letter.consumer}-{letter.sequence}"
    try:
        await bus.journal.append(Fact(build("letter.dead", subject.conversation, key), notice), cause=letter.sequence)
    except ConflictError:
        log.debug("letter.told_before", conversation=subject.conversation, letter=key)


def _stack(error: BaseException | None) -> str:
    if error is None:
        return ""
    return "".join(traceback.format_exception(error)).encode("utf-8", "replace").decode()[-_STACK:]


def _parsed(bus: Bus, delivery: Delivery) -> Subject | None:
    try:
        return bus.namespace.parse(delivery.subject)
    except InvalidInputError:
        return None
