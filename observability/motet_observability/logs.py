"""Log lines on standard error: for people, or as JSON for machines.

A line has a stable action (`consumer.retry`, `claim.lost`, …) and its context as keywords. Secrets are taken out of
every line, whoever wrote it; what other libraries log comes out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

from motet_observability.log_redaction import redact_line
from motet_schemas.printing import printable

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
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _explain_errors(form),
            redact_line,
            _render(form),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_to_stderr,
        cache_logger_on_first_use=True,
    )
    _take_other_libraries(max(_LEVELS[level], logging.WARNING))


def _explain_errors(form: LogFormat) -> Any:
    """Return what turns an exception into text, without local variables: those may hold drafts, prompts and secrets."""
    if form == "json":
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return structlog.processors.ExceptionRenderer(frames)
    return structlog.processors.format_exc_info


def _render(form: LogFormat) -> Any:
    if form == "json":
        return structlog.processors.JSONRenderer(default=str)
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )

    def render(logger: Any, name: str, line: MutableMapping[str, Any]) -> str:
        return console(logger, name, {key: _tamed(value) for key, value in line.items()})

    return render


def _tamed(value: object) -> object:
    """Return a value of a line as it may reach a terminal: what an outsider wrote must not command it."""
    return printable(value) if isinstance(value, str) else value


class _OtherLibraries(logging.Handler):
    """Passes on what is logged by Python's own means."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line with the action `library.logged`."""
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: the words alone, then
            said = str(record.msg)
        log = structlog.get_logger(record.name)
        log.log(record.levelno, "library.logged", logger=record.name, message=said, exc_info=record.exc_info or None)


def _take_other_libraries(level: int) -> None:
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _OtherLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_OtherLibraries(level))


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
