"""Finds words that nearly are a phrase: a typo, an inflection, a missing hyphen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from rapidfuzz import fuzz

from motet_agents.qa.matching import FoldedText, fold
from motet_agents.qa.prose import BLOCK

SHORTEST: Final = 6
"""Shorter phrases have no near misses: too many words differ from them by one letter."""

_WINDOW: Final = 4_000
_LOOKS: Final = 60
_WORD_START = re.compile(r"(?<!\w)\w|(?<!\S)\S")
_WORD_END = re.compile(r"\w(?!\w)|\S(?!\S)")


@dataclass(frozen=True, slots=True)
class NearMiss:
    """`folded.text[start:end]`, and how similar it is to the phrase, 0 to 100."""

    start: int
    end: int
    ratio: float


def find_near_misses(
    folded: FoldedText, phrase: str, least: float, taken: Iterable[tuple[int, int]], limit: int
) -> Iterator[NearMiss]:
    """Yield the near misses of `phrase` that are at least `least` similar, at most `limit`; none overlap.

    `taken` are places (in `folded.text`) that are exact matches of something, and so no slip for anything else.
    A single word must begin with the same letter: `limited` is no slip for `unlimited`.
    """
    wanted = fold(phrase)
    if sum(map(str.isalnum, wanted)) < SHORTEST:
        return
    text = _without(folded.text, taken)
    for window in _windows(text, len(wanted)):
        for near in _in_window(text, window, wanted, least):
            yield near
            limit -= 1
            if not limit:
                return


def _without(text: str, taken: Iterable[tuple[int, int]]) -> str:
    """Return `text` with what is taken blotted out, at the same length."""
    parts: list[str] = []
    position = 0
    for start, end in sorted(taken):
        parts.append(text[position:start])
        parts.append(BLOCK * (end - max(start, position)))
        position = max(position, end)
    return "".join([*parts, text[position:]])


def _in_window(text: str, window: tuple[int, int], wanted: str, least: float) -> Iterator[NearMiss]:
    """Yield the near misses in `window`, best first; what has been looked at divides the rest."""
    waiting = [window]
    for _ in range(_LOOKS):
        if not waiting:
            return
        start, end = waiting.pop()
        found = fuzz.partial_ratio_alignment(wanted, text[start:end], score_cutoff=max(least - 15, 50))
        if found is None or found.dest_end <= found.dest_start:
            continue
        left, right = start + found.dest_start, start + found.dest_end
        near = _best_words(text, left, right, (start, end), wanted)
        if near is not None:
            left, right = near.start, near.end
            same_start = " " in wanted or text[near.start] == wanted[0]
            if least <= near.ratio < 100 and same_start:
                yield near
        waiting += [(first, last) for first, last in ((start, left), (right, end)) if last - first >= len(wanted) // 2]


def _windows(text: str, length: int) -> Iterator[tuple[int, int]]:
    """Yield stretches of blocks that overlap by more than a phrase, so that none is cut."""
    start = 0
    while start < len(text):
        block_end = text.find(BLOCK, start)
        block_end = len(text) if block_end == -1 else block_end
        position = start if block_end - start >= length // 2 else block_end
        while position < block_end:
            yield position, min(position + _WINDOW, block_end)
            if position + _WINDOW >= block_end:
                break
            position += _WINDOW - 2 * length
        start = block_end + 1


def _best_words(text: str, start: int, end: int, window: tuple[int, int], wanted: str) -> NearMiss | None:
    """Return the run of whole words near `text[start:end]`, within `window`, that is most like `wanted`."""
    slack = len(wanted) // 3 + 2
    first, last = max(window[0], start - slack), min(window[1], end + slack)
    lefts = [match.start() for match in _WORD_START.finditer(text, first, last) if match.start() <= start + slack]
    rights = [match.end() for match in _WORD_END.finditer(text, first, last) if match.end() >= end - slack]
    runs = [
        (fuzz.ratio(wanted, " ".join(text[left:right].split())), left, right)
        for left in lefts
        for right in rights
        if abs(right - left - len(wanted)) <= slack and BLOCK not in text[left:right]
    ]
    if not runs:
        return None
    ratio, left, right = max(runs)
    return NearMiss(left, right, ratio)
