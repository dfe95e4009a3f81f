"""Recorded histories: what was once on a stream, line by line, and what it amounted to."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

from motet_schemas import Conversation, Event, Unreadable, decode
from motet_schemas.envelope import BODY_REFERENCE
from motet_schemas.standing import attempts_made, status
from motet_schemas.subjects import parse
from motet_schemas.task import Reference

FOLDER: Final = Path(__file__).parents[1] / "histories"


def line_of(event: Event, body: bytes) -> str:
    """Return one line of a history. A body that is no JSON object is kept as text."""
    text = body.decode("utf-8", errors="replace")
    try:
        data: object = json.loads(text)
    except ValueError:
        data = text
    fields: dict[str, object] = {
        "subject": str(event.subject),
        "seq": event.seq,
        "time": event.time.isoformat(),
        "headers": dict(event.headers),
        "data": cast("object", data) if isinstance(data, dict) else text,
    }
    return json.dumps(fields, ensure_ascii=False)


def read(path: Path) -> list[Event]:
    """Return the events of a history as today's code reads them."""
    events: list[Event] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields: dict[str, Any] = json.loads(line)
        data = fields["data"]
        body = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        if BODY_REFERENCE in fields["headers"]:
            body = _by_reference(body, fields["object"].encode())
        time = datetime.fromisoformat(fields["time"])
        events.append(decode(parse(fields["subject"]), fields["headers"], body, seq=fields["seq"], time=time))
    return events


def _by_reference(reference: bytes, body: bytes) -> bytes:
    """Return the body that the object store kept; it must be the one that the recorded reference names."""
    named = Reference.model_validate_json(reference, extra="ignore")
    assert (named.sha256, named.size_bytes) == (hashlib.sha256(body).hexdigest(), len(body))
    return body


def amounts_to(state: Conversation, events: list[Event]) -> dict[str, Any]:
    """Return what must never change about the reading of a history."""
    return {
        "status": status(state),
        "verdict": state.ending.report.verdict if state.ending else None,
        "last_seq": state.last_seq,
        "plan_revision": state.plan_revision,
        "attempts": {name: attempts_made(state, [name]) for name in sorted(state.attempts) if state.opened(name)},
        "lost_claims": sum(1 for name in state.attempts for one in state.opened(name) if one.lost is not None),
        "decisions": {str(number): one.decision for number, one in sorted(state.questions.items()) if one.raised},
        "letters": len(state.letters),
        "pending": sorted(state.pending),
        "unreadable": sorted(str(event.subject) for event in events if isinstance(event.data, Unreadable)),
    }
