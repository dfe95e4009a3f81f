"""Luck that can be repeated: the same words always fall the same way."""

from __future__ import annotations

import hashlib

_BYTES = 7


def chance(*words: str | int) -> float:
    """Return a number from 0 up to, not including, 1 that depends on the words alone."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return float(int.from_bytes(digest[:_BYTES]) / 2 ** (8 * _BYTES))
