"""Finds words and phrases in prose: whole words, in any case, however quotes, dashes and spaces are set."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from motet_agents.qa.prose import BLOCK, GAP, Prose

_SAME = {
    **dict.fromkeys("‘’‚‛′ʼ´", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−", "-"),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),
    BLOCK: BLOCK,
    GAP: GAP,
}
_EDGE: Final = r"(?![\w\u0300-\u036f]|'(?!s(?!\w))\w)"
"""Behind a word: no further letter. An apostrophe goes on with it (`can't`), but for a possessive (`Acme's`)."""


class _Folds(dict[int, str]):
    """What each character becomes, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _fold_cluster(chr(code))
        return folded


def _fold_cluster(characters: str) -> str:
    if characters in _SAME:
        return _SAME[characters]
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", characters).casefold())
    return "".join(" " if part.isspace() else _SAME.get(part, part) for part in folded)


_folds = _Folds()


@dataclass(frozen=True, slots=True)
class Match:
    """An occurrence of `phrase` at `prose.text[start:end]`, which is `folded.text[place[0]:place[1]]`."""

    phrase: str
    start: int
    end: int
    place: tuple[int, int]


class FoldedText:
    """Prose with case, compatibility forms and typography evened out, and the way back."""

    def __init__(self, prose: Prose) -> None:
        self.prose = prose
        self._starts: list[int] = [0]
        self._origins: list[int] = [0]
        self.text = "".join(self._fold(prose.text))

    def _fold(self, text: str) -> Iterator[str]:
        position = size = 0
        for start, end in _uneven(text):
            even, uneven = text[position:start].translate(_folds), _fold_cluster(text[start:end])
            yield even + uneven
            size += len(even) + len(uneven)
            self._starts += (size - len(uneven), size)
            self._origins += (start, end)
            position = end
        yield text[position:].translate(_folds)

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the offsets in the prose's text of `text[start:end]`, which must not be empty."""
        return self._back(start)[0], self._back(end - 1)[1]

    def _back(self, position: int) -> tuple[int, int]:
        run = bisect_right(self._starts, position) - 1
        if run % 2:
            return self._origins[run], self._origins[run + 1]
        origin = self._origins[run] + position - self._starts[run]
        return origin, origin + 1


def _uneven(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places where folding changes the number of characters: ligatures, combining marks, soft hyphens."""
    if text.isascii():
        return
    met = set(text)
    marks = "".join(re.escape(character) for character in met if unicodedata.combining(character))
    long = "".join(re.escape(character) for character in met if len(_folds[ord(character)]) != 1)
    patterns = [f"[^{marks}{BLOCK}][{marks}]+"] if marks else []
    patterns += [f"[{long}]"] if long else []
    if patterns:
        for match in re.finditer("|".join(patterns), text, re.DOTALL):
            yield match.span()


def fold(phrase: str) -> str:
    """Return `phrase` folded as text is, with single spaces."""
    return " ".join(FoldedText(Prose(phrase, (0,), (0,), (len(phrase),))).text.split())


def find_phrase(text: FoldedText, phrase: str, limit: int) -> Iterator[Match]:
    """Yield the occurrences of `phrase` as whole words, in order, at most `limit` of them; none overlap."""
    tokens = fold(phrase).split()
    if not tokens:
        return
    pattern = re.compile(" +".join(re.escape(token) for token in tokens) + (_EDGE if _is_word(tokens[-1][-1]) else ""))
    starts_with_word = _is_word(tokens[0][0])
    position = 0
    while limit and (position := text.text.find(tokens[0], position)) != -1:
        inside = starts_with_word and position > 0 and _is_word(text.text[position - 1])
        match = None if inside else pattern.match(text.text, position)
        if match is None:
            position += 1
            continue
        start, end = text.origin(*match.span())
        yield Match(phrase, start, end, match.span())
        limit -= 1
        position = match.end()


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
