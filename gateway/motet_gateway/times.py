"""Moments as people write them: a length of time from now, or a date with a time."""

from __future__ import annotations

from datetime import UTC, datetime

from motet_gateway.archiving import parse_span
from motet_schemas import InvalidInputError


def moment(text: str, option: str, now: datetime, *, ahead: bool = False) -> datetime:
    """Return the moment that `2h` (ago, or `ahead` of `now`) or `2026-12-01T12:00Z` names; UTC where no zone is said.

    Raises `InvalidInputError` that names the option.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            span = parse_span(text, option)
            return now + span if ahead else now - span
        except (InvalidInputError, OverflowError):
            raise InvalidInputError(
                f"{option}: {text!r} is neither a length of time (30m, 2h, 7d) nor a time (2026-12-01T12:00:00Z)",
                field=option,
                value=text,
            ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
