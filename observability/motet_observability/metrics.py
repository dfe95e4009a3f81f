"""Sets up the metrics SDK for one process: one meter provider, read by Prometheus over HTTP, or sent by OTLP, or both.

When neither is asked for nothing is imported, and every instrument stays a no-op.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader

    from motet_observability.metric_export import BoundedMetricExport
    from motet_observability.scraping import MetricsServer

log = structlog.get_logger(__name__)

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricExport:
    """Where metrics go and how: `endpoint` is the whole address, for example `http://127.0.0.1:4318/v1/metrics`.

    A reading is sent every `every_ms`, and at the end. Headers and certificates come from the SDK's own variables.
    """

    endpoint: str
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    compression: Literal["gzip", "deflate", "none"] = "gzip"
    timeout_s: float = 5.0
    every_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was set up. `url` is where Prometheus can read, None when it cannot; call `finish` at the end."""

    url: str | None
    finish: Callable[[], None]
    """Sends what is left, and stops listening, within about 2 s."""


def set_up_metrics(
    service: str,
    *,
    export: MetricExport | None = None,
    port: int | None = None,
    host: str = LOOPBACK,
    instance: str = "",
) -> Metrics:
    """Show this process's metrics at `http://host:port/metrics`, and send them by OTLP.

    `port` 0 takes a free one, None shows nothing; `export` None sends nothing. Raises `InvalidInputError` when the port
    cannot be listened on, or the exporter is not installed.
    """
    if export is None and port is None:
        return Metrics(None, _nothing)
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider

    from motet_observability.resource import resource_of

    readers: list[MetricReader] = []
    server = None
    if port is not None:
        from motet_observability.scraping import MetricsServer

        server = MetricsServer(host, port)
        readers.append(server.reader)
    bounded = None
    if export is not None:
        from motet_observability.metric_export import sender

        bounded, reader = sender(export)
        readers.append(reader)
    provider = MeterProvider(readers, resource_of(service, instance), AlwaysOffExemplarFilter(), shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    url = None if server is None else server.start()
    log.info("metrics.started", service=service, url=url, sent=export is not None)
    return Metrics(url, lambda: _finish(provider, server, bounded))


def _finish(provider: MeterProvider, server: MetricsServer | None, bounded: BoundedMetricExport | None) -> None:
    if server is not None:
        server.stop()
    if bounded is None:
        provider.shutdown()
    else:
        bounded.finish(provider.shutdown)


def _nothing() -> None:
    """Do nothing: nobody reads."""
