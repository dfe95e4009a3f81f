"""How often each message has failed in this process, and since when. Bounded: the oldest are forgotten."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_KEPT: Final = 10_000


class Tries:
    """Counts the failures of messages by their sequence."""

    def __init__(self) -> None:
        self._failures: dict[int, tuple[int, datetime]] = {}

    def failed(self, sequence: int) -> int:
        """Count one more failure of a message; return how many there were."""
        count, since = self._failures.pop(sequence, (0, datetime.now(UTC)))
        self._failures[sequence] = (count + 1, since)
        if len(self._failures) > _KEPT:
            self._failures.pop(next(iter(self._failures)))
        return count + 1

    def first_at(self, sequence: int) -> datetime | None:
        """Return when a message failed here for the first time, None when it has not."""
        known = self._failures.get(sequence)
        return None if known is None else known[1]

    def forget(self, sequence: int) -> None:
        """Forget a message that is settled."""
        self._failures.pop(sequence, None)
