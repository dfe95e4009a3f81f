"""How long to wait before trying again: doubling, with jitter, up to a bound."""

from __future__ import annotations

import random

_MOST_DOUBLINGS = 20


class Backoff:
    """Waits in seconds: the n-th is `first_s` times 2ⁿ⁻¹, at most `longest_s`; a random half or more of that."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def next_s(self) -> float:
        """Return the next wait, in seconds, and count one more failure."""
        wait_s = backoff_s(self._failures, self._first_s, self._longest_s)
        self._failures += 1
        return wait_s

    def reset(self) -> None:
        """Start anew with the first wait: it worked."""
        self._failures = 0


def backoff_s(failures: int, first_s: float, longest_s: float) -> float:
    """Return the wait after `failures` failures before this one (0: the first wait)."""
    full_s = min(first_s * 2.0 ** min(failures, _MOST_DOUBLINGS), longest_s)
    return full_s * random.uniform(0.5, 1.0)  # noqa: S311
