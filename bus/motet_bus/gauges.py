"""What an agent's metrics look up on the server while it runs: lag and pending acks, and who waits for a human."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from motet_bus import decision_metrics, metrics
from motet_bus import instruments as names
from motet_bus.bus import Bus
from motet_bus.census import Census, Waiting
from motet_bus.grants import GRANTS
from motet_bus.instruments import Instrument
from motet_bus.meter import Labels, labels, observe
from motet_bus.sampling import Sampled


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the server says of one consumer."""

    consumer: str
    pending: int
    unacknowledged: int


@asynccontextmanager
async def gauges(bus: Bus, consumers: Mapping[str, str | None]) -> AsyncGenerator[None]:
    """Let readers of metrics see these consumers and, for an orchestrator, the open questions of the whole bus.

    `consumers` names the capability that each serves, None for those that serve no steps.
    """
    for consumer, capability in consumers.items():
        metrics.zeros(consumer, capability, GRANTS[bus.role])
    undo: list[Callable[[], None]] = []
    backlog = Sampled("lag", lambda: _backlog(bus, list(consumers)))
    sampled: list[Sampled[list[Backlog]] | Sampled[Waiting]] = [backlog]
    undo += _show_backlog(backlog)
    if bus.role == "orchestrator":
        decision_metrics.zeros()
        waiting = Sampled("census", Census(bus).take)
        sampled.append(waiting)
        undo += _show_waiting(waiting)
    try:
        yield
    finally:
        for forget in undo:
            forget()
        await asyncio.gather(*(one.close() for one in sampled))


async def _backlog(bus: Bus, consumers: Sequence[str]) -> list[Backlog]:
    infos = await asyncio.gather(
        *(bus.link.api(f"CONSUMER.INFO.{bus.journal.stream}.{name}", {}) for name in consumers)
    )
    return [
        Backlog(name, int(info.get("num_pending", 0)), int(info.get("num_ack_pending", 0)))
        for name, info in zip(consumers, infos, strict=True)
    ]


def _show_backlog(sampled: Sampled[list[Backlog]]) -> Iterator[Callable[[], None]]:
    def told(one: Backlog) -> Labels:
        return labels((names.CONSUMER, one.consumer))

    yield observe(names.LAG, lambda: [(one.pending, told(one)) for one in sampled.read() or ()])
    yield observe(names.ACK_PENDING, lambda: [(one.unacknowledged, told(one)) for one in sampled.read() or ()])


def _show_waiting(sampled: Sampled[Waiting]) -> Iterator[Callable[[], None]]:
    def show(one: Instrument, values: Callable[[Waiting], Iterable[tuple[float, Labels]]]) -> Callable[[], None]:
        return observe(one, lambda: [] if (waiting := sampled.read()) is None else values(waiting))

    yield show(names.ESCALATIONS_PENDING, lambda waiting: _by_reason(waiting))
    yield show(names.ESCALATIONS_OVERDUE, lambda waiting: [(waiting.overdue, {})])
    yield show(names.ESCALATION_WAIT, lambda waiting: [(waiting.longest_s, {})])


def _by_reason(waiting: Waiting) -> Iterator[tuple[float, Labels]]:
    for reason, count in waiting.by_reason.items():
        yield count, labels(("reason", reason))
