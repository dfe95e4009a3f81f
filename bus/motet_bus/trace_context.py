"""Ids that anybody can derive, and trace contexts as W3C headers carry them.

A conversation's trace id and root span id follow from its id; the span of one delivery follows from what is delivered.
So a link, a report or a redelivery can name a span that another process made, or that nobody has seen yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Final

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from motet_schemas.envelope import TRACEPARENT, TRACESTATE

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


def trace_id(conversation: str) -> str:
    """Return the id of a conversation's trace: 32 hex digits, derived, so that it is known before any span is."""
    return f"{_ids(conversation)[0]:032x}"


def root_span_id(conversation: str) -> str:
    """Return the id of the trace's root span: 16 hex digits."""
    return f"{_ids(conversation)[1]:016x}"


@lru_cache(maxsize=4_096)
def _ids(conversation: str) -> tuple[int, int]:
    """Return the ids of a trace and of its root span."""
    digest = hashlib.sha256(conversation.encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


def wait_span_id(conversation: str, question: int | str) -> int:
    """Return the id of the span that stands for waiting for the answer to a question."""
    return derived_span_id("wait", conversation, question)


def derived_span_id(*parts: str | int) -> int:
    """Return the id of the span that `parts` describe, the same wherever it is asked for."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def context_of(conversation: str, span_id: int) -> SpanContext:
    """Return the context of a span of a conversation's trace."""
    return SpanContext(_ids(conversation)[0], span_id, is_remote=True, trace_flags=_SAMPLED)


def root_context(conversation: str) -> SpanContext:
    """Return the context of a conversation's root span."""
    return context_of(conversation, _ids(conversation)[1])


def belongs_to(context: SpanContext | None, conversation: str) -> bool:
    """Say whether a context is part of a conversation's trace."""
    return context is not None and context.is_valid and context.trace_id == _ids(conversation)[0]


def traceparent(context: SpanContext) -> str:
    """Return the context as a W3C `traceparent`."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"


def to_headers(context: SpanContext) -> dict[str, str]:
    """Return the headers by which the context travels."""
    headers = {TRACEPARENT: traceparent(context)}
    if context.trace_state:
        headers[TRACESTATE] = context.trace_state.to_header()
    return headers


def from_headers(headers: Mapping[str, str]) -> SpanContext | None:
    """Return the context that headers carry, None when there is none or it is broken."""
    return parse(headers.get(TRACEPARENT, ""), headers.get(TRACESTATE, ""))


def parse(parent: str, state: str = "") -> SpanContext | None:
    """Return the context that a W3C `traceparent` names, None when it is empty or broken."""
    parts = parent.strip().split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2] or (parts[0] == "00" and len(parts) > 4):
        return None
    try:
        version, trace_number, span_number, flags = (int(part, 16) for part in parts[:4])
    except ValueError:
        return None
    if version == 0xFF:
        return None
    kept = TraceState.from_header([state]) if state else None
    context = SpanContext(trace_number, span_number, is_remote=True, trace_flags=TraceFlags(flags), trace_state=kept)
    return context if context.is_valid else None


class WantedIds:
    """The ids that the next span shall have. Whoever makes ids for the SDK takes them, and says so in `taken`."""

    __slots__ = ("_make", "taken")

    def __init__(self, make: Callable[[], SpanContext]) -> None:
        self._make = make
        self.taken = False

    def peek(self) -> SpanContext:
        """Return a context with the trace id and the span id."""
        return self._make()

    def take(self) -> SpanContext:
        """Return the same, and say that the span gets it."""
        self.taken = True
        return self._make()


_WANTED: Final[ContextVar[WantedIds | None]] = ContextVar("motet_wanted_ids", default=None)


@contextmanager
def wanting(make: Callable[[], SpanContext]) -> Generator[WantedIds]:
    """Ask for these ids for the span that is started next; `make` is called only when there is an SDK."""
    wanted = WantedIds(make)
    token = _WANTED.set(wanted)
    try:
        yield wanted
    finally:
        _WANTED.reset(token)


def wanted_ids() -> WantedIds | None:
    """Return the ids that the span being started shall have, None when any will do."""
    return _WANTED.get()
