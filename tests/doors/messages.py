"""Puts hostile messages through the readers, in a process whose memory is measured."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from motet_schemas import Event, InvalidInputError, Unreadable, decode, event_type, fold_all
from motet_schemas.subjects import parse
from tests.doors.hostile import BODIES, HEADERS, subjects

_AT: Final = datetime(2026, 11, 21, tzinfo=UTC)


def read_all() -> dict[str, int]:
    """Read every hostile body under every kind of event, fold what comes of it; return what was read."""
    read: list[Event] = []
    count = 0
    for name in subjects("c"):
        try:
            subject = parse(name)
        except InvalidInputError:
            continue
        for body in BODIES:
            headers = HEADERS[count % len(HEADERS)]
            count += 1
            read.append(decode(subject, headers, body, seq=count, time=_AT))
    state = fold_all("c", read)
    return {
        "read": len(read),
        "unreadable": sum(isinstance(event.data, Unreadable) for event in read),
        "at": state.last_seq,
    }


def read_the_largest() -> dict[str, bool]:
    """Read bodies as large as the object store takes, made to take as much memory as they can."""
    size = 64 << 20
    said: dict[str, bool] = {}
    for name, filling in {"lists": b"[],", "objects": b"{},", "numbers": b"0,", "texts": b'"a",'}.items():
        body = b'{"kind": "x", "input": {"a": [' + filling * (size // len(filling)) + b"0]}}"
        data = decode(
            parse("task.submitted.c.x"), {"ce-type": event_type("task.submitted")}, body, seq=1, time=_AT
        ).data
        said[name] = isinstance(data, Unreadable)
    many = b'{"outputs": [' + b"{}," * 300_000 + b"{}]}"  # without an end to its problems, this took 10 s and 1 GiB
    record = decode(parse("handled.orchestrator.c.1"), {}, many, seq=1, time=_AT).data
    said["a million problems"] = isinstance(record, Unreadable) and "(3 problem" in record.reason
    text = json.dumps({"kind": "x", "input": {"a": "words and more. " * 1_000_000}}).encode()
    said["a long text"] = isinstance(decode(parse("task.submitted.c.x"), {}, text, seq=1, time=_AT).data, Unreadable)
    return said
