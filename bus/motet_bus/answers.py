"""What the server answers, in our words: replies, stored messages, publish acknowledgements, errors by their code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, NoReturn, cast

from motet_schemas.errors import (
    BusUnavailableError,
    BusUnsuitableError,
    ConflictError,
    InvalidInputError,
    MotetError,
    NotFoundError,
)

_WRONG_LAST_SEQUENCE: Final = 10071
_UNDECIDED: Final = frozenset({10158, 10164})
_NO_JETSTREAM: Final = frozenset({10039, 10076})
_NOT_FOUND: Final = frozenset({10014, 10037, 10059})
_TOO_LARGE: Final = 10054
_STORAGE_FULL: Final = frozenset({10002, 10023, 10028, 10047, 10077})
_TOO_FEW_NODES: Final = 10005
_ONE_NODE: Final = 10074
_NO_LEADER: Final = frozenset({10009, 10041, 10118, 10119})
_WRONG_STREAM_SETTINGS: Final = frozenset({10052, 10065, 10188, 10212})

NAME_IN_USE: Final = frozenset({10013, 10058, 10105, 10148})
"""Codes of "there is one already, with other settings", for streams and for consumers."""


class ClosedError(MotetError):
    """This end was closed or stopped; nothing more comes from it."""

    code: ClassVar[str] = "closed"


class ServerRefusedError(MotetError):
    """The server refused for a reason that has no class of its own. `err_code` is JetStream's code (0: unknown)."""

    code: ClassVar[str] = "server_refused"

    def __init__(self, message: str, *, err_code: int = 0) -> None:
        super().__init__(message)
        self.err_code = err_code


class UndecidedError(BusUnavailableError):
    """A message under the same fence or id is on its way to the replicas and may yet fail: ask again."""

    code: ClassVar[str] = "undecided"


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came in on a plain subscription. `reply` is empty when no answer is wanted."""

    subject: str
    headers: Mapping[str, str]
    body: bytes
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to a request. `status` is the server's inline status (404, 503, …), 0 for an ordinary message."""

    headers: Mapping[str, str]
    body: bytes
    status: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class PubAck:
    """The server stored the message in `stream` at sequence `seq`; `duplicate`: its message id was known already."""

    stream: str
    seq: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message read back from a stream; `time` is when the server stored it (aware, UTC, whole microseconds)."""

    subject: str
    headers: Mapping[str, str]
    body: bytes
    seq: int
    time: datetime
    left: int = field(default=0, compare=False, repr=False)


def json_object(body: bytes, source: str) -> dict[str, Any]:
    """Parse an answer that must be a JSON object. Raises `BusUnavailableError` for anything else."""
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise BusUnavailableError(f"{source} answered something that is not a JSON object: {body[:120]!r}")
    return cast("dict[str, Any]", parsed)


def read_puback(reply: Reply, subject: str) -> PubAck:
    """Turn the answer to a publish on `subject` into a `PubAck`, or raise what the refusal means."""
    if reply.status == 503:
        raise BusUnavailableError(
            f"no stream stores {subject}: the server is still starting, or the streams were never created "
            "(`motet up` or `motet run` creates them)"
        )
    answer = json_object(reply.body, f"the publish on {subject}")
    if "error" in answer:
        raise_server_error(answer["error"], f"publish on {subject}")
    stream, seq = answer.get("stream"), answer.get("seq")
    if not isinstance(stream, str) or not isinstance(seq, int):
        raise BusUnavailableError(f"the publish on {subject} was answered without stream and sequence: {answer}")
    return PubAck(stream, seq, answer.get("duplicate") is True)


def read_stored(reply: Reply) -> StoredMessage | None:
    """Return the stored message that a direct get answered with, None when the answer is a bare status.

    Raises `BusUnavailableError` for numbers or a time that are none. The server appends its own headers behind the
    stored ones and the last of a name counts, so that a stored message cannot lie about its subject or sequence.
    """
    headers = reply.headers
    subject, seq, stamp = headers.get("Nats-Subject"), headers.get("Nats-Sequence"), headers.get("Nats-Time-Stamp")
    if subject is None or seq is None or stamp is None:
        return None
    own = {name: value for name, value in headers.items() if name not in _DIRECT_HEADERS}
    left = headers.get("Nats-Num-Pending", "0")
    try:
        return StoredMessage(subject, own, reply.body, int(seq), server_time(stamp), int(left))
    except (ValueError, OverflowError) as error:
        raise BusUnavailableError(f"a read was answered with what is no stored message: {error}") from error


_DIRECT_HEADERS: Final = frozenset(
    {"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"}
)


def server_time(stamp: str) -> datetime:
    """Parse a time of the server (RFC 3339, up to nanoseconds) into an aware UTC time, cut to microseconds."""
    return datetime.fromisoformat(stamp).astimezone(UTC)


def raise_server_error(error: object, act: str) -> NoReturn:
    """Raise what JetStream's `error` object (`code`, `err_code`, `description`) means for `act`."""
    details = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    code, err_code = _whole(details.get("code")), _whole(details.get("err_code"))
    text = f"{act}: {details.get('description', error)} (NATS error {err_code})"
    if err_code in _UNDECIDED:
        raise UndecidedError(text)
    if err_code == _WRONG_LAST_SEQUENCE:
        last = str(details.get("description", "")).rpartition(": ")[2]
        raise ConflictError(text, last_sequence=int(last) if last.isdecimal() else None)
    if err_code in _NOT_FOUND:
        raise NotFoundError(text)
    if err_code in _NO_JETSTREAM:
        raise BusUnsuitableError(f"{text}; enable JetStream for the server and for this account")
    if err_code == _TOO_LARGE:
        raise InvalidInputError(f"{text}; large bodies belong in the object store", field="body")
    if err_code in _STORAGE_FULL:
        raise BusUnavailableError(f"{text}; the server has no room to store more: free disk space or raise its limits")
    if err_code in _WRONG_STREAM_SETTINGS:
        raise BusUnsuitableError(text)
    if err_code == _ONE_NODE:
        raise BusUnsuitableError(f"{text}; this server is no cluster: set replicas (MOTET_REPLICAS) to 1")
    if err_code == _TOO_FEW_NODES:
        raise BusUnavailableError(f"{text}; start the other nodes of the cluster, or ask for fewer replicas")
    if code == 503 or err_code in _NO_LEADER:
        raise BusUnavailableError(text)
    raise ServerRefusedError(text, err_code=err_code)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
