"""Takes HTML apart into text, tags and what nobody sees, in linear time, with the place of everything.

It follows the tokenizer of the HTML standard where drafts can tell the difference. Tags that never end are read as
text: what is doubtful is checked rather than hidden.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from motet_agents.qa.elements import RAW_TEXT

MAX_ATTRIBUTES: Final = 200

_NAME = re.compile(r"[A-Za-z][^\s/>\x00]*")
_ATTRIBUTE = re.compile(
    r"""[\s/]*(?:(?P<name>[^\s/>=][^\s/>=]*)(?:\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^\s>"'][^\s>]*))?)?)?"""
)
_UNCLOSED_VALUE = re.compile(r"\s*=\s*[\"']")
_OPENING = re.compile(r"<(?:[A-Za-z!?]|/(?=.))", re.DOTALL)
_COMMENT_END = re.compile(r"--!?>")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its value decoded, and where the value stands."""

    value: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tag:
    """`<name …>`, or `</name>` when `closing`. Of an attribute that is given twice, the first counts.

    `self_closing` says that it is written `<name … />`, which is honoured as authors mean it, not as browsers do.
    """

    name: str
    closing: bool
    start: int
    end: int
    attributes: dict[str, Attribute]
    self_closing: bool


@dataclass(frozen=True, slots=True)
class Text:
    """Characters to be shown, entities not yet decoded."""

    start: int
    end: int


def take_apart(source: str, start: int = 0, end: int | None = None) -> Iterator[Tag | Text]:
    """Yield the tags and texts of `source[start:end]` in order; comments and raw text are passed over."""
    stop = len(source) if end is None else end
    last_tag_end = source.rfind(">", start, stop)
    position = text_start = start
    while found := _OPENING.search(source, position, stop):
        opening = found.start()
        tag = None
        after = _skip_declaration(source, opening, stop)
        if after is None:
            tag = read_tag(source, opening, stop) if opening < last_tag_end else None
            if tag is None:
                break
            after = tag.end
        if opening > text_start:
            yield Text(text_start, opening)
        if tag is not None:
            yield tag
            if tag.name in RAW_TEXT and not (tag.closing or tag.self_closing):
                after = _end_of_raw_text(source, tag.name, after, stop)
        position = text_start = after
    if stop > text_start:
        yield Text(text_start, stop)


def read_tag(source: str, start: int, stop: int) -> Tag | None:
    """Return the tag that begins at `start`, or None when none does, or it does not end before `stop`."""
    closing = source.startswith("</", start)
    name = _NAME.match(source, start + 1 + closing, stop)
    if name is None:
        return None
    attributes: dict[str, Attribute] = {}
    position = name.end()
    while position < stop and source[position] != ">":
        match = _ATTRIBUTE.match(source, position, stop)
        if len(attributes) > MAX_ATTRIBUTES:
            end = source.find(">", position, stop)
            position = stop if end == -1 else end
            break
        if match is None or match.end() == position:
            position += 1
            continue
        position = match.end()
        if match["name"]:
            if _UNCLOSED_VALUE.match(source, position, stop):
                return None
            _note_attribute(attributes, match)
    if position >= stop:
        return None
    last = max((attribute.end for attribute in attributes.values()), default=0)
    self_closing = source[position - 1] == "/" and last < position
    return Tag(name.group().lower(), closing, start, position + 1, attributes, self_closing)


def _note_attribute(attributes: dict[str, Attribute], match: re.Match[str]) -> None:
    group = next((name for name in ("double", "single", "plain") if match[name] is not None), "name")
    value = "" if group == "name" else html.unescape(match[group])
    attributes.setdefault(match["name"].lower(), Attribute(value, match.start(group), match.end(group)))


def _skip_declaration(source: str, position: int, stop: int) -> int | None:
    """Return the end of the comment or declaration at `position`, or None when there is none."""
    if source.startswith("<!--", position):
        for short in ("<!-->", "<!--->"):
            if source.startswith(short, position):
                return position + len(short)
        ending = _COMMENT_END.search(source, position + 4, stop)
        return ending.end() if ending else stop
    if source.startswith(("<!", "<?"), position) or (
        source.startswith("</", position) and not _NAME.match(source, position + 2, stop)
    ):
        found = source.find(">", position, stop)
        return stop if found == -1 else found + 1
    return None


def _end_of_raw_text(source: str, name: str, position: int, stop: int) -> int:
    found = None if name == "plaintext" else _closing_tag(name).search(source, position, stop)
    return found.start() if found else stop


@cache
def _closing_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
