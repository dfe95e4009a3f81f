"""One trace for one conversation: ids that anybody can derive, and the context that rides on every message.

Uses the OpenTelemetry API alone; without an SDK a span costs next to nothing and the context still travels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from motet_schemas import Event
from motet_schemas.envelope import TRACEPARENT

_TRACER: Final = trace.get_tracer("motet")
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


def trace_id(conversation: str) -> str:
    """Return the id of a conversation's trace: 32 hex digits, derived, so that it is known before any span is."""
    return hashlib.sha256(conversation.encode()).hexdigest()[:32]


def root_span_id(conversation: str) -> str:
    """Return the id of the trace's root span: 16 hex digits."""
    return hashlib.sha256(conversation.encode()).hexdigest()[32:48]


def outgoing(conversation: str) -> dict[str, str]:
    """Return the header that makes the next hop a child of the current span, or of the conversation's root."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid and f"{context.trace_id:032x}" == trace_id(conversation):
        return {TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"}
    return {TRACEPARENT: f"00-{trace_id(conversation)}-{root_span_id(conversation)}-01"}


@contextmanager
def consuming(event: Event, *, consumer: str, deliveries: int) -> Generator[Span]:
    """Run the handling of one event inside a span that is a child of whoever recorded the event."""
    attributes: dict[str, str | int] = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.destination.template": event.kind,
        "messaging.message.conversation_id": event.subject.conversation,
        "messaging.consumer.group.name": consumer,
        "motet.stream.sequence": event.seq,
        "motet.deliveries": deliveries,
    }
    # An exception's words may quote a draft or a prompt: a span names its class and nothing more.
    with _TRACER.start_as_current_span(
        f"process {event.kind}",
        context=_parent(event),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def _parent(event: Event) -> Context:
    conversation = event.subject.conversation
    parent = _parse(event.headers)
    if parent is None or f"{parent.trace_id:032x}" != trace_id(conversation):
        parent = _root(conversation)  # a foreign trace on a message must not take the conversation with it
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())


def _root(conversation: str) -> SpanContext:
    return SpanContext(
        int(trace_id(conversation), 16), int(root_span_id(conversation), 16), is_remote=True, trace_flags=_SAMPLED
    )


def _parse(headers: Mapping[str, str]) -> SpanContext | None:
    parts = headers.get(TRACEPARENT, "").split("-")
    if len(parts) != 4 or [len(part) for part in parts] != [2, 32, 16, 2]:
        return None
    try:
        trace_number, span_number, flags = (int(part, 16) for part in parts[1:])
    except ValueError:
        return None
    context = SpanContext(trace_number, span_number, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None
