"""Spans that no handler runs in: a conversation's root, and the wait for a human; and the links of a fan-in.

Their ids are derived and their times are those of the events, so that one told twice is the same span.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext
from opentelemetry.util.types import AttributeValue

from motet_bus import conventions as names
from motet_bus import tracing
from motet_bus.trace_context import (
    belongs_to,
    context_of,
    from_headers,
    parse,
    root_context,
    wait_span_id,
    wanting,
)
from motet_schemas import Conversation, EscalateRaised, Event, Fact, StepReady
from motet_schemas.envelope import CALLER

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_REMEMBERED: Final = 10_000
_ENDS: Final = frozenset({"task.completed", "task.failed"})


class Landmarks:
    """Emits each landmark once in this process, and only while a span is recorded; a repeat elsewhere is the same."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[int, int], None] = OrderedDict()

    def root(self, submitted: Event) -> None:
        """Emit the root span of a conversation, given its `task.submitted`; it ends at once."""
        conversation, kind = submitted.subject.conversation, submitted.subject.detail[0]
        self._emit(
            f"{names.INVOKE_WORKFLOW} {kind}",
            root_context(conversation),
            {
                names.GEN_AI_OPERATION: names.INVOKE_WORKFLOW,
                names.GEN_AI_WORKFLOW_NAME: kind,
                names.GEN_AI_CONVERSATION_ID: conversation,
                names.CONVERSATION_ID: conversation,
            },
            parent=None,
            links=[Link(caller, {names.LINK: names.CALLER}) for caller in _callers(submitted)],
            times=(submitted.time, submitted.time),
        )

    def wait(self, raised: Event, until: datetime, decision: str) -> None:
        """Emit the span of a question that is over, from when it was asked; `decision` is what came of it."""
        conversation, number = raised.subject.conversation, raised.subject.number
        self._emit(
            names.WAIT_FOR_HUMAN,
            context_of(conversation, wait_span_id(conversation, number)),
            {
                names.CONVERSATION_ID: conversation,
                names.QUESTION: number,
                names.QUESTION_REASON: raised.data.reason if isinstance(raised.data, EscalateRaised) else "unreadable",
                names.DECISION: decision,
            },
            parent=tracing.parent_of(raised),
            links=(),
            times=(raised.time, max(until, raised.time)),
        )

    def _emit(
        self,
        name: str,
        context: SpanContext,
        attributes: dict[str, AttributeValue],
        *,
        parent: SpanContext | None,
        links: Iterable[Link],
        times: tuple[datetime, datetime],
    ) -> None:
        key = (context.trace_id, context.span_id)
        if not tracing.is_traced() or key in self._told:
            return
        self._told[key] = None
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        with wanting(lambda: context):
            span = tracing.tracer().start_span(
                name,
                context=Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context()),
                attributes=attributes,
                links=list(links),
                start_time=_nanoseconds(times[0]),
            )
        span.end(_nanoseconds(times[1]))


def link_fan_in(traceparents: Iterable[str]) -> None:
    """Link the current span to the others that what it decides rests on; the trigger is its parent already."""
    span = trace.get_current_span()
    for context in map(parse, traceparents):
        if context is not None:
            span.add_link(context, {names.LINK: names.FAN_IN})


def joined_steps(state: Conversation, facts: Iterable[Fact], trigger: Event) -> set[str]:
    """Return the steps whose verdicts these facts rest on, but for the one that the trigger speaks of."""
    steps = state.plan.steps if state.plan is not None else ()
    joined: set[str] = set()
    for fact in facts:
        if isinstance(fact.data, StepReady):
            joined |= set(fact.data.step.depends_on)
        elif fact.subject.kind in _ENDS:
            joined |= {step.id for step in steps}
    return joined - ({trigger.subject.step} if trigger.subject.family == "verify" else set())


def _callers(event: Event) -> list[SpanContext]:
    """Return the spans outside of the conversation in which it was submitted, by our client or by any other."""
    found = (parse(event.headers.get(CALLER, "")), from_headers(event.headers))
    return [one for one in found if one is not None and not belongs_to(one, event.subject.conversation)]


def _nanoseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1) * 1_000
