"""Keeps secrets out of log lines: by the name of what is logged, and by what a secret looks like in any text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, cast

from motet_bus.redaction import redact

REDACTED: Final = "***"

_SECRET_NAMES: Final = re.compile(
    r"pass(word|wd|phrase)|secret|authorization|api[-_]?key|nkey|seed|credential|private[-_]?key|cookie|"
    r"(^|[-_.])(token|auth|jwt|creds)$",
    re.IGNORECASE,
)
_SECRET_TEXTS: Final = re.compile(
    r"\bS[ACNOUX][A-Z2-7]{56}\b"  # the seed of an nkey
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]+)?"  # a JSON web token
    r"|\bsk-[\w-]{16,}"  # a key of a model's provider
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}|(?<=[Bb]asic )[\w+/=]{8,}"
    r"|(?<=-----BEGIN )[A-Z ]*PRIVATE KEY-----.*?(?:-----END|$)",
    re.DOTALL,
)
_ASSIGNED: Final = re.compile(
    r"(?i)\b(\w*(?:password|passwd|secret|api[-_]?key|access[-_]?token|auth[-_]?token)[\"']?\s*[=:]\s*)[\"']?[^\s\"',;&}]+"
)
_DEPTH: Final = 6


def redact_line(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return a log line without its secrets; a processor for structlog."""
    for name, value in line.items():
        if name not in ("event", "level", "timestamp"):
            line[name] = redacted(value, name)
        elif isinstance(value, str) and name == "event":
            line[name] = redact_text(value)
    return line


def redacted(value: Any, name: str = "", depth: int = 0) -> Any:
    """Return `value`, called `name`, without what is secret in it; what is nested too deeply is left out."""
    if value is None or isinstance(value, bool | int | float):
        # A number of tokens is none; a secret is never a number here, except under the name of one.
        return value if value is None or not _is_secret(name) else REDACTED
    if _is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if depth >= _DEPTH:
        return REDACTED
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {key: redacted(one, str(key), depth + 1) for key, one in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(one, "", depth + 1) for one in cast("Iterable[object]", value)]
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "replace"))
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """Return `text` without passwords of URLs, seeds, tokens and keys."""
    if "://" in text:
        text = redact(text)
    return _ASSIGNED.sub(rf"\g<1>{REDACTED}", _SECRET_TEXTS.sub(REDACTED, text))


def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None
