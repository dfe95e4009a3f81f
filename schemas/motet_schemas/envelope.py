"""CloudEvents 1.0 in NATS binary mode: contracts to headers and body, and back.

Reading is total: whatever an outsider wrote becomes an `Event`, at worst with `Unreadable` data.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from pydantic import ValidationError

from motet_schemas.budget import ANY_LIMITS, limits_context
from motet_schemas.events import EVENTS, EventData, Output
from motet_schemas.subjects import Subject, parse

CE_ID: Final = "ce-id"
CE_TYPE: Final = "ce-type"
CE_SOURCE: Final = "ce-source"
CE_TIME: Final = "ce-time"
CE_SUBJECT: Final = "ce-subject"
CE_SPECVERSION: Final = "ce-specversion"
CONTENT_TYPE: Final = "content-type"
CAUSE: Final = "motet-cause"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
CALLER: Final = "motet-caller"
"""The `traceparent` of the span, in a trace of its own, in which a task was submitted."""
NATS_MSG_ID: Final = "Nats-Msg-Id"
BODY_REFERENCE: Final = "motet-body-ref"

_TYPE = re.compile(r"motet\.[a-z_.]+\.v([1-9][0-9]{0,99})")
MOST_VALUES: Final = 2_000_000
"""How many values a body may hold, guessed by its commas and brackets: parsed, each takes up to 100 bytes."""
_COUNTED_FROM: Final = 1 << 20
_PUNCTUATION: Final = (b",", b"[", b"{")
_READING = limits_context(ANY_LIMITS)
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def event_type(kind: str) -> str:
    """Return the CloudEvents type of a kind of event: `motet.plan.created.v1`."""
    return f"motet.{kind}.v{EVENTS[kind].schema_version}"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to be recorded: what, under which subject, and an id by which its writer knows it again."""

    subject: Subject
    data: EventData
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    def to_output(self) -> Output:
        """Return the fact as one of the outputs that a `Handled` record lists."""
        version = self.data.schema_version
        return Output(
            subject=str(self.subject),
            id=self.id,
            data=self.data.model_dump(mode="json", exclude_none=True),
            version=version if version > 1 else None,
        )


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in for the data of an event that does not parse."""

    reason: str


@dataclass(frozen=True, slots=True)
class NewerVersion(Unreadable):
    """Stands in for the data of an event in a major version that this Motet cannot read: it is no rubbish."""

    version: int


@dataclass(frozen=True, slots=True)
class Event:
    """A fact as it was recorded. `time` is when the server stored it; `seq` is its place in the stream."""

    subject: Subject
    data: EventData | Unreadable
    seq: int
    time: datetime
    id: str = ""
    source: str = ""
    cause: int | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)

    @property
    def kind(self) -> str:
        """The subject's kind."""
        return self.subject.kind


def encode(
    fact: Fact,
    *,
    source: str,
    cause: int | None = None,
    time: datetime | None = None,
    trace: Mapping[str, str] = _NO_HEADERS,
) -> tuple[dict[str, str], bytes]:
    """Return headers and body for the wire. `source` names the writer: `/agents/planner/<instance>`."""
    headers = {
        CE_SPECVERSION: "1.0",
        CE_ID: fact.id,
        CE_TYPE: event_type(fact.subject.kind),
        CE_SOURCE: source,
        CE_TIME: (time or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        CE_SUBJECT: str(fact.subject),
        CONTENT_TYPE: "application/json",
        **trace,
    }
    if cause is not None:
        headers[CAUSE] = str(cause)
    return headers, fact.data.to_json()


def decode(subject: Subject, headers: Mapping[str, str], body: bytes, *, seq: int, time: datetime) -> Event:
    """Return the event that was recorded under `subject`; never raises for what an outsider wrote."""
    cause = headers.get(CAUSE, "")
    return Event(
        subject=subject,
        data=_read(subject, headers, body),
        seq=seq,
        time=time,
        id=headers.get(CE_ID, ""),
        source=headers.get(CE_SOURCE, ""),
        cause=int(cause) if cause.isascii() and cause.isdigit() and len(cause) < 19 else None,
        headers=headers,
    )


def decode_output(output: Output) -> tuple[Subject, EventData | Unreadable]:
    """Return subject and data of one listed output. Raises `InvalidInputError` for a subject that is not ours."""
    subject = parse(output.subject)
    newer = _newer(subject.kind, output.version or 1)
    return subject, newer or _validate(subject.kind, output.data)


def _read(subject: Subject, headers: Mapping[str, str], body: bytes) -> EventData | Unreadable:
    version = _TYPE.fullmatch(headers.get(CE_TYPE, ""))
    newer = _newer(subject.kind, int(version[1])) if version else None
    return newer or _validate(subject.kind, body)


def _newer(kind: str, version: int) -> NewerVersion | None:
    known = EVENTS[kind].schema_version
    if version <= known:
        return None
    return NewerVersion(
        f"{kind} was written by a newer Motet, in version {version}, and this one reads up to {known}: "
        "upgrade this agent, then `motet dead retry`",
        version,
    )


def _validate(kind: str, data: bytes | Mapping[str, object]) -> EventData | Unreadable:
    contract = EVENTS[kind]
    try:
        if isinstance(data, bytes):
            if len(data) > _COUNTED_FROM and sum(map(data.count, _PUNCTUATION)) > MOST_VALUES:
                return Unreadable(f"{kind}: the body may hold more than {MOST_VALUES:,} values")
            return contract.model_validate_json(data, context=_READING, extra="ignore")
        return contract.model_validate(data, strict=False, context=_READING, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        return Unreadable(f"{kind}: {place}: {first['msg']} ({error.error_count()} problem(s) in all)")
    except RecursionError:
        return Unreadable(f"{kind}: the body is nested too deeply")
