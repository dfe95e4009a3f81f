"""Named points at which a test lets a process die; in production nothing happens there.

Every consumer passes `before the handler`, `before the ack` (all is committed) and `after the ack`; a handler that has
answered passes `after the handler`; a decision of several facts `between record and emit`, one of a single fact
`after the commit`; and every fact that is stored, and whose writer has not read that it is, the point `unread(kind)`.
"""

from __future__ import annotations

from collections.abc import Callable

CrashPoint = Callable[[str], None]
"""Called with the name of the point that the process is passing."""


def no_crash(point: str) -> None:
    """Do nothing: the default."""


def unread(kind: str) -> str:
    """Return the name of the point at which a fact of `kind` is stored and its acknowledgement is still unread."""
    return f"{kind} sent, its ack unread"
