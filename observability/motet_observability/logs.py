"""Log lines on standard error: for people, or as JSON for machines.

A line has a stable action (`consumer.retry`, `claim.lost`, …) and its context as keywords.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, Literal, TextIO

import structlog

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

_LEVELS: Final[dict[LogLevel, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up_logs(level: LogLevel, form: LogFormat) -> None:
    """Send the log lines of this process, from `level` on, to standard error."""
    # Tracebacks without local variables: those may hold drafts, prompts and secrets.
    render: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    stack: list[Any] = []
    if form == "json":
        render = structlog.processors.JSONRenderer(default=str)
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        stack = [structlog.processors.ExceptionRenderer(frames)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *stack,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_to_stderr,
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Looks standard error up at every line, so that a live table can move out of the way."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _to_stderr(*_: Any) -> structlog.WriteLogger:
    target: Any = _StandardError()
    file: TextIO = target
    return structlog.WriteLogger(file)
