"""A history that nobody lived through, handled again by the real tracing: each role exports what it would have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import opentelemetry.sdk.trace as sdk
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from motet_bus import tracing
from motet_bus.delivery import Delivery
from motet_bus.landmarks import Landmarks, link_fan_in
from motet_observability.resource import resource_of
from motet_observability.span_ids import DerivedIds
from motet_schemas import EscalateAnswered, EscalateRaised, Event, Unreadable
from motet_schemas.envelope import TRACEPARENT
from motet_schemas.events import EventData
from motet_schemas.subjects import parse

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
_LISTENS = {
    "orchestrator": {"task.submitted", "plan.created", "step.executed", "verify.passed", "verify.failed"}
    | {"escalate.answered", "timer.fired", "step.expired"},
    "planner": {"plan.requested"},
    "executor": {"step.ready"},
    "verifier": {"step.executed"},
}


@dataclass(frozen=True)
class Said:
    """One line of the history: when, what, by whom, while handling which earlier line (from 1), resting on which."""

    at: timedelta
    subject: str
    by: str
    cause: int | None = None
    rests_on: tuple[int, ...] = ()
    deliveries: int = 1
    """As which delivery its cause was handled; what an earlier one did was lost with its process."""


@dataclass
class MadeUp:
    """Plays a history. `clock` is what the SDK takes for the time while a span begins or ends."""

    endpoint: str
    patch: pytest.MonkeyPatch
    now: datetime = START
    _providers: dict[str, TracerProvider] = field(default_factory=dict[str, TracerProvider])
    _landmarks: Landmarks = field(default_factory=Landmarks)

    def play(self, history: list[Said]) -> list[Event]:
        """Have every event handled by all who listen to it; return the events with the contexts they were given."""
        self.patch.setattr(sdk, "time_ns", lambda: round(self.now.timestamp() * 1e6) * 1_000)
        said_while: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        for seq, line in enumerate(history, 1):
            if line.cause is not None:
                said_while[line.cause, line.by].append(seq)
        headers: dict[int, Mapping[str, str]] = {}
        events: list[Event] = []
        for seq, line in enumerate(history, 1):
            if line.cause is None:
                with self._as(line.by), self._at(START + line.at), tracing.publishing(parse(line.subject)) as given:
                    headers[seq] = given
            event = Event(parse(line.subject), _data(line), seq, START + line.at, id=f"id-{seq}", headers=headers[seq])
            events.append(event)
            for role in (role for role, kinds in _LISTENS.items() if event.kind in kinds):
                self._handle(role, events, said_while[seq, role], history, headers)
        for provider in self._providers.values():
            provider.shutdown()
        return events

    def _handle(
        self,
        role: str,
        events: list[Event],
        outputs: list[int],
        history: list[Said],
        headers: dict[int, Mapping[str, str]],
    ) -> None:
        event = events[-1]
        deliveries = max((history[seq - 1].deliveries for seq in outputs), default=1)
        with (
            self._as(role),
            self._at(event.time + timedelta(milliseconds=2)),
            tracing.consuming(event, _delivery(event, deliveries), consumer=role),
        ):
            if role == "orchestrator":
                self._tell(event, events)
            for seq in outputs:
                line = history[seq - 1]
                self.now = START + line.at
                link_fan_in(events[one - 1].headers[TRACEPARENT] for one in line.rests_on)
                with tracing.publishing(parse(line.subject)) as given:
                    headers[seq] = given

    def _tell(self, event: Event, events: list[Event]) -> None:
        if event.kind == "task.submitted":
            self._landmarks.root(event)
        elif isinstance(event.data, EscalateAnswered):
            raised = next(one for one in events if one.kind == "escalate.raised")
            self._landmarks.wait(raised, event.time, event.data.decision)

    @contextmanager
    def _as(self, role: str) -> Generator[None]:
        if role not in self._providers:
            provider = TracerProvider(resource=resource_of(f"motet-{role}"), id_generator=DerivedIds())
            provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{self.endpoint}/v1/traces")))
            self._providers[role] = provider
        self.patch.setattr(tracing, "_TRACER", self._providers[role].get_tracer("motet"))
        yield

    @contextmanager
    def _at(self, time: datetime) -> Generator[None]:
        before, self.now = self.now, time
        yield
        self.now = max(before, self.now)


def _data(line: Said) -> EventData | Unreadable:
    if line.subject.startswith("escalate.raised."):
        return EscalateRaised(
            reason="low_confidence", question="?", allowed_answers=("approve",), due_at=START, on_timeout="reject"
        )
    if line.subject.startswith("escalate.answered."):
        return EscalateAnswered(decision="approve", answered_by="somebody")
    return Unreadable("made up")


def _delivery(event: Event, deliveries: int) -> Delivery:
    nobody: Any = None
    reply = f"$JS.ACK.CONVERSATIONS.made-up.{deliveries}.{event.seq}.{event.seq}.0.0"
    return Delivery(nobody, str(event.subject), event.headers, b"", reply)
