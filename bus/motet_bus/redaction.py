"""Keeps passwords out of what is recorded: an error's text may quote the address of whatever could not be reached."""

from __future__ import annotations

import re
from typing import Final

_USER_INFO: Final = re.compile(r"(?<=://)[^/?#\s'\"<>]+@")


def redact(text: str) -> str:
    """Return `text` without the user information of any URL in it."""
    return _USER_INFO.sub("***@", text)
