"""Finds addresses that stand in running text without any markup, as GitHub's autolinks do."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

_ENDS = r"\s<>\[\]{}|\\^`\"\x00\ufffc“”‘’«»‹›„‚、。「」『』（）【】《》〈〉，：；！？…"
_BEGINNING = (
    r"(?<![A-Za-z0-9@/_.-])"
    rf"(?:(?:https?|ftp)://(?:\[[0-9A-Fa-f:.]+\]|[^{_ENDS}/?#:@.&])|www\.[\w-]+\.\w)"
)
_ESCAPED = r"\\([!#$*+.=_~-])"
_ADDRESS = re.compile(rf"{_BEGINNING}[^{_ENDS}]*+", re.IGNORECASE)
_ADDRESS_WITH_ESCAPES = re.compile(rf"{_BEGINNING}(?:[^{_ENDS}]|{_ESCAPED})*+", re.IGNORECASE)
_UNESCAPE = re.compile(_ESCAPED)
_CLOSING_ENTITY = re.compile(r"&(?:lt|gt|quot|nbsp|ldquo|rdquo|#34|#39|#60|#62|#x22|#x27|#x3c|#x3e);", re.IGNORECASE)
_LAST_ENTITY = re.compile(r"&[A-Za-z0-9#]{1,32};$")
_TRAILING = "?!.,:;*_~'\\"


@dataclass(frozen=True, slots=True)
class BareUrl:
    """`text[start:end]` is an address, and leads to `target`."""

    start: int
    end: int
    target: str


def find_bare_urls(text: str, start: int, end: int, *, entities: bool, escapes: bool = False) -> Iterator[BareUrl]:
    """Yield the addresses in `text[start:end]` in order.

    `entities` says whether `&amp;` stands for `&` there, `escapes` whether `\\_` stands for `_`.
    """
    pattern = _ADDRESS_WITH_ESCAPES if escapes else _ADDRESS
    position = start
    while match := pattern.search(text, position, end):
        address = _trim(match.group(), entities)
        position = match.start() + max(len(address), 1)
        if not address.lower().endswith(("://", "www")):
            target = html.unescape(address) if entities else address
            target = _UNESCAPE.sub(r"\1", target) if escapes else target
            yield BareUrl(match.start(), match.start() + len(address), _with_scheme(target))


def _with_scheme(target: str) -> str:
    return f"http://{target}" if target[:4].lower() == "www." else target


def _trim(address: str, entities: bool) -> str:
    """Leave off what belongs to the sentence: punctuation, and closing brackets that were not opened within."""
    if entities and (cut := _CLOSING_ENTITY.search(address)):
        address = address[: cut.start()]
    end = len(address)
    unopened = address.count(")") - address.count("(")
    while end:
        last = address[end - 1]
        if last == ")" and unopened > 0:
            unopened -= 1
        elif entities and last == ";" and (entity := _LAST_ENTITY.search(address, max(0, end - 35), end)):
            if html.unescape(entity.group())[-1].isalnum():
                break
            end = entity.start() + 1
        elif last not in _TRAILING:
            break
        end -= 1
    return address[:end]
