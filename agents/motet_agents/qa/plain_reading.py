"""Reads plain text: paragraphs, list items, and the addresses that stand in them."""

from __future__ import annotations

import re

from motet_agents.qa.bare_urls import find_bare_urls
from motet_agents.qa.passages import Passage
from motet_agents.qa.reading import Reading, ReadingBuilder

_BREAK = re.compile(r"(?>\r\n?|\n)(?:(?:[^\S\r\n]*+(?>\r\n?|\n))++|(?=[^\S\r\n]*(?:[-*+•]|\d{1,3}[.)])[^\S\r\n]))")


def read_plain(text: str) -> Reading:
    """Return what a reader of `text` meets. A blank line and a list mark begin a new block."""
    out = ReadingBuilder()
    add_plain(Passage(text), out)
    return out.build()


def add_plain(passage: Passage, out: ReadingBuilder) -> None:
    """Add all of `passage` to `out` as text without markup."""
    text, start = passage.text, 0
    for line_end in _BREAK.finditer(text):
        _add_block(passage, start, line_end.start(), out)
        start = line_end.end()
    _add_block(passage, start, len(text), out)


def _add_block(passage: Passage, start: int, end: int, out: ReadingBuilder) -> None:
    if start == end:
        return
    for url in find_bare_urls(passage.text, start, end, entities=False):
        passage.pour(start, url.start, out.prose)
        origin, after = passage.span(url.start, url.end)
        out.prose.gap(origin, after - origin)
        out.add_link(origin, after, url.target, passage.text[url.start : url.end], "bare")
        start = url.end
    passage.pour(start, end, out.prose)
    out.prose.end_block(passage.locate(end - 1) + 1)
