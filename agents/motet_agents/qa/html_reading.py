"""Reads HTML: a whole document, or what stands of it within Markdown."""

from __future__ import annotations

import html
import re
from dataclasses import replace

from motet_agents.qa.bare_urls import find_bare_urls
from motet_agents.qa.elements import BLOCKS, CODE, LINKING, REPLACED, VOID
from motet_agents.qa.markup import Attribute, Tag, Text, take_apart
from motet_agents.qa.passages import Passage
from motet_agents.qa.prose import BLOCK, GAP
from motet_agents.qa.reading import MAX_TEXT, Reading, ReadingBuilder

_ENTITY = re.compile(r"&(?:#[0-9]{1,8};?|#[xX][0-9A-Fa-f]{1,8};?|[A-Za-z][A-Za-z0-9]{1,31};?)")


class HtmlReader:
    """Follows tags and texts, and adds what they show to a reading."""

    def __init__(self, out: ReadingBuilder) -> None:
        self._out = out
        self._open: list[str] = []
        self._depth: dict[str, int] = {}
        self._code_depth = 0
        self._link_text: tuple[int, int] | None = None

    @property
    def in_code(self) -> bool:
        """Whether what comes next stands within code."""
        return self._code_depth > 0

    @property
    def in_link(self) -> bool:
        """Whether what comes next is the text of a link."""
        return self._depth.get("a", 0) > 0

    def read(self, passage: Passage) -> None:
        """Read all of `passage`."""
        for piece in take_apart(passage.text):
            if isinstance(piece, Tag):
                self.tag(piece, passage)
            else:
                self.text(piece, passage)

    def tag(self, tag: Tag, passage: Passage) -> None:
        """Take in one tag of `passage`."""
        origin = passage.locate(tag.start)
        if tag.name in BLOCKS:
            self._out.prose.end_block(origin)
        elif tag.name == "br":
            self._out.prose.add("\n", origin, 1)
        if tag.closing:
            if tag.name == "a":
                self._note_link_text()
            self._close(tag.name)
            return
        if tag.name in BLOCKS and tag.name != "hr" and self._depth.get("p") and self._open[-1] == "p":
            self._close("p")
        self._note_anchors(tag)
        if not self.in_code:
            self._note_links(tag, passage)
        if tag.name in REPLACED:
            self._out.prose.gap(origin, passage.locate(tag.end - 1) + 1 - origin)
        if tag.name not in VOID and not tag.self_closing:
            self._open.append(tag.name)
            self._depth[tag.name] = self._depth.get(tag.name, 0) + 1
            if tag.name in CODE:
                self._mark_code(origin, passage.locate(tag.end - 1) + 1)

    def text(self, text: Text, passage: Passage) -> None:
        """Take in one text of `passage`."""
        if self.in_code:
            return
        position = text.start
        for url in find_bare_urls(passage.text, text.start, text.end, entities=True):
            self._show(position, url.start, passage)
            start, end = passage.span(url.start, url.end)
            self._out.prose.gap(start, end - start)
            if not self.in_link:
                self._out.add_link(start, end, url.target, passage.text[url.start : url.end], "bare")
            position = url.end
        self._show(position, text.end, passage)

    def _show(self, start: int, end: int, passage: Passage) -> None:
        for match in _ENTITY.finditer(passage.text, start, end):
            decoded = html.unescape(match.group())
            if decoded == match.group():
                continue
            passage.pour(start, match.start(), self._out.prose)
            self._out.prose.add(decoded, passage.locate(match.start()), match.end() - match.start())
            start = match.end()
        passage.pour(start, end, self._out.prose)

    def _mark_code(self, start: int, end: int) -> None:
        if not self._code_depth:
            self._out.prose.gap(start, end - start)
        self._code_depth += 1

    def _close(self, name: str) -> None:
        """Close the innermost open element of that name, and with it all that was opened within."""
        if not self._depth.get(name):
            return
        while True:
            closed = self._open.pop()
            self._depth[closed] -= 1
            self._code_depth -= closed in CODE
            if closed == name:
                return

    def _note_anchors(self, tag: Tag) -> None:
        for name in ("id", "name") if tag.name == "a" else ("id",):
            if (anchor := tag.attributes.get(name)) and anchor.value:
                self._out.anchors.add(anchor.value)

    def _note_links(self, tag: Tag, passage: Passage) -> None:
        if tag.name == "base" and (base := tag.attributes.get("href")) and self._out.base is None:
            self._out.base = base.value.strip() or None
        attribute = tag.attributes.get(LINKING.get(tag.name, ""))
        if attribute and attribute.start < attribute.end:
            start, end = _without_padding(passage.text, attribute)
            if start < end:
                shown = tag.attributes.get("alt") or tag.attributes.get("title")
                self._out.add_link(*passage.span(start, end), attribute.value, shown.value if shown else "", "html")
                if tag.name == "a":
                    self._link_text = (len(self._out.links) - 1, self._out.prose.mark())

    def _note_link_text(self) -> None:
        """At the end of a link its text is known."""
        if self._link_text is not None:
            index, mark = self._link_text
            text = " ".join(self._out.prose.since(mark).replace(GAP, " ").replace(BLOCK, " ").split())[:MAX_TEXT]
            if text and index < len(self._out.links):
                self._out.links[index] = replace(self._out.links[index], text=text)
            self._link_text = None


def _without_padding(text: str, attribute: Attribute) -> tuple[int, int]:
    raw = text[attribute.start : attribute.end]
    return attribute.start + len(raw) - len(raw.lstrip()), attribute.end - (len(raw) - len(raw.rstrip()))


def read_html(text: str) -> Reading:
    """Return what a reader of the HTML document `text` meets."""
    out = ReadingBuilder()
    HtmlReader(out).read(Passage(text))
    out.prose.end_block(len(text))
    return out.build()
