"""Reads Markdown (CommonMark with GitHub's tables, strikethrough and autolinks).

markdown-it finds the blocks and the inline pieces; each is then traced back to its characters in the draft. What cannot
be traced, or costs too much, is read as plain text, markup and all: checked rather than hidden.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.helpers import parseLinkDestination
from markdown_it.token import Token
from markdown_it.utils import EnvType

from motet_agents.qa.html_reading import HtmlReader
from motet_agents.qa.markdown_inline import Piece, SpanInline, Steps, TooMuchMarkupError
from motet_agents.qa.markdown_lines import Lines
from motet_agents.qa.markup import read_tag
from motet_agents.qa.passages import Passage
from motet_agents.qa.plain_reading import add_plain
from motet_agents.qa.reading import LinkKind, Reading, ReadingBuilder

MAX_LINES: Final = 400_000
MAX_NESTING: Final = 100
_FRONT_MATTER = re.compile(
    r"\A(?P<fence>---|\+\+\+)[ \t]*(?:\r\n?|\n)(?P<body>.*?)(?<=[\r\n])(?P=fence)[ \t]*(?:\r\n?|\n|\Z)", re.DOTALL
)
_FRONT_LINE = re.compile(r"\s*$|\s+\S|#|-\s|\[|[\"']?[\w.-]+[\"']?\s*[:=](?:\s|$)|[\]}]")
_CUSTOM_ID = re.compile(r"[ \t]*\{#([\w:.-]+)[^{}]*\}$")
_CRUDE_LINK = re.compile(r"\]\(\s*<?([^\s()<>]{1,2000})")


def markdown(nesting: int) -> MarkdownIt:
    """Return the parser whose pages this module reads: HTML is kept, and no kind of link is refused.

    `nesting` is how deep it follows blocks; what is deeper it leaves out.
    """
    parser = MarkdownIt("commonmark", {"html": True, "maxNesting": nesting}).enable(["table", "strikethrough"])
    parser.validateLink = _any_link  # type: ignore[method-assign]
    return parser


def _any_link(url: str) -> bool:
    return True


def _as_written(url: str) -> str:
    return url


def read_markdown(text: str) -> Reading:
    """Return what a reader of the page that `text` becomes meets."""
    out = ReadingBuilder()
    start = front_matter_end(text)
    lines = Lines.of(text)
    first = bisect_right(lines.offsets, start) - 1
    filled = len(lines.texts) if len(lines.texts) <= MAX_LINES else sum(1 for line in lines.texts if line.strip())
    body = Passage(text[start:], (0,), (start,))
    if filled > MAX_LINES:
        _add_coarsely(body, out, f"more than {MAX_LINES:,} lines")
        return out.build()
    try:
        _MarkdownReader(lines, first, out).read()
    except TooMuchMarkupError:
        out = ReadingBuilder()
        _add_coarsely(body, out, "more markup than can be taken apart in reasonable time")
    except _TooDeepError:
        out = ReadingBuilder()
        _add_coarsely(body, out, f"blocks nested {MAX_NESTING} deep")
    return out.build()


def front_matter_end(text: str) -> int:
    """Return where the metadata at the head of a page ends; 0 when there is none."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return 0
    body = match["body"].splitlines()
    looks_like_data = bool(body) and bool(body[0].strip()) and all(_FRONT_LINE.match(line) for line in body)
    return match.end() if looks_like_data else 0


class _TooDeepError(Exception):
    """markdown-it leaves out blocks that are nested deeper than it follows."""


class _MarkdownReader:
    def __init__(self, lines: Lines, first: int, out: ReadingBuilder) -> None:
        self._lines = lines
        self._first = first
        self._out = out
        self._md = markdown(MAX_NESTING)
        self._md.normalizeLink = _as_written  # type: ignore[method-assign]
        self._inline = SpanInline(Steps())
        self._md.inline = self._inline
        self._env: EnvType = {}
        self._definitions: dict[str, tuple[int, int] | None] = {}

    def read(self) -> None:
        tokens: list[Token] = []
        source = "\n".join(self._lines.texts[self._first :])
        self._md.block.parse(source, self._md, self._env, tokens)
        position = 0
        while position < len(tokens):
            token = tokens[position]
            if token.level >= MAX_NESTING - 1:
                raise _TooDeepError
            if token.type == "tr_open":
                position = self._row(tokens, position)
            elif token.type == "inline":
                self._block(token, tokens[position - 1])
            elif token.type == "html_block":
                self._html(token)
            elif token.type in ("fence", "code_block"):
                self._out.prose.gap(self._lines.offsets[self._range(token)[0]], 0)
                self._end(token)
            position += 1

    def _range(self, token: Token) -> tuple[int, int]:
        first, after = token.map or [0, 0]
        return first + self._first, after + self._first

    def _end(self, token: Token) -> None:
        after = self._range(token)[1]
        offsets = self._lines.offsets
        self._out.prose.end_block(offsets[after] if after < len(offsets) else offsets[-1] + len(self._lines.texts[-1]))

    def _row(self, tokens: list[Token], position: int) -> int:
        """Read a table row that opens at `position`; return where it closes."""
        end = position
        while tokens[end].type != "tr_close":
            end += 1
        cells = [token for token in tokens[position:end] if token.type == "inline"]
        line = self._range(tokens[position])[0]
        passages = self._lines.align_row([cell.content for cell in cells], line)
        if any(passage is None for passage in passages):
            add_plain(self._lines.raw(line, line + 1), self._out)
            return end
        for passage in passages:
            if passage is not None:
                self._inline_content(passage)
                self._out.prose.end_block(passage.locate(len(passage.text)))
        return end

    def _block(self, token: Token, opening: Token) -> None:
        first, after = self._range(token)
        is_heading = opening.type == "heading_open"
        if is_heading and opening.markup.startswith("#"):
            passage = self._lines.align_heading(token.content, first) if token.content else Passage("")
        else:
            passage = self._lines.align(token.content, first, after)
        if passage is None:
            add_plain(self._lines.raw(first, after), self._out)
            return
        title = self._inline_content(passage)
        if is_heading:
            if custom := _CUSTOM_ID.search(passage.text):
                self._out.anchors.add(custom[1])
                title = _CUSTOM_ID.sub("", title)
            self._out.add_heading(title)
        self._end(token)

    def _html(self, token: Token) -> None:
        first, after = self._range(token)
        passage = self._lines.align(token.content, first, after)
        if passage is None:
            add_plain(self._lines.raw(first, after), self._out)
            return
        HtmlReader(self._out).read(passage)
        self._end(token)

    def _inline_content(self, passage: Passage) -> str:
        """Read a block's content; return what it shows, code included, as a heading's anchor is made of it."""
        shown: list[str] = []
        reader = HtmlReader(self._out)
        for piece in self._inline.pieces(passage.text, self._md, self._env):
            raw = passage.text[piece.start : piece.end]
            if piece.kind == "tag":
                if tag := read_tag(passage.text, piece.start, piece.end):
                    reader.tag(tag, passage)
            elif piece.kind == "code":
                shown.append(raw.strip("`"))
                self._out.prose.gap(passage.locate(piece.start), len(raw))
            elif reader.in_code:
                shown.append(raw if piece.kind == "text" else "")
            else:
                shown.append(self._piece(piece, passage, reader))
        return "".join(shown)

    def _piece(self, piece: Piece, passage: Passage, reader: HtmlReader) -> str:
        """Take in one piece that is neither tag nor code; return what it shows."""
        start, end = passage.span(piece.start, piece.end)
        match piece.kind:
            case "text":
                passage.pour(piece.start, piece.end, self._out.prose)
                return passage.text[piece.start : piece.end]
            case "shown":
                self._out.prose.add(piece.text, start, end - start)
                return piece.text
            case "url" | "autolink":
                inner = (start, end) if piece.kind == "url" else (start + 1, end - 1)
                self._out.prose.gap(start, end - start)
                if piece.kind == "autolink" or not (piece.info or reader.in_link):
                    kind: LinkKind = "bare" if piece.kind == "url" else "autolink"
                    self._out.add_link(*inner, piece.text, passage.text[piece.start : piece.end], kind)
                return passage.text[piece.start : piece.end].strip("<>")
            case _:
                if piece.kind == "image":
                    self._out.prose.gap(start, end - start)
                self._link(piece, passage)
                return ""

    def _link(self, piece: Piece, passage: Passage) -> None:
        label = passage.text[piece.start + (2 if piece.kind == "image" else 1) : piece.label_end]
        place = self._destination(passage.text, piece.label_end + 1, piece)
        if place is not None:
            start, end, target = place
            kind: LinkKind = "image" if piece.kind == "image" else "inline"
            self._out.add_link(*passage.span(start, end), target, label, kind)
            return
        place_of_use = passage.span(piece.start, piece.end)
        start, end = self._definition(piece.text) or place_of_use
        kind = "image" if piece.kind == "image" else "reference"
        self._out.add_link(start, end, piece.text, label, kind)

    def _destination(self, text: str, position: int, piece: Piece) -> tuple[int, int, str] | None:
        """Return where `(destination …)` stands and where it leads; None when the link is a reference."""
        if text[position : position + 1] != "(":
            return None
        position += 1
        while position < piece.end and text[position] in " \t\n":
            position += 1
        found = parseLinkDestination(text, position, piece.end)
        if not found.ok or found.str != piece.text:
            return None
        bracketed = text[position] == "<"
        return position + bracketed, found.pos - bracketed, found.str

    def _definition(self, target: str) -> tuple[int, int] | None:
        """Return where the destination `target` stands in the definition of a reference, if it can be found."""
        if target not in self._definitions:
            self._definitions = {target: None, **self._definitions}
            for definition in self._env.get("references", {}).values():
                href = str(definition["href"])
                if self._definitions.get(href) is None:
                    self._definitions[href] = self._find_definition(href, *definition["map"])
        return self._definitions[target]

    def _find_definition(self, target: str, first: int, after: int) -> tuple[int, int] | None:
        passage = self._lines.raw(first + self._first, after + self._first)
        for match in re.finditer(r"\]:[\s>]*<?([^\s<>]+)", passage.text):
            if unescapeAll(match[1]) == target:
                return passage.span(*match.span(1))
        return None


def _add_coarsely(body: Passage, out: ReadingBuilder, reason: str) -> None:
    """Read a draft as plain text, and take what looks like a link for one."""
    out.coarse = f"the draft has {reason}, so its markup was read as text"
    add_plain(body, out)
    for match in _CRUDE_LINK.finditer(body.text):
        start, end = body.span(*match.span(1))
        out.add_link(start, end, unescapeAll(match[1]), "", "inline")
