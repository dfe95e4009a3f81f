"""What the doctor says of one thing: how it stands, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from motet_schemas import MotetError, NotAllowedError

Status = Literal["ok", "warn", "fail", "unknown"]
"""`unknown`: these credentials, or this machine, cannot see it."""

_OTHER_CREDENTIALS: Final = "let the doctor use an operator's credentials, which may see everything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one thing, and what to do when it is not well."""

    name: str
    status: Status
    found: str
    advice: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return it as `motet doctor --json` shows it."""
        return asdict(self)


async def attempted(name: str, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """Return what `look` finds; that it was not allowed, or could not be done, is a finding, too."""
    try:
        return await look()
    except NotAllowedError as error:
        return [Finding(name=name, status="unknown", found=error.message, advice=_OTHER_CREDENTIALS)]
    except MotetError as error:
        advice = "look again; when it stays, look at the server's log" if error.retryable else "see the message"
        return [Finding(name=name, status="fail", found=error.message, advice=advice)]
