"""What a killed process could not send: its spans, kept in a file until a collector has them, told by its successor.

A span is written when it begins and when it ends. Whoever starts next on the same folder sends what a dead process left
behind: what had ended as it was, what had not with the error `process_killed`. So no span that others name as their
parent is missing. A kill between sending and crossing off makes a span told twice, word for word.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

log = structlog.get_logger(__name__)

KILLED: Final = "process_killed"
_COMPACT_BYTES: Final = 256 * 1024
_TOO_OLD_S: Final = 86_400.0
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)

Send = Callable[[Sequence[ReadableSpan]], bool]


class SpanSpool(SpanProcessor):
    """Keeps the spans of this process, at most `most` of them, in a file of its own under `folder`."""

    def __init__(self, folder: Path, endpoint: str, resource: Resource, *, most: int) -> None:
        """Raises `OSError` when the folder cannot be used."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._most = most
        self._lock = Lock()
        self._kept: dict[int, bytes] = {}
        self._head = _line({"resource": dict(resource.attributes)})
        self._path = folder / f"{_prefix(endpoint)}-{os.getpid()}-{secrets.token_hex(4)}.spans"
        self._file = _locked(self._path, self._head)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Keep what is known of a span that begins."""
        self._keep(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the whole span."""
        self._keep(span)

    def _keep(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        line = _line(_said(span, context))
        with self._lock:
            if self._file < 0:
                return
            self._kept[context.span_id] = line
            if len(self._kept) > self._most:
                self._kept.pop(next(iter(self._kept)))
            self._write(line)

    def settled(self, spans: Iterable[ReadableSpan]) -> None:
        """These were sent, or given up: forget them."""
        with self._lock:
            for span in spans:
                if span.context is not None:
                    self._kept.pop(span.context.span_id, None)
            if self._file >= 0 and (not self._kept or os.fstat(self._file).st_size > _COMPACT_BYTES):
                self._compact()

    def shutdown(self) -> None:
        """Go on: what is queued is sent only now. `close` comes last."""

    def close(self) -> None:
        """End in good order: whoever could send its last spans needs no file."""
        with self._lock:
            if self._file >= 0:
                self._path.unlink(missing_ok=True)
                os.close(self._file)
                self._file = -1

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is buffered: the system keeps what is written, also when this process is killed."""
        return True

    def _compact(self) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        file = _locked(fresh, self._head + b"".join(self._kept.values()))
        fresh.replace(self._path)
        os.close(self._file)
        self._file = file

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._file, line)
        except OSError as error:
            log.warning("tracing.spool_failed", path=str(self._path), error=error.strerror)
            os.close(self._file)
            self._file = -1


def recover(folder: Path, endpoint: str, send: Send) -> int:
    """Send what dead processes left in `folder` for the collector at `endpoint`; return how many spans that were."""
    recovered = 0
    for path in sorted(folder.glob(f"{_prefix(endpoint)}-*.spans*")):
        if (file := _abandoned(path)) is None:
            continue
        try:
            spans = _read(path)
            if not spans or send(spans):
                path.unlink(missing_ok=True)
                recovered += len(spans)
            elif time.time() - path.stat().st_mtime > _TOO_OLD_S:
                path.unlink(missing_ok=True)
        finally:
            os.close(file)
    if recovered:
        log.info("tracing.recovered", spans=recovered)
    return recovered


def _prefix(endpoint: str) -> str:
    return hashlib.sha256(endpoint.encode()).hexdigest()[:16]


def _locked(path: Path, content: bytes) -> int:
    """Make a file that is locked for as long as this process lives."""
    file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(file, content)
    return file


def _abandoned(path: Path) -> int | None:
    """Open and lock a file whose process is dead; None when it lives, or when somebody else takes it."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    if not path.exists():  # whoever held the lock has sent it
        os.close(file)
        return None
    return file


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":"), default=str).encode() + b"\n"


def _said(span: ReadableSpan, context: SpanContext) -> dict[str, Any]:
    return {
        "trace": context.trace_id,
        "id": context.span_id,
        "parent": None if span.parent is None else span.parent.span_id,
        "name": span.name,
        "kind": span.kind.value,
        "start": span.start_time,
        "end": span.end_time,
        "error": span.status.status_code is StatusCode.ERROR,
        "attributes": dict(span.attributes or {}),
        "links": [[link.context.trace_id, link.context.span_id, dict(link.attributes or {})] for link in span.links],
    }


def _read(path: Path) -> list[ReadableSpan]:
    """Return the spans of a file, each as it was last written; a last line that was cut short does not count."""
    resource, spans = Resource.get_empty(), dict[int, dict[str, Any]]()
    for line in path.read_bytes().splitlines():
        try:
            said = json.loads(line)
            if "resource" in said:
                resource = Resource(said["resource"])
            else:
                spans[said["id"]] = said
        except (ValueError, KeyError, TypeError):
            log.warning("tracing.spool_unreadable", path=str(path))
    died = path.stat().st_mtime_ns
    return [_span(said, resource, died) for said in spans.values()]


def _span(said: dict[str, Any], resource: Resource, died: int) -> ReadableSpan:
    cut = said["end"] is None
    attributes = said["attributes"] | ({"error.type": KILLED} if cut else {})
    return ReadableSpan(
        name=said["name"],
        context=_context(said["trace"], said["id"]),
        parent=None if said["parent"] is None else _context(said["trace"], said["parent"]),
        resource=resource,
        attributes=attributes,
        links=[Link(_context(link_trace, link_id), given) for link_trace, link_id, given in said["links"]],
        kind=SpanKind(said["kind"]),
        instrumentation_scope=None,
        status=Status(StatusCode.ERROR if cut or said["error"] else StatusCode.UNSET),
        start_time=said["start"],
        end_time=max(died, said["start"]) if cut else said["end"],
    )


def _context(trace_id: int, span_id: int) -> trace.SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)
