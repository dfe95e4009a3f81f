"""Named points at which a test lets a process die; in production nothing happens there."""

from __future__ import annotations

from collections.abc import Callable

CrashPoint = Callable[[str], None]
"""Called with the name of the point that the process is passing."""


def no_crash(point: str) -> None:
    """Do nothing: the default."""
