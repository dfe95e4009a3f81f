"""Sets up the OpenTelemetry SDK for one process. Without an endpoint nothing is imported and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger(__name__)

_SCHEDULE_DELAY_MS: Final = 1_000
_QUEUE: Final = 8_192
_EXPORT_TIMEOUT_S: Final = 2


def set_up_tracing(service: str, *, endpoint: str | None, instance: str = "") -> Callable[[], None]:
    """Export this process's spans to `endpoint` by OTLP over HTTP, for example `http://127.0.0.1:4318`.

    `service` becomes `service.name`. Returns a function that sends what is left, within about 2 s; call it at the end.
    With `endpoint` None it does nothing. The SDK's own `OTEL_*` variables (headers, sampler, …) keep their meaning.
    """
    if not endpoint:
        return _nothing
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(
        endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S, compression=Compression.Gzip
    )
    attributes = {"service.name": service, "service.namespace": "motet"}
    provider = TracerProvider(
        resource=Resource.create(attributes | ({"service.instance.id": instance} if instance else {})),
        span_limits=SpanLimits(max_attribute_length=4_096),
    )
    provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=_SCHEDULE_DELAY_MS, max_queue_size=_QUEUE)
    )
    trace.set_tracer_provider(provider)
    log.info("tracing.started", service=service)
    return lambda: _finish(provider)


def _finish(provider: TracerProvider) -> None:
    provider.force_flush(timeout_millis=_EXPORT_TIMEOUT_S * 1_000)
    provider.shutdown()


def _nothing() -> None:
    """Do nothing: there is no exporter."""
