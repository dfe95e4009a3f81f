"""Sets up the OpenTelemetry SDK for one process. Without an endpoint nothing is imported and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from motet_schemas import InvalidInputError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from motet_observability.span_spool import SpanSpool

log = structlog.get_logger(__name__)

Protocol = Literal["http/protobuf", "grpc"]
Compression = Literal["gzip", "deflate", "none"]

_TIMEOUT_S: Final = 5.0
_ATTRIBUTE_LENGTH: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceExport:
    """Where spans go and how: `endpoint` is the whole address, for example `http://127.0.0.1:4318/v1/traces`.

    `ratio` is the share of conversations that are traced, from 0 to 1. In the folder `spool` unsent spans outlive a
    process that is killed; whoever starts there next sends them. Headers and certificates come from the SDK's own
    `OTEL_EXPORTER_OTLP_…` variables.
    """

    endpoint: str
    protocol: Protocol = "http/protobuf"
    compression: Compression = "gzip"
    ratio: float = 1.0
    timeout_s: float = _TIMEOUT_S
    schedule_delay_ms: int = 1_000
    queue: int = 8_192
    attribute_length: int = _ATTRIBUTE_LENGTH
    spool: Path | None = None


@dataclass(frozen=True, slots=True)
class Tracing:
    """What was set up. None of the functions takes 2 s, whatever the collector does."""

    flush: Callable[[], None]
    """Sends what is there."""
    finish: Callable[[], None]
    """Sends what is left, and ends; call it at the end of the process."""
    recover: Callable[[Path], None]
    """Sends what killed processes left in a spool."""


def set_up_tracing(service: str, export: TraceExport | None, *, instance: str = "") -> Tracing:
    """Export this process's spans, until the end of the process. `service` becomes `service.name`.

    Without an `export` nothing is done. Raises `InvalidInputError` when the exporter is not installed.
    """
    if export is None:
        return Tracing(_nothing, _nothing, _nothing)
    from opentelemetry import trace

    provider, tracing = provider_for(service, export, instance=instance)
    trace.set_tracer_provider(provider)
    log.info("tracing.started", service=service, protocol=export.protocol, ratio=export.ratio)
    return tracing


def provider_for(service: str, export: TraceExport, *, instance: str = "") -> tuple[TracerProvider, Tracing]:
    """Return a provider that exports, and how to end it; `set_up_tracing` makes it that of the process."""
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    from motet_observability.export_health import ExportHealth, take_sdk_log
    from motet_observability.resource import resource_of
    from motet_observability.span_export import PATIENCE_S, BoundedExport
    from motet_observability.span_ids import DerivedIds, by_conversation

    resource = resource_of(service, instance)
    spool = _spool(export, resource)
    bounded = BoundedExport(_exporter(export), ExportHealth("tracing", export.endpoint), take_sdk_log(), spool)
    provider = TracerProvider(
        resource=resource,
        sampler=by_conversation(export.ratio),
        id_generator=DerivedIds(),
        span_limits=SpanLimits(max_span_attribute_length=export.attribute_length),
        shutdown_on_exit=False,
    )
    if spool is not None and export.spool is not None:
        bounded.recover(export.spool, export.endpoint)
        provider.add_span_processor(spool)
    provider.add_span_processor(bounded.processor(export.schedule_delay_ms, export.queue))
    return provider, Tracing(
        flush=lambda: bounded.flush(provider),
        finish=lambda: bounded.finish(provider),
        recover=lambda folder: bounded.recover(folder, export.endpoint).join(PATIENCE_S),
    )


def _spool(export: TraceExport, resource: Resource) -> SpanSpool | None:
    if export.spool is None:
        return None
    from motet_observability.span_spool import SpanSpool

    try:
        return SpanSpool(export.spool, export.endpoint, resource, most=2 * export.queue)
    except OSError as error:
        raise InvalidInputError(
            f"span_spool: cannot use {export.spool}: {error.strerror}; name another folder (MOTET_SPAN_SPOOL)",
            field="span_spool",
            value=str(export.spool),
        ) from error


def _exporter(export: TraceExport) -> SpanExporter:
    try:
        return _grpc(export) if export.protocol == "grpc" else _http(export)
    except ImportError as error:
        raise InvalidInputError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: {export.protocol} needs {error.name}; `pip install 'motet[grpc]'` brings it",
            field="OTEL_EXPORTER_OTLP_PROTOCOL",
            value=export.protocol,
        ) from error


def _http(export: TraceExport) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        endpoint=export.endpoint, timeout=export.timeout_s, compression=HttpCompression(export.compression)
    )


def _grpc(export: TraceExport) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    kinds: Any = import_module("grpc").Compression
    named = {"gzip": kinds.Gzip, "deflate": kinds.Deflate, "none": kinds.NoCompression}
    return OTLPSpanExporter(endpoint=export.endpoint, timeout=export.timeout_s, compression=named[export.compression])


def _nothing(*_: object) -> None:
    """Do nothing: there is no exporter."""
