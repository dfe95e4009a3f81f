"""markdown-it's own inline parser, made to say where in its source everything stands.

The rules are markdown-it's, so what is a link here is a link in the rendered page. Only runs of characters at which no
rule can begin anything are stepped over at once, and the work for one document is bounded.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from markdown_it import MarkdownIt, rules_inline
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType

from motet_agents.qa.bare_urls import find_bare_urls

PieceKind = Literal["text", "shown", "code", "url", "tag", "autolink", "link", "image"]
MAX_STEPS: Final = 1_500_000
MAX_BLOCK_STEPS: Final = 50_000
INLINE_NESTING: Final = 20

_PIECES: dict[str, PieceKind] = {"code_inline": "code", "html_inline": "tag"}
_ALWAYS = r"[\\`*_]|~~|&(?=[#A-Za-z])"
_BRACKETS = r"|[\[\]]|!(?=\[)"
_ANGLES = r"|<(?=[^\s<>])"
_RULES: dict[str, tuple[Callable[[StateInline, bool], bool], ...]] = {
    "\\": (rules_inline.escape,),
    "`": (rules_inline.backtick,),
    "~": (rules_inline.strikethrough.tokenize,),
    "*": (rules_inline.emphasis.tokenize,),
    "_": (rules_inline.emphasis.tokenize,),
    "[": (rules_inline.link,),
    "!": (rules_inline.image,),
    "<": (rules_inline.autolink, rules_inline.html_inline),
    "&": (rules_inline.entity,),
}
_STOPS = {
    (brackets, angles): re.compile(_ALWAYS + (_BRACKETS if brackets else "") + (_ANGLES if angles else ""))
    for brackets in (False, True)
    for angles in (False, True)
}


class TooMuchMarkupError(Exception):
    """The document needs more steps than `MAX_STEPS`, or a block of it more than `MAX_BLOCK_STEPS`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """`source[start:end]` and what it is. `shown` (an entity, an escape) is shown as `text`.

    A link's `text` is its target as the page has it; its label stands in `source[start + 1:label_end]`, an image's one
    character later.
    """

    kind: PieceKind
    start: int
    end: int
    text: str = ""
    label_end: int = 0
    info: str = ""


@dataclass(slots=True)
class Steps:
    """How much work one document may still cost."""

    left: int = MAX_STEPS
    left_in_block: int = MAX_BLOCK_STEPS

    def begin_block(self) -> None:
        """Begin a block; what the last one took is taken."""
        self.left -= MAX_BLOCK_STEPS - self.left_in_block
        self.left_in_block = MAX_BLOCK_STEPS
        if self.left < 0:
            raise TooMuchMarkupError

    def take(self) -> None:
        """Count one step; raises `TooMuchMarkupError` when there were too many."""
        self.left_in_block -= 1
        if self.left_in_block < 0:
            raise TooMuchMarkupError


@dataclass(slots=True)
class _Delimiters:
    """A run of `*`, `_` or `~`, token by token: which of them stay text is known only at the end."""

    start: int
    tokens: Sequence[Token]
    widths: Sequence[int]


@dataclass(slots=True)
class _Record:
    pieces: list[Piece] = field(default_factory=list[Piece])
    delimiters: list[_Delimiters] = field(default_factory=list[_Delimiters])


class SpanState(StateInline):
    """The state of parsing one block, with a record of what stands where."""

    def __init__(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token], *, urls: bool) -> None:
        super().__init__(src, md, env, tokens)
        found = list(find_bare_urls(src, 0, len(src), entities=True, escapes=True)) if urls else []
        self.urls = {url.start: url for url in found}
        self.url_starts = [url.start for url in found]
        self.last_bracket = src.rfind("]") if env.get("references") else src.rfind("](")
        self.last_angle = src.rfind(">")
        self.label_end = 0
        self.record = _Record()

    def next_stop(self, position: int) -> int:
        """Return where, from `position` on, a rule may begin something."""
        index = bisect_right(self.url_starts, position)
        end = min(self.url_starts[index] if index < len(self.url_starts) else self.posMax, self.posMax)
        stops = _STOPS[position <= self.last_bracket, position < self.last_angle]
        found = stops.search(self.src, position, min(end + 1, self.posMax))
        return min(found.start(), end) if found else end


class SpanInline(ParserInline):
    """An inline parser that records the place of every piece."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps
        self.ruler2.before("fragments_join", "settle_delimiters", _settle_delimiters)

    def pieces(self, source: str, md: MarkdownIt, env: EnvType) -> list[Piece]:
        """Return the pieces of a block's `source`, in order of their start, outer ones after inner ones."""
        self._steps.begin_block()
        state = SpanState(source, md, env, [], urls=True)
        self._run(state)
        return sorted(state.record.pieces, key=_start_of)

    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        """Parse an image's description, for the rule that asks for it."""
        state = SpanState(src, md, env, tokens, urls=False)
        self._run(state)
        return state.tokens

    def _run(self, state: SpanState) -> None:
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)

    def skipToken(self, state: StateInline) -> None:  # noqa: N802
        """Step over one token without making any; what was found once at a place is remembered."""
        self._steps.take()
        start = state.pos
        if start in state.cache:
            state.pos = state.cache[start]
            return
        if state.level < INLINE_NESTING:
            state.level += 1
            found = _apply(cast("SpanState", state), silent=True)
            state.level -= 1
            if not found:
                state.pos += 1
        else:
            state.pos = state.posMax
        state.cache[start] = state.pos

    def tokenize(self, state: StateInline) -> None:
        """Make tokens of `state.src[state.pos:state.posMax]`, and record them."""
        state = cast("SpanState", state)
        end = state.posMax
        while state.pos < end:
            self._steps.take()
            start, tokens_before = state.pos, len(state.tokens)
            if _apply(state, silent=False):
                _record(state, start, tokens_before)
                continue
            state.append_pending(state.src[start])
            state.record.pieces.append(Piece("text", start, start + 1))
            state.pos += 1
        if state.pending:
            state.pushPending()
        state.label_end = end


def _start_of(piece: Piece) -> int:
    return piece.start


def _apply(state: SpanState, *, silent: bool) -> bool:
    """Apply the first rule that fits; each of markdown-it's begins at characters of its own."""
    if _bare_url(state, silent) or _text(state, silent):
        return True
    for rule in _RULES.get(state.src[state.pos], ()):  # noqa: SIM110
        if rule(state, silent):
            return True
    return False


def _text(state: SpanState, silent: bool) -> bool:
    stop = state.next_stop(state.pos)
    if stop <= state.pos:
        return False
    if not silent:
        state.append_pending(state.src[state.pos : stop])
    state.pos = stop
    return True


def _bare_url(state: SpanState, silent: bool) -> bool:
    url = state.urls.get(state.pos)
    if url is None or url.end > state.posMax:
        return False
    if not silent:
        token = state.push("bare_url", "", 0)
        token.content = url.target
        token.info = "inside" if state.linkLevel > 0 else ""
    state.pos = url.end
    return True


def _record(state: SpanState, start: int, tokens_before: int) -> None:
    """Note the piece from `start` to `state.pos` that a rule has just made."""
    end, pieces = state.pos, state.record.pieces
    if len(state.tokens) == tokens_before:
        pieces.append(Piece("text", start, end))
        return
    token = state.tokens[-1]
    if token.type in ("text_special", "hardbreak", "softbreak"):
        pieces.append(Piece("shown", start, end, token.content or "\n"))
    elif token.type == "bare_url":
        pieces.append(Piece("url", start, end, token.content, info=token.info))
    elif token.type == "text":
        _record_delimiters(state, start)
    elif token.markup == "autolink":
        pieces.append(Piece("autolink", start, end, str(state.tokens[-3].attrs["href"])))
    elif token.type == "image":
        pieces.append(Piece("image", start, end, str(token.attrs["src"]), start + 2 + len(token.content)))
    elif token.type == "link_close":
        pieces.append(Piece("link", start, end, _href(state), state.label_end))
    else:
        pieces.append(Piece(_PIECES[token.type], start, end))


def _href(state: SpanState) -> str:
    """Return the target of the link that was closed last; links do not nest."""
    opening = next(token for token in reversed(state.tokens) if token.type == "link_open")
    return str(opening.attrs["href"])


def _record_delimiters(state: SpanState, start: int) -> None:
    widths: list[int] = []
    missing = state.pos - start
    while missing > 0:
        widths.append(len(state.tokens[-1 - len(widths)].content))
        missing -= widths[-1]
    widths.reverse()
    state.record.delimiters.append(_Delimiters(start, state.tokens[-len(widths) :], widths))


def _settle_delimiters(state: StateInline) -> None:
    """Once emphasis is paired, what stayed text is text; this must run before markdown-it joins texts."""
    record = cast("SpanState", state).record
    for run in record.delimiters:
        position = run.start
        for token, width in zip(run.tokens, run.widths, strict=True):
            if token.type == "text" and token.content:
                record.pieces.append(Piece("text", position, position + width))
            position += width
