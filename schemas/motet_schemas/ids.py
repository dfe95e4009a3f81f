"""Identifiers that are safe as one token of a NATS subject: `[A-Za-z0-9_-]{1,64}`."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from pydantic import StringConstraints

from motet_schemas.errors import InvalidInputError
from motet_schemas.printing import cut

TOKEN_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"  # noqa: S105
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")

Token = Annotated[str, StringConstraints(pattern=TOKEN_PATTERN)]
"""A string that may stand in a subject: 1 to 64 letters, digits, `_` or `-`."""


def check_token(value: str, field: str) -> str:
    """Return `value` if it may stand in a subject.

    Raises `InvalidInputError`, naming `field`, for anything else: a dot or a wildcard would change what is addressed.
    """
    if not _TOKEN.fullmatch(value):
        raise InvalidInputError(
            f"{field}: {cut(value, 80)!r} cannot be part of a subject; use 1 to 64 letters, digits, '_' or '-' "
            "(no dots, no wildcards, no spaces)",
            field=field,
            value=value,
            rule=TOKEN_PATTERN,
        )
    return value


def new_id(prefix: str = "") -> str:
    """Return a fresh identifier of 96 random bits, with an optional prefix: `c-3f0a…`."""
    body = secrets.token_hex(12)
    return f"{prefix}-{body}" if prefix else body
