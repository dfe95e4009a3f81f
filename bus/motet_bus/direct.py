"""Batched direct gets: reading from a stream without a consumer, in few round trips, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn, Protocol

import structlog

from motet_bus.answers import Reply, ServerRefusedError, StoredMessage, read_stored
from motet_schemas.errors import BusUnavailableError, InvalidInputError

log = structlog.get_logger(__name__)

_ROUND: Final = 256
_ROUND_BYTES: Final = 8 << 20
_MOST_ROUNDS: Final = 4096
_MOST_TRIES: Final = 4
_MOST_SUBJECTS: Final = 1024
_TOO_MANY_RESULTS: Final = 413


class Asker(Protocol):
    """What reading needs of a link."""

    def api_subject(self, op: str) -> str: ...

    async def request_many(
        self, subject: str, body: bytes, *, complete: Callable[[Reply], bool], timeout_s: float
    ) -> list[Reply]: ...


async def read_batch(
    link: Asker,
    stream: str,
    filter_subject: str,
    *,
    start_seq: int,
    timeout_s: float,
    most: int | None = None,
    most_bytes: int | None = None,
) -> list[StoredMessage]:
    """Return all messages on `filter_subject` from `start_seq` on, in order of sequence; an empty list for none.

    With `most` it returns so many at most; when the bodies have more than `most_bytes`, it stops there. Reads at most
    256 messages (or 8 MiB) a round trip, each with `timeout_s` seconds and asked four times at most. What is stored
    while it reads may or may not be there. Raises `BusUnavailableError` when a round stays incomplete or nothing
    answers for the stream.
    """
    messages: list[StoredMessage] = []
    next_seq, held = start_seq, 0
    for _ in range(_MOST_ROUNDS):
        page = _ROUND if most is None else min(_ROUND, most - len(messages))
        found = await read_page(link, stream, filter_subject, start_seq=next_seq, timeout_s=timeout_s, most=page)
        messages += found
        held += sum(len(message.body) for message in found)
        if most_bytes is not None and held > most_bytes:
            return messages
        if not found or found[-1].left == 0 or len(messages) == most:
            return messages
        next_seq = found[-1].seq + 1
    raise BusUnavailableError(
        f"{stream}: more than {_MOST_ROUNDS * _ROUND} messages on {filter_subject}; read a narrower filter"
    )


async def read_page(
    link: Asker, stream: str, filter_subject: str, *, start_seq: int, timeout_s: float, most: int = _ROUND
) -> list[StoredMessage]:
    """Return the next 256 messages at most on `filter_subject` from `start_seq` on; an empty list for no more."""
    asked = {"batch": most, "max_bytes": _ROUND_BYTES, "next_by_subj": filter_subject, "seq": start_seq}
    return await _round(link, stream, asked, timeout_s)


async def read_last(link: Asker, stream: str, subject_filters: list[str], *, timeout_s: float) -> list[StoredMessage]:
    """Return the last message of each of at most 1,024 subjects that the filters match, in order of sequence."""
    found = await _round(link, stream, {"multi_last": subject_filters, "batch": _MOST_SUBJECTS}, timeout_s)
    if found and found[-1].left > 0:
        _raise_too_many(subject_filters)
    return found


def _raise_too_many(subject_filters: list[str]) -> NoReturn:
    raise InvalidInputError(
        f"filters: {', '.join(subject_filters)} match more than {_MOST_SUBJECTS} subjects; read narrower filters",
        field="filters",
        value=subject_filters,
    )


async def read_single(link: Asker, stream: str, asked: dict[str, Any], *, timeout_s: float) -> StoredMessage | None:
    """Return the one message that `asked` (`seq` or `last_by_subj`) names, None when there is none."""
    replies = await _patiently(link, stream, asked, lambda _: True, timeout_s)
    message = read_stored(replies[0])
    if message is None:
        _check_end(replies[0], stream)
    return message


async def _round(link: Asker, stream: str, asked: dict[str, Any], timeout_s: float) -> list[StoredMessage]:
    """Ask once and collect until the server's closing status."""
    replies = await _patiently(link, stream, asked, _is_end, timeout_s)
    if replies[-1].status == _TOO_MANY_RESULTS:
        _raise_too_many(asked["multi_last"])
    _check_end(replies[-1], stream)
    return [message for reply in replies if (message := read_stored(reply)) is not None]


async def _patiently(
    link: Asker, stream: str, asked: dict[str, Any], complete: Callable[[Reply], bool], timeout_s: float
) -> list[Reply]:
    """Ask again, from the start of the round, when the connection broke or no end came."""
    subject, body = link.api_subject(f"DIRECT.GET.{stream}"), json.dumps(asked).encode()
    for attempt in range(1, _MOST_TRIES):
        try:
            return await link.request_many(subject, body, complete=complete, timeout_s=timeout_s)
        except BusUnavailableError as error:
            log.info("direct.retried", stream=stream, attempt=attempt, error=error.message)
    return await link.request_many(subject, body, complete=complete, timeout_s=timeout_s)


def _is_end(reply: Reply) -> bool:
    return "Nats-Sequence" not in reply.headers


def _check_end(reply: Reply, stream: str) -> None:
    """Raise what the closing status of a direct get means, unless it is "that was all" or "nothing there"."""
    if reply.status in (204, 404):
        return
    if reply.status == 503:
        raise BusUnavailableError(
            f"{stream}: cannot be read: no such stream, one without direct reads, or a server that is still starting"
        )
    raise ServerRefusedError(f"reading {stream}: {reply.status} {reply.description}")
