"""Metrics of a process: where they are shown and sent, from its settings and OpenTelemetry's environment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from motet_gateway.trace_export import metric_export_from
from motet_observability import Metrics, set_up_metrics
from motet_schemas import InvalidInputError

if TYPE_CHECKING:
    from motet_bus.supervisor import Supervisor
    from motet_gateway.config import Settings

_LAST_PORT: Final = 65_535


def measure(service: str, settings: Settings, environ: Mapping[str, str], *, instance: str = "") -> Metrics:
    """Set metrics up for this process; nothing is imported when nobody is to read them.

    Raises `InvalidInputError` when the port of the settings cannot be listened on.
    """
    return set_up_metrics(
        service,
        export=metric_export_from(environ),
        port=settings.metrics_port,
        host=settings.metrics_host,
        instance=instance,
    )


def port_of_child(settings: Settings, position: int) -> int | None:
    """Return the port of the agent at `position` (from 0) under a process with these settings; 0 is a free one.

    Raises `InvalidInputError` when the ports do not suffice.
    """
    base = settings.metrics_port
    if base is None or base == 0:
        return base
    if (port := base + 1 + position) > _LAST_PORT:
        raise InvalidInputError(
            f"metrics_port: {base} leaves too few ports for the agents, which take the next ones",
            field="metrics_port",
            value=base,
        )
    return port


@asynccontextmanager
async def measured(
    settings: Settings, supervisor: Supervisor, environ: Mapping[str, str]
) -> AsyncGenerator[str | None]:
    """Show the metrics of a process that keeps agents running, when a port is set; yields their address."""
    if settings.metrics_port is None:
        yield None
        return
    from motet_bus.instruments import AGENT_RESTARTS, AGENTS
    from motet_bus.meter import Labels, labels, observe

    def states() -> Iterator[tuple[float, Labels]]:
        for state, count in Counter(child.state for child in supervisor.children).items():
            yield count, labels(("state", state))

    def restarts() -> Iterator[tuple[float, Labels]]:
        for child in supervisor.children:
            yield child.restarts, labels(("agent", child.name))

    metrics = measure("motet-up", settings, environ)
    undo = [observe(AGENTS, states), observe(AGENT_RESTARTS, restarts)]
    try:
        yield metrics.url
    finally:
        for forget in undo:
            forget()
        await asyncio.to_thread(metrics.finish)
