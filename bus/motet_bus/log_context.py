"""What every log line says that is written while an event is handled: which conversation, step, attempt and span."""

from __future__ import annotations

from typing import Final

import structlog
from opentelemetry.trace import Span

from motet_bus.trace_context import trace_id
from motet_schemas import Event

log = structlog.get_logger(__name__)

_NUMBERED: Final = frozenset({"step", "verify"})
_NAMES: Final = ("conversation", "step", "attempt", "trace_id", "span_id")


def bind(event: Event, span: Span, *, consumer: str, deliveries: int) -> None:
    """Bind an event and the span that handles it to the log lines of this task and of all that it starts.

    The first of them says so, at level debug: nothing else is logged of an event that meets no trouble.
    """
    subject = event.subject
    known: dict[str, str | int] = {"conversation": subject.conversation, "trace_id": trace_id(subject.conversation)}
    if subject.family in _NUMBERED:
        known |= {"step": subject.step, "attempt": subject.number}
    if span.is_recording():
        known["span_id"] = f"{span.get_span_context().span_id:016x}"
    structlog.contextvars.unbind_contextvars(*(name for name in _NAMES if name not in known))
    structlog.contextvars.bind_contextvars(**known)
    log.debug("event.handling", kind=event.kind, seq=event.seq, consumer=consumer, deliveries=deliveries)
