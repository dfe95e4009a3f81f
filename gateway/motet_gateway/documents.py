"""The JSON documents that commands print: pure functions of what is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from motet_agents.orchestrator.document import (
    conversation_status,
    is_over,
    is_waiting,
    question_document,
    report_of,
    run_document,
)
from motet_bus import Summary
from motet_schemas import Event, Unreadable, event_type
from motet_schemas.envelope import CE_TYPE
from motet_schemas.events import EVENTS

__all__ = [
    "conversation_status",
    "event_documents",
    "is_over",
    "is_waiting",
    "question_document",
    "report_of",
    "run_document",
    "summary_document",
]


def event_documents(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return what `motet show --json` prints: the recorded facts in order."""
    return [_event_document(event) for event in events]


def summary_document(summary: Summary) -> dict[str, Any]:
    """Return one line of `motet list --json`."""
    return {
        "conversation_id": summary.conversation,
        "kind": summary.kind,
        "owner": summary.owner,
        "submitted_at": summary.submitted_at.isoformat(),
        "status": summary.status,
        "verdict": summary.verdict,
        "questions": summary.questions,
        "archived": summary.archived,
    }


def _event_document(event: Event) -> dict[str, Any]:
    unreadable = event.data.reason if isinstance(event.data, Unreadable) else None
    data = None if isinstance(event.data, Unreadable) else json.loads(event.data.model_dump_json())
    known = event_type(event.kind) if event.kind in EVENTS else None
    document = {
        "seq": event.seq,
        "subject": str(event.subject),
        "time": event.time.isoformat(),
        "type": event.headers.get(CE_TYPE) or known,
        "cause": event.cause,
        "source": event.source,
        "data": data,
    }
    return document if unreadable is None else {**document, "unreadable": unreadable}
