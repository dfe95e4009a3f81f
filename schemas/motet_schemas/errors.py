"""Every error that Motet raises on purpose.

An error carries data, says whether the same act may succeed later, and tells the reader what to do next.
`Failure` is its form on the wire.
"""

from __future__ import annotations

from typing import ClassVar


class MotetError(Exception):
    """Base of all errors of Motet.

    `code` is stable and meant for machines; the message is meant for people and says what to do next.
    `retryable` says whether the same act may succeed later without anybody changing anything;
    `retry_after_s`, in seconds, is a hint when it is.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidInputError(MotetError):
    """Something a caller wrote breaks a rule: names the field, the value and the rule."""

    code = "invalid_input"

    def __init__(
        self, message: str, *, field: str | None = None, value: object = None, rule: str | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.rule = rule


class ConflictError(MotetError):
    """Somebody else recorded the fact first, or the decision was made on what is no longer so.

    `last_sequence` is the stream sequence the server found instead, where it said so.
    """

    code = "conflict"

    def __init__(self, message: str, *, last_sequence: int | None = None) -> None:
        super().__init__(message)
        self.last_sequence = last_sequence


class BusUnavailableError(MotetError):
    """The bus could not be reached, or did not answer in time."""

    code = "bus_unavailable"
    retryable = True


class BusUnsuitableError(MotetError):
    """The server answers, but cannot carry Motet: too old, no JetStream, or a stream that somebody changed."""

    code = "bus_unsuitable"


class NotAllowedError(MotetError):
    """This role may not say that, here or on the server."""

    code = "not_allowed"


class NewerVersionError(MotetError):
    """A newer Motet wrote it, in a major version that this process cannot read; one that was upgraded can."""

    code = "newer_version"
    retryable = True


class NotFoundError(MotetError):
    """No such conversation, escalation, object or dead letter."""

    code = "not_found"


class PermanentError(MotetError):
    """For handlers: trying again cannot help; the message goes to the dead letters and a human is asked."""

    code = "permanent"


class TransientError(MotetError):
    """For handlers: trying again later may help."""

    code = "transient"
    retryable = True
