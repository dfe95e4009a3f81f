"""Which ids spans get, and which traces are kept: both follow from the conversation, so that all processes agree."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

from motet_bus.trace_context import wanted_ids

_REMEMBERED: Final = 10_000


class DerivedIds(RandomIdGenerator):
    """Takes the ids that the bus wants for a span, each of them once, and makes random ones for all others."""

    def __init__(self) -> None:
        self._used: OrderedDict[int, None] = OrderedDict()

    def generate_span_id(self) -> int:
        """Return the wanted span id; a random one when there is none, or when a span of this process has it."""
        wanted = wanted_ids()
        if wanted is None or (span_id := wanted.peek().span_id) in self._used:
            return super().generate_span_id()
        self._used[span_id] = None
        if len(self._used) > _REMEMBERED:
            self._used.popitem(last=False)
        return wanted.take().span_id

    def generate_trace_id(self) -> int:
        """Return the wanted trace id; a random one when there is none."""
        wanted = wanted_ids()
        return super().generate_trace_id() if wanted is None else wanted.peek().trace_id


def by_conversation(ratio: float) -> Sampler:
    """Return a sampler that keeps this share of the conversations, each of them as a whole or not at all.

    What a remote parent says of sampling does not count: the trace id is derived, so every process that is given the
    same ratio comes to the same answer, also when a conversation was submitted by somebody without tracing.
    """
    kept = TraceIdRatioBased(ratio)
    return ParentBased(kept, remote_parent_sampled=kept, remote_parent_not_sampled=kept)
