"""What is read from a draft, whatever its format: prose, links and anchors, all with their places."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

from motet_agents.qa.prose import Prose, ProseBuilder

LinkKind = Literal["inline", "reference", "autolink", "bare", "image", "html"]

MAX_TEXT: Final = 200
_NOT_IN_SLUG = re.compile(r"[^\w\- \u0300-\u036f]")


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A link: where it leads, entities and escapes decoded, and where its target stands in the draft."""

    start: int
    end: int
    target: str
    text: str
    kind: LinkKind


@dataclass(frozen=True, slots=True)
class Reading:
    """A draft as its readers meet it. `base` is the address that HTML's `<base>` names for relative links.

    `coarse` says why the draft was not read to the letter, where that is so: then its markup counts as prose.
    """

    prose: Prose
    links: tuple[Link, ...]
    anchors: frozenset[str]
    base: str | None = None
    coarse: str | None = None


@dataclass(slots=True)
class ReadingBuilder:
    """Collects a `Reading` in the order of the draft."""

    prose: ProseBuilder = field(default_factory=ProseBuilder)
    links: list[Link] = field(default_factory=list[Link])
    anchors: set[str] = field(default_factory=set[str])
    base: str | None = None
    coarse: str | None = None
    _slugs: dict[str, int] = field(default_factory=dict[str, int])

    def add_link(self, start: int, end: int, target: str, text: str, kind: LinkKind) -> None:
        """Note a link; an empty target leads to the document itself and is none."""
        if target.strip():
            self.links.append(Link(start, end, target.strip(), " ".join(text[: MAX_TEXT * 2].split())[:MAX_TEXT], kind))

    def add_heading(self, title: str) -> None:
        """Note the anchor that a heading gets, as GitHub makes it."""
        slug = original = slug_of(title)
        while slug in self._slugs:
            self._slugs[original] += 1
            slug = f"{original}-{self._slugs[original]}"
        self._slugs[slug] = 0
        self.anchors.add(slug)

    def build(self) -> Reading:
        """Return what was collected, each link once: two uses of one definition are one link."""
        once = {(link.start, link.end, link.target): link for link in reversed(self.links)}
        links = tuple(sorted(once.values()))
        return Reading(self.prose.build(), links, frozenset(self.anchors), self.base, self.coarse)


def slug_of(title: str) -> str:
    """Return GitHub's anchor for a heading: lower case, no punctuation, a hyphen for each space."""
    return _NOT_IN_SLUG.sub("", title.strip().lower()).replace(" ", "-")
