"""What is said of an export that fails: one line when it begins, one a minute while it lasts, one when it is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Final

import structlog

from motet_bus.instruments import TELEMETRY_LOST
from motet_bus.meter import counter, labels
from motet_bus.redaction import redact

log = structlog.get_logger(__name__)

_lost = counter(TELEMETRY_LOST)

EVERY_S: Final = 60.0
_OF_EXPORTERS: Final = ("opentelemetry.exporter.", "opentelemetry.sdk._shared_internal")
_LONGEST: Final = 300


class ExportHealth:
    """Counts what one exporter could not send. Its lines bear the `action` of a signal: `tracing.export_failed`, …"""

    def __init__(self, signal: str, endpoint: str, *, clock: Callable[[], float] = monotonic) -> None:
        self._signal = signal
        self._endpoint = redact(endpoint)
        self._clock = clock
        self._lock = Lock()
        self._lost = 0
        self._told_at: float | None = None
        _lost.add(0, labels(("signal", signal)))

    @property
    def failing(self) -> bool:
        """Whether the last export failed."""
        return self._told_at is not None

    def sent(self) -> None:
        """An export succeeded."""
        with self._lock:
            if self._told_at is None:
                return
            lost, self._lost, self._told_at = self._lost, 0, None
        log.info(f"{self._signal}.export_resumed", endpoint=self._endpoint, lost=lost)

    def failed(self, items: int, reason: str) -> None:
        """An export of so many items failed, and they are lost."""
        _lost.add(items, labels(("signal", self._signal)))
        with self._lock:
            self._lost += items
            now = self._clock()
            if self._told_at is not None and now - self._told_at < EVERY_S:
                return
            self._told_at, lost = now, self._lost
        log.warning(
            f"{self._signal}.export_failed", endpoint=self._endpoint, lost=lost, error=redact(reason)[:_LONGEST]
        )


class SdkLog(logging.Handler):
    """Takes what OpenTelemetry's SDK logs: what exporters say becomes a reason, the rest at most a line a minute."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._told: dict[str, float] = {}
        self.reason = ""
        """What an exporter said last."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        said = record.getMessage()
        if record.name.startswith(_OF_EXPORTERS) and "Queue full" not in said:
            self.reason = said
            return
        now, place = self._clock(), f"{record.name} {record.msg}"
        if now - self._told.get(place, -EVERY_S) < EVERY_S:
            return
        self._told[place] = now
        log.warning("telemetry.sdk", logger=record.name, message=redact(said)[:_LONGEST])


def take_sdk_log() -> SdkLog:
    """Have everything that the SDK logs in this process taken by one handler, and return it."""
    logger = logging.getLogger("opentelemetry")
    known = next((handler for handler in logger.handlers if isinstance(handler, SdkLog)), None)
    if known is not None:
        return known
    handler = SdkLog()
    logger.addHandler(handler)
    logger.propagate = False
    return handler
