"""What a consumer does with the retry of one of its dead letters: it handles the message that the letter is about."""

from __future__ import annotations

from collections.abc import Iterable

from motet_bus.answers import StoredMessage
from motet_bus.bus import Bus
from motet_bus.delivery import Delivery, Retry
from motet_bus.journal import STREAM
from motet_schemas import InvalidInputError, LetterRetried, PermanentError, Subject, TransientError
from motet_schemas.subjects import conversation_filter, matches


class MessageGoneError(PermanentError):
    """The message of a retried letter is not in the stream any more. `delivery` stands for it."""

    code = "message_gone"

    def __init__(self, message: str, delivery: Delivery) -> None:
        super().__init__(message)
        self.delivery = delivery


async def meant_by(bus: Bus, delivery: Delivery, *, consumer: str, filters: Iterable[str]) -> list[Delivery]:
    """Return what is to be handled, in order: `delivery`, or for a retry of the consumer's letter its message.

    Who listens to retries gets the retry, too. Raises `MessageGoneError` when the message is gone, `PermanentError`
    when it is not one for this consumer, `TransientError` when the replica that answers does not know it yet.
    """
    meant, retry = delivery, None
    while (subject := _retried_by(bus, meant, consumer)) is not None:
        act = (await bus.journal.event_of(meant)).data
        if not isinstance(act, LetterRetried):
            return [meant]
        wanted = act.message or int(subject.detail[1])
        if wanted >= meant.stream_seq:  # so that following retries of retries comes to an end
            raise PermanentError(f"{subject}: message {wanted} is not older than its retry")
        retry = retry or Retry(sequence=meant.stream_seq, tries=act.tries, first_failed_at=act.first_failed_at)
        meant = meant.standing_for(await _message(bus, meant, subject, act, wanted, retry), retry)
    if retry is None:
        return [delivery]
    names = [bus.namespace.wire(name) for name in filters]
    if not any(matches(name, meant.subject) for name in names):
        raise PermanentError(f"{meant.subject}: {consumer} was asked to retry a message that it does not listen to")
    return [meant, delivery] if any(matches(name, delivery.subject) for name in names) else [meant]


def _retried_by(bus: Bus, delivery: Delivery, consumer: str) -> Subject | None:
    """Return the subject of a retry of one of the consumer's letters, None for any other message."""
    if ".retried." not in delivery.subject:  # every message passes here
        return None
    try:
        subject = bus.namespace.parse(delivery.subject)
    except InvalidInputError:
        return None
    own = subject.kind == "letter.retried" and len(subject.detail) > 1 and subject.detail[0] == consumer
    return subject if own else None


async def _message(
    bus: Bus, delivery: Delivery, subject: Subject, act: LetterRetried, wanted: int, retry: Retry
) -> StoredMessage:
    """Read the message with sequence `wanted` of the retry's conversation."""
    name = bus.namespace.wire(conversation_filter(subject.conversation))
    stored = await bus.link.read_batch(bus.namespace.stream(STREAM), name, start_seq=wanted)
    if stored and stored[0].seq == wanted:
        return stored[0]
    if not any(message.seq >= delivery.stream_seq for message in stored):
        raise TransientError(f"{subject}: the replica that answers is behind; message {wanted} cannot be read yet")
    known = bus.namespace.wire(act.subject) if act.subject else delivery.subject
    lost = StoredMessage(known, {}, b"", wanted, delivery.time)
    raise MessageGoneError(
        f"message {wanted} of conversation {subject.conversation} has left the stream: there is nothing to retry",
        delivery.standing_for(lost, retry),
    )
