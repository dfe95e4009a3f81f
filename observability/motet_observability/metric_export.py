"""An exporter of metrics that a collector can neither hang nor flood the log with. Import it where an SDK is set up."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import structlog
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)

from motet_observability.export_health import ExportHealth, SdkLog, take_sdk_log
from motet_schemas import InvalidInputError

if TYPE_CHECKING:
    from motet_observability.metrics import MetricExport

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 1.5


class BoundedMetricExport(MetricExporter):
    """Passes what is measured on to `inner`, in the reader's thread, and says once when that fails."""

    def __init__(self, inner: MetricExporter, health: ExportHealth, sdk_log: SdkLog) -> None:
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)  # pyright: ignore[reportPrivateUsage]
        self._inner: Any = inner
        self._health = health
        self._sdk_log = sdk_log
        self._closed = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Send one reading of all metrics."""
        if self._closed:
            return MetricExportResult.FAILURE
        result: MetricExportResult = self._inner.export(metrics_data, **kwargs)
        if result is MetricExportResult.SUCCESS:
            self._health.sent()
        elif not self._closed:
            self._health.failed(1, self._sdk_log.reason)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is kept here."""
        return bool(self._inner.force_flush(timeout_millis))

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Send nothing any more, and wake up whoever waits to try again."""
        if not self._closed:
            self._closed = True
            self._inner.shutdown()

    def finish(self, shutdown: Callable[[], object]) -> None:
        """Send a last reading by `shutdown`, within 1.5 s, and end. A collector that fails is not waited for."""
        if self._health.failing:
            self.shutdown()
        # The SDK would wait for 30 s; what hangs is left behind with its thread.
        thread = Thread(target=shutdown, name="metrics", daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        if thread.is_alive():
            log.warning("metrics.not_sent", waited_s=PATIENCE_S)
        self.shutdown()


def sender(export: MetricExport) -> tuple[BoundedMetricExport, PeriodicExportingMetricReader]:
    """Return an exporter and the reader that feeds it. Raises `InvalidInputError` when it is not installed."""
    try:
        inner = _grpc(export) if export.protocol == "grpc" else _http(export)
    except ImportError as error:
        raise InvalidInputError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: {export.protocol} needs {error.name}; `pip install 'motet[grpc]'` brings it",
            field="OTEL_EXPORTER_OTLP_PROTOCOL",
            value=export.protocol,
        ) from error
    bounded = BoundedMetricExport(inner, ExportHealth("metrics", export.endpoint), take_sdk_log())
    timeout_ms = export.timeout_s * 1_000
    return bounded, PeriodicExportingMetricReader(bounded, export.every_ms, timeout_ms)


def _http(export: MetricExport) -> MetricExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(
        endpoint=export.endpoint, timeout=export.timeout_s, compression=Compression(export.compression)
    )


def _grpc(export: MetricExport) -> MetricExporter:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    kinds: Any = import_module("grpc").Compression
    named = {"gzip": kinds.Gzip, "deflate": kinds.Deflate, "none": kinds.NoCompression}
    return OTLPMetricExporter(endpoint=export.endpoint, timeout=export.timeout_s, compression=named[export.compression])
