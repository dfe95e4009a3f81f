"""Exit statuses, and how an error meets a user: one clear line, never a stack trace."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from motet_schemas.errors import MotetError

COMPLETED: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
WAITING: Final = 3
UNREACHABLE: Final = 4
SIGNALLED: Final = 128
_LONGEST_MESSAGE: Final = 4_000

_BY_STATUS: Final = {"completed": COMPLETED, "failed": FAILED, "cancelled": FAILED, "waiting": WAITING}


class Interrupted(BaseException):
    """A signal asked this process to stop; what it had started has been stopped."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def status_of(conversation_status: str) -> int:
    """Return the exit status that stands for a conversation's status; one that still runs counts as completed."""
    return _BY_STATUS.get(conversation_status, COMPLETED)


def exit_status(error: MotetError) -> int:
    """Return the exit status that stands for an error."""
    from motet_schemas.errors import (
        BusUnavailableError,
        BusUnsuitableError,
        ConflictError,
        InvalidInputError,
        NotAllowedError,
        NotFoundError,
    )

    if isinstance(error, InvalidInputError | NotFoundError | ConflictError):
        return BAD_INPUT
    if isinstance(error, BusUnavailableError | BusUnsuitableError | NotAllowedError):
        return UNREACHABLE
    return FAILED


def report_error(message: str, *, code: str, as_json: bool, **details: Any) -> None:
    """Say what went wrong on standard error; as JSON, also on standard output. What others wrote is cut and tamed."""
    from motet_schemas.printing import cut, printable

    message = printable(cut(message, _LONGEST_MESSAGE))
    if as_json:
        known = {
            name: cut(value, _LONGEST_MESSAGE) if isinstance(value, str) else value
            for name, value in details.items()
            if value is not None
        }
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message, **known}}) + "\n")
        sys.stdout.flush()
    sys.stderr.write(f"motet: {message}\n")


def save_traceback(error: BaseException) -> Path | None:
    """Write the stack trace of an unexpected error to a private file; its path, or None when that is impossible."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="motet-error-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return Path(name)
