"""One trace for one conversation: a span for each handled event, whose context rides on what it records.

Uses the OpenTelemetry API alone; without an SDK a span costs next to nothing and the context still travels.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from motet_bus import conventions as names
from motet_bus import log_context
from motet_bus.delivery import Delivery
from motet_bus.outcome import Outcome
from motet_bus.trace_context import (
    belongs_to,
    context_of,
    derived_span_id,
    from_headers,
    root_context,
    to_headers,
    traceparent,
    wait_span_id,
    wanting,
)
from motet_schemas import Event, StepReady, Subject
from motet_schemas.envelope import CALLER

_TRACER: Final = trace.get_tracer("motet")
_OF_STEPS: Final = frozenset({"step", "verify"})
_ENDS: Final = frozenset({"task.completed", "task.failed", "task.cancelled"})


@contextmanager
def consuming(event: Event, delivery: Delivery, *, consumer: str, epoch: str = "") -> Generator[Span]:
    """Run the handling of one event inside a span that is a child of whoever recorded the event.

    `epoch` names whoever counts the deliveries. A later delivery is a span of its own with the same parent, and a link
    to the one before. Log lines of this task name the event and the span from now on.
    """
    conversation = event.subject.conversation

    def context(deliveries: int) -> SpanContext:
        said = (epoch, consumer, event.seq, event.id, delivery.letter, deliveries)
        return context_of(conversation, derived_span_id("delivery", *said))

    with wanting(lambda: context(delivery.deliveries)) as wanted:
        span = _TRACER.start_span(
            f"{names.PROCESS} {event.kind}",
            context=trace.set_span_in_context(NonRecordingSpan(parent_of(event)), Context()),
            kind=SpanKind.CONSUMER,
        )
    if span.is_recording():
        span.set_attributes(_described(event.subject, names.PROCESS, names.PROCESS))
        span.set_attributes(_delivered(event, delivery, consumer))
        if delivery.deliveries > 1 and wanted.taken:
            span.add_link(context(delivery.deliveries - 1), {names.LINK: names.PREVIOUS_DELIVERY})
    log_context.bind(event, span, consumer=consumer, deliveries=delivery.deliveries)
    with _within(span):
        yield span


def hand_back(span: Span) -> None:
    """Say on the span that the message was handed back, which is no failure."""
    span.set_attribute(names.HANDED_BACK, True)


@contextmanager
def publishing(subject: Subject, *, every_hop: bool = False) -> Generator[dict[str, str]]:
    """Yield the headers by which the trace goes on with what is recorded on `subject`.

    What is recorded while an event of the same conversation is handled continues that event's span; the conversation's
    end, and with `every_hop` everything, has a PRODUCER span of its own. What is recorded elsewhere comes in by a door:
    that is always a PRODUCER span, with links between it and the span of the caller, if there is one.
    """
    current = trace.get_current_span()
    context = current.get_span_context()
    inside = belongs_to(context, subject.conversation)
    if inside and not every_hop and subject.kind not in _ENDS:
        yield to_headers(context)
        return
    parent = context if inside else door_parent(subject)
    caller = context if context.is_valid and not inside else None
    span = _TRACER.start_span(
        f"{names.PUBLISH} {subject.kind}",
        context=trace.set_span_in_context(NonRecordingSpan(parent), Context()),
        kind=SpanKind.PRODUCER,
        links=() if caller is None else (Link(caller, {names.LINK: names.CALLER}),),
    )
    if span.is_recording():
        span.set_attributes(_described(subject, names.PUBLISH, names.SEND))
    headers = to_headers(span.get_span_context() if span.get_span_context().is_valid else parent)
    if caller is not None:
        current.add_link(root_context(subject.conversation), {names.LINK: names.CONVERSATION_ROOT})
        headers[CALLER] = traceparent(caller)
    with _within(span):
        yield headers


@contextmanager
def invoking(agent: str, instance: str, event: Event, ready: StepReady) -> Generator[Span]:
    """Run an agent's handler of a step inside a span; tell its outcome with `tell_outcome`."""
    span = _TRACER.start_span(f"{names.INVOKE_AGENT} {agent}", kind=SpanKind.INTERNAL)
    if span.is_recording():
        span.set_attributes(
            {
                names.GEN_AI_OPERATION: names.INVOKE_AGENT,
                names.GEN_AI_AGENT_NAME: agent,
                names.GEN_AI_AGENT_ID: instance,
                names.GEN_AI_CONVERSATION_ID: event.subject.conversation,
                names.CAPABILITY: ready.step.capability,
                names.STEP: event.subject.step,
                names.ATTEMPT: event.subject.number,
            }
        )
    with _within(span):
        yield span


def tell_outcome(span: Span, outcome: Outcome) -> None:
    """Say on the span what came of a step: status, confidence, model and usage, and nothing of its content."""
    if not span.is_recording():
        return
    said = {
        names.OUTCOME: outcome.status,
        names.CONFIDENCE: outcome.confidence,
        names.GEN_AI_RESPONSE_MODEL: outcome.model,
        names.GEN_AI_INPUT_TOKENS: outcome.usage.tokens_in,
        names.GEN_AI_OUTPUT_TOKENS: outcome.usage.tokens_out,
    }
    span.set_attributes({name: value for name, value in said.items() if value is not None})


def tracer() -> Tracer:
    """Return the tracer of all spans of Motet."""
    return _TRACER


def is_traced() -> bool:
    """Say whether a span is being recorded here, so that finding out what to say on it is worth while."""
    return trace.get_current_span().is_recording()


def door_parent(subject: Subject) -> SpanContext:
    """Return what a fact follows from that nobody's handling records: the question, or the conversation's root."""
    if subject.kind == "escalate.answered":
        return context_of(subject.conversation, wait_span_id(subject.conversation, subject.number))
    return root_context(subject.conversation)


@contextmanager
def _within(span: Span) -> Generator[None]:
    # An exception's words may quote a draft or a prompt: a span names its class and nothing more.
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except Exception as error:
            if span.is_recording():
                span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
            raise


def _described(subject: Subject, operation: str, kind: str) -> dict[str, str | int]:
    said: dict[str, str | int] = {
        names.SYSTEM: names.NATS,
        names.OPERATION_NAME: operation,
        names.OPERATION_TYPE: kind,
        names.DESTINATION_NAME: str(subject),
        names.DESTINATION_TEMPLATE: subject.kind,
        names.CONVERSATION_ID: subject.conversation,
    }
    if subject.family in _OF_STEPS:
        said |= {names.STEP: subject.step, names.ATTEMPT: subject.number}
    return said


def _delivered(event: Event, delivery: Delivery, consumer: str) -> Mapping[str, str | int]:
    said: dict[str, str | int] = {
        names.MESSAGE_ID: event.id,
        names.CONSUMER_GROUP: consumer,
        names.SEQUENCE: event.seq,
        names.DELIVERIES: delivery.deliveries,
    }
    if event.cause is not None:
        said[names.CAUSE] = event.cause
    if delivery.retry is not None:
        said[names.RETRY] = delivery.retry.sequence
    return said


def parent_of(event: Event) -> SpanContext:
    """Return the span that recorded an event; a foreign trace must not take the conversation with it."""
    recorded = from_headers(event.headers)
    conversation = event.subject.conversation
    return recorded if recorded is not None and belongs_to(recorded, conversation) else door_parent(event.subject)
