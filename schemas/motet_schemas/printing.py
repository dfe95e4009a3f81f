"""Text that others wrote, made fit for messages and terminals: short, and unable to command anything."""

from __future__ import annotations

import re
from typing import Final

COMMANDS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a cursor, turns the direction of writing, breaks a line unseen, or is half a character."""


def printable(text: str) -> str:
    """Return `text` with control and direction characters shown instead of sent; tabs and line feeds stay."""
    return COMMANDS.sub(_shown, text.replace("\r\n", "\n"))


def cut(text: str, limit: int) -> str:
    """Return `text` if it has at most `limit` characters, else its beginning and an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
