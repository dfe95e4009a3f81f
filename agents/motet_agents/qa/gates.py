"""What a verifier asks of a check's results, without taking the check's word for it.

Each gate finds its own evidence: quotes in the raw draft, links in the rendered page, phrases in both.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from typing import Final, Literal
from urllib.parse import unquote

from motet_agents.qa.checklist import Checklist
from motet_agents.qa.documents import Document
from motet_agents.qa.elements import BLOCKS, CODE, LINKING, RAW_TEXT, REPLACED
from motet_schemas.base import Json
from motet_schemas.findings import Finding

Group = Literal["tone", "compliance"]

_SHOWN = 5
_MARKS_AT_MOST: Final = 100_000
"""Markdown is rendered up to the blank line before this many marks (`[`, `*`, `<`, line ends …)."""

_MARK = re.compile(r"[\[*_<`~|>\n]")
_SOURCE_LINK = re.compile(r"(?<!\S)[\"'(<]?(https?://[A-Za-z0-9](?:[A-Za-z0-9._~:/?#@!$*+,;=%-]*[A-Za-z0-9/])?)")
_BARE = re.compile(r"(?:https?://|ftp://|www\.)\S+|(?<!\S)\S{1,200}?@\S+", re.IGNORECASE)
_ESCAPING = frozenset("&;\\")
_UNSEEN = re.compile(r"<!--(?:-?>|.*?(?:--!?>|\Z))|<[!?][^>]*+(?:>|\Z)", re.DOTALL)
_NO_TAG = re.compile(r"<(?![A-Za-z/!?])")
_UNFINISHED = re.compile(r"<(?=/?[A-Za-z])")
_HIDING = CODE | RAW_TEXT
_DIVIDING = BLOCKS | REPLACED | _HIDING | {"br"}
_WORDLIKE = re.compile(r"[\w'\u0300-\u036f\u00ad\u200b-\u200d\u2060\ufeff]")
_GAP = " \ufffc "


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """Whether a gate was passed, and one sentence that says why."""

    passed: bool
    evidence: str


def quotes_stand(draft_text: str, findings: Iterable[Finding]) -> GateOutcome:
    """Pass when every quote stands in the draft exactly where its finding says."""
    quoted = [finding for finding in findings if finding.quote is not None]
    wrong = [finding for finding in quoted if draft_text[finding.start : finding.end] != finding.quote]
    if wrong:
        places = ", ".join(f"{finding.rule} at {finding.start}" for finding in wrong[:_SHOWN])
        return GateOutcome(False, f"{len(wrong)} of {len(quoted)} quotes do not stand where they are said to: {places}")
    return GateOutcome(True, f"all {len(quoted)} quotes stand in the draft where they are said to")


def links_complete(document: Document, output: dict[str, Json]) -> GateOutcome:
    """Pass when `output["links"]` names every link of the rendered page, each with a result.

    The page is rendered by markdown-it (HTML is taken as it is) and read with the standard library's parser; addresses
    in its text count as links too. Of a draft with very much markup, the beginning is rendered; the evidence says so.
    """
    listed = output.get("links")
    if not isinstance(listed, list):
        return GateOutcome(False, "the output has no list of links")
    targets: set[str] = set()
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("target"), str) or not entry.get("result"):
            return GateOutcome(False, f"a listed link lacks its target or its result: {str(entry)[:200]}")
        targets.add(_canonical(str(entry["target"])))
    page = _Page.of(document)
    expected = {target for target in page.links if target.strip()}
    missing = {target for target in expected if _canonical(target) not in targets}
    in_text = set(_SOURCE_LINK.findall(page.linkable))
    known = sorted(targets)
    missing |= {address for address in in_text if not _begins_one(_canonical(address), known)}
    if missing:
        shown = ", ".join(sorted(missing)[:_SHOWN])
        return GateOutcome(False, f"{len(missing)} links of the rendered page are not listed: {shown[:500]}")
    number = len(expected | in_text)
    return GateOutcome(True, f"all {number} distinct links of the rendered page are listed with a result{page.extent}")


def lexicon_holds(
    document: Document, checklist: Checklist, findings: Sequence[Finding], *, group: Group | None = None
) -> GateOutcome:
    """Pass when no plain occurrence of a banned or forbidden phrase outside code lacks its finding.

    Occurrences are counted in the raw draft, where each must be covered by a finding, and in the text of the rendered
    page, where there must not be more of them than findings. A required phrase that is reported missing must be
    missing. `findings` are those of the step that did `group`, or of both when it is None.
    """
    problems: list[str] = []
    counted = 0
    page = _Page.of(document)
    straight = _straight(document.text)
    for rule, phrases in _lexicons(checklist, group):
        if any(finding.rule == f"{rule.partition('.')[0]}.more" for finding in findings):
            continue
        mine = sorted(
            (f.start, f.end) for f in findings if f.rule == rule and f.start is not None and f.end is not None
        )
        for phrase in phrases:
            places = list(_plain_places(document, straight, phrase))
            counted += len(places)
            problems += [
                f'"{phrase}" at {start} has no {rule}' for start, end in places if not _covered(start, end, mine)
            ]
        in_page = sum(len(_occurrences(page.text, phrase)) for phrase in phrases)
        if in_page > len(mine):
            problems.append(f"the page shows {in_page} phrases for {rule}, and {len(mine)} are reported")
    if group != "tone":
        problems += _falsely_missing(document, straight, checklist, findings)
    if problems:
        return GateOutcome(False, f"{len(problems)} oversights: {'; '.join(problems[:_SHOWN])}"[:1000])
    return GateOutcome(True, f"all {counted} plain occurrences of banned and forbidden phrases are reported")


def _lexicons(checklist: Checklist, group: Group | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    if checklist.tone is not None and group != "compliance":
        yield "tone.banned", tuple(dict.fromkeys(checklist.tone.banned))
        yield "tone.preferred", tuple(checklist.tone.preferred)
    if checklist.compliance is not None and group != "tone":
        yield "compliance.forbidden", tuple(dict.fromkeys(checklist.compliance.forbidden))


def _straight(text: str) -> str:
    for quotes, plain in (("‘’‚‛′ʼ´", "'"), ("“”„‟″«»", '"')):
        for quote in quotes:
            text = text.replace(quote, plain)
    return text


def _occurrences(text: str, phrase: str) -> list[tuple[int, int]]:
    """Find a phrase in a text with straight quotes: lower case, any white space, nothing wordlike around it."""
    words = _straight(phrase).casefold().split()
    body = r"\s+".join(map(re.escape, words))
    pattern = re.compile(rf"{body}(?!{_WORDLIKE.pattern})", re.IGNORECASE)
    return [
        match.span()
        for match in pattern.finditer(text)
        if match.group().casefold().split() == words and not _WORDLIKE.match(text[match.start() - 1 : match.start()])
    ]


def _plain_places(document: Document, straight: str, phrase: str) -> Iterator[tuple[int, int]]:
    """Yield where a phrase stands in the draft with no markup within or beside it."""
    prose, size = document.prose, len(straight)
    for start, end in _occurrences(straight, phrase):
        before, after = max(start - 1, 0), min(end + 1, size)
        first = start if straight[before].isspace() else before
        last = end if straight[after - 1].isspace() else after
        beside = straight[first:start] + straight[end:last]
        if prose.covers(first, last) and not _ESCAPING.intersection(beside):
            yield start, end


def _covered(start: int, end: int, places: list[tuple[int, int]]) -> bool:
    """Say whether one of `places`, which are in order, holds `start` to `end`."""
    last = bisect_right(places, (start, end))
    return any(first <= start and end <= after for first, after in places[max(0, last - 50) : last + 50])


def _falsely_missing(
    document: Document, straight: str, checklist: Checklist, findings: Sequence[Finding]
) -> Iterator[str]:
    required = checklist.compliance.required if checklist.compliance else ()
    missing = Counter(finding.rule for finding in findings)["compliance.required"]
    absent = sum(
        1 for phrase in dict.fromkeys(required) if next(_plain_places(document, straight, phrase), None) is None
    )
    if missing > absent:
        yield f"{missing} required phrases are reported missing, but only {absent} are"


class _Page(HTMLParser):
    """The links and the text of a rendered page. `extent` says how much of it was read, if not all."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.extent = ""
        self._texts: list[str] = []
        self._linkable: list[str] = []
        self._code: list[str] = []
        self._in_link = False

    @classmethod
    def of(cls, document: Document) -> _Page:
        """Return the page that `document` becomes."""
        page = cls()
        source = document.text
        if document.media_type == "text/plain" or document.reading.coarse:
            page.handle_data(source)
            return page
        if document.media_type == "text/markdown":
            from motet_agents.qa.markdown_inline import INLINE_NESTING
            from motet_agents.qa.markdown_reading import front_matter_end, markdown

            body = source[front_matter_end(source) :]
            part = _beginning(body)
            page.extent = "" if part == body else f" (the first {len(part):,} characters were rendered)"
            source = str(markdown(INLINE_NESTING).render(part))
        # Versions of the parser differ in where comments end, and the older take long over what never closes.
        source = _NO_TAG.sub("\ufffc", _UNSEEN.sub("", source))
        last_tag = source.rfind(">") + 1
        page.feed(source[:last_tag] + _UNFINISHED.sub("\ufffc", source[last_tag:]))
        page.close()
        return page

    @cached_property
    def text(self) -> str:
        """What the page shows outside code, addresses left out and quotes straightened."""
        return _straight(_BARE.sub("x\ufffcx", "".join(self._texts)))

    @property
    def linkable(self) -> str:
        """What the page shows outside code and links."""
        return "".join(self._linkable)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = next((value for name, value in attrs if name == LINKING.get(tag)), None)
        if target and not self._code:
            self.links.append(target)
        if tag in _HIDING:
            self._code.append(tag)
        self._in_link = tag == "a" or self._in_link
        self._divide(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._code:
            while self._code.pop() != tag:
                continue
        self._in_link = self._in_link and tag != "a"
        self._divide(tag if tag in BLOCKS or tag == "br" else "")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self._texts.append(data)
            self._linkable.append(_GAP if self._in_link else data)

    def _divide(self, tag: str) -> None:
        self._texts.append(_GAP if tag in _DIVIDING else "")
        self._linkable.append(_GAP if tag in _DIVIDING else "\ufffc")


def _beginning(source: str) -> str:
    """Return as much of a Markdown page, in whole blocks, as can be rendered in reasonable time."""
    for number, mark in enumerate(_MARK.finditer(source)):
        if number >= _MARKS_AT_MOST:
            return source[: source.rfind("\n\n", 0, mark.start()) + 1]
    return source


def _begins_one(address: str, known: list[str]) -> bool:
    """Say whether one of `known`, which are in order, begins with `address`: where it ends is a matter of taste."""
    index = bisect_left(known, address)
    return index < len(known) and known[index].startswith(address)


def _canonical(target: str) -> str:
    """Return `target` in the one spelling that an author's and a renderer's share."""
    from markdown_it.common.normalize_url import normalizeLink

    return unquote(normalizeLink(target.strip())).casefold()
