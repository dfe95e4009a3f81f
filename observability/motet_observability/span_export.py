"""An exporter that a collector can neither hang nor flood the log with, and that a process never waits for long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Final

import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from motet_observability.export_health import ExportHealth, SdkLog
from motet_observability.span_spool import SpanSpool, recover

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 1.5
"""How long the end of a process may wait for its last spans: with all else that is under 2 s."""
_BATCH: Final = 512


class BoundedExport(SpanExporter):
    """Passes batches on to `inner`, in the thread of the batch processor, and keeps the books of what was lost."""

    def __init__(
        self, inner: SpanExporter, health: ExportHealth, sdk_log: SdkLog, spool: SpanSpool | None = None
    ) -> None:
        self._inner = inner
        self._spool = spool
        self._health = health
        self._sdk_log = sdk_log
        self._closed = False

    def processor(self, schedule_delay_ms: int, queue: int) -> BatchSpanProcessor:
        """Return the processor that collects spans for this exporter."""
        return BatchSpanProcessor(
            self,
            max_queue_size=queue,
            schedule_delay_millis=schedule_delay_ms,
            max_export_batch_size=min(_BATCH, queue),
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch."""
        if self._closed:
            return SpanExportResult.FAILURE
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._health.sent()
        elif not self._closed:
            self._health.failed(len(spans), self._sdk_log.reason)
        if self._spool is not None and not self._closed:
            self._spool.settled(spans)
        return result

    def recover(self, folder: Path, endpoint: str) -> Thread:
        """Send what dead processes left in `folder`, in the thread that this returns."""

        def send(spans: Sequence[ReadableSpan]) -> bool:
            return self._inner.export(spans) is SpanExportResult.SUCCESS

        thread = Thread(target=recover, args=(folder, endpoint, send), name="tracing recovers", daemon=True)
        thread.start()
        return thread

    def shutdown(self) -> None:
        """Send nothing any more, and wake up whoever waits to try again."""
        if not self._closed:
            self._closed = True
            self._inner.shutdown()

    def flush(self, provider: TracerProvider) -> None:
        """Send what is there, within 1.5 s."""
        if not self._health.failing:
            self._bounded(provider.force_flush)

    def finish(self, provider: TracerProvider) -> None:
        """Send what is left, within 1.5 s, and end. From a collector that fails as it is nothing is waited for."""
        if self._health.failing:
            self.shutdown()
        self._bounded(provider.shutdown)
        self.shutdown()
        if self._spool is not None:
            self._spool.close()

    def _bounded(self, work: Callable[[], object]) -> None:
        # The SDK would wait for 30 s; what hangs is left behind with its thread.
        thread = Thread(target=work, name="tracing", daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        if thread.is_alive():
            log.warning("tracing.not_sent", waited_s=PATIENCE_S)
