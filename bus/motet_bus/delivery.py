"""One message that a consumer delivered, and the four things that can be told the server about it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from motet_bus.answers import StoredMessage

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHORT_FORM: Final = 9
_DOMAIN_FORM: Final = 11


class Publisher(Protocol):
    """What a delivery needs of a link."""

    async def publish(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """An operator's retry of a dead letter: its stream sequence, and what is known of the tries before it."""

    sequence: int
    tries: int = 1
    first_failed_at: datetime | None = None


class Delivery:
    """One delivered message. It may be delivered again: `deliveries` counts from 1.

    `ack`, `nak`, `in_progress` and `term` are plain publishes: they are lost with the connection and the message
    is then delivered again after its ack wait. They raise `BusUnavailableError` when nothing can be sent.
    """

    __slots__ = (
        "_publisher", "_reply", "_time_ns", "body", "consumer", "consumer_seq", "deliveries", "headers", "pending",
        "retry", "stream", "stream_seq", "subject",
    )  # fmt: skip

    def __init__(self, publisher: Publisher, subject: str, headers: Mapping[str, str], body: bytes, reply: str) -> None:
        """Read the delivery's numbers from its `$JS.ACK…` reply subject. Raises `ValueError` for any other reply."""
        tokens = reply.split(".")
        if not reply.startswith("$JS.ACK.") or (len(tokens) != _SHORT_FORM and len(tokens) < _DOMAIN_FORM):
            raise ValueError(f"not the reply subject of a delivery: {reply!r}")
        first = 2 if len(tokens) == _SHORT_FORM else 4
        self.stream, self.consumer = tokens[first], tokens[first + 1]
        numbers = tokens[first + 2 : first + 7]
        self.deliveries, self.stream_seq, self.consumer_seq, self._time_ns, self.pending = map(int, numbers)
        self.subject = subject
        self.headers = headers
        self.body = body
        self.retry: Retry | None = None
        self._publisher = publisher
        self._reply = reply

    def standing_for(self, message: StoredMessage, retry: Retry) -> Delivery:
        """Return this delivery as if `message` had been delivered: what is told the server is about this one."""
        other = copy.copy(self)
        other.subject, other.headers, other.body = message.subject, message.headers, message.body
        other.stream_seq = message.seq
        other._time_ns = (message.time - _EPOCH) // timedelta(microseconds=1) * 1000
        other.retry = retry
        return other

    @property
    def fresh(self) -> bool:
        """Whether nobody can have handled the message before: it is delivered for the first time."""
        return self.deliveries == 1 and self.retry is None

    @property
    def letter(self) -> int:
        """The sequence after which a dead letter of it is called: the message's own, or that of its retry."""
        return self.stream_seq if self.retry is None else self.retry.sequence

    @property
    def time(self) -> datetime:
        """When the server stored the message: aware, UTC, cut to microseconds."""
        return _EPOCH + timedelta(microseconds=self._time_ns // 1000)

    async def ack(self) -> None:
        """Say that the message is done with."""
        await self._publisher.publish(self._reply, b"")

    async def nak(self, delay_s: float | None = None) -> None:
        """Hand the message back; it is delivered again after `delay_s` seconds, at once when None."""
        body = b"-NAK"
        if delay_s is not None and delay_s > 0:
            body += b" " + json.dumps({"delay": round(delay_s * 1e9)}).encode()
        await self._publisher.publish(self._reply, body)

    async def in_progress(self) -> None:
        """Start the ack wait anew: work goes on."""
        await self._publisher.publish(self._reply, b"+WPI")

    async def term(self, reason: str) -> None:
        """Say that the message shall never be delivered again; `reason` goes into the server's advisory."""
        await self._publisher.publish(self._reply, b"+TERM " + " ".join(reason.split()).encode())

    def __repr__(self) -> str:
        return f"<Delivery {self.subject} seq={self.stream_seq} deliveries={self.deliveries}>"
