"""Divides prose into sentences and words, and estimates how easily it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from motet_agents.qa.prose import BLOCK, Prose

WORD: Final = re.compile(r"\w+(?:['’\-‑]\w+)*")
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s)|[。！？]")
_ABBREVIATIONS = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "jr", "sr", "vs", "e.g", "i.e", "cf", "al", "approx", "dept", "viz"]
)
_LAST_WORD = re.compile(r"[\w.]+\Z")


@dataclass(frozen=True, slots=True)
class Sentence:
    """`prose.text[start:end]`, and how many words it has."""

    start: int
    end: int
    words: int


def sentences(prose: Prose) -> Iterator[Sentence]:
    """Yield the sentences that hold a word; none runs across two blocks."""
    start = 0
    text = prose.text
    while start < len(text):
        end = text.find(BLOCK, start)
        end = len(text) if end == -1 else end
        yield from _within_block(text, start, end)
        start = end + 1


def _within_block(text: str, start: int, end: int) -> Iterator[Sentence]:
    for stop in _END.finditer(text, start, end):
        if stop.start() >= start and _ends_here(text, start, stop, end):
            yield from _sentence(text, start, stop.end())
            start = stop.end()
    yield from _sentence(text, start, end)


def _ends_here(text: str, start: int, stop: re.Match[str], end: int) -> bool:
    following = text[stop.end() : min(stop.end() + 40, end)].lstrip()[:1]
    if following.islower():
        return False
    if stop.group()[0] != "." or stop.group()[:2] == "..":
        return True
    last = _LAST_WORD.search(text, max(start, stop.start() - 20), stop.start())
    word = last.group().lower() if last else ""
    is_initial = len(word) == 1 and word.isalpha() and word != "i" and last is not None and last.group().isupper()
    return not (word in _ABBREVIATIONS or is_initial)


def _sentence(text: str, start: int, end: int) -> Iterator[Sentence]:
    words = sum(1 for _ in WORD.finditer(text, start, end))
    if words:
        while text[start].isspace():
            start += 1
        while text[end - 1].isspace():
            end -= 1
        yield Sentence(start, end, words)


_VOWELS = re.compile(r"[aeiouy]+")
_SILENT_E = re.compile(r"[^aeiouyl]e$|[aeiouyr]le$")
_SILENT_ES = re.compile(r"[^aeiouy]es$")
_SPOKEN_ES = re.compile(r"(?:[sxzcg]|sh|ch|[^aeiouy]l)es$")
_SILENT_ED = re.compile(r"[^aeiouytd]ed$")
_SPOKEN_ED = re.compile(r"[^aeiouy]led$")
_DIVIDED = re.compile(r"i[ae](?:t|n|l)|[^tscgx]io|[aeiou]ing|eo(?!u)|[^qg]ua(?!r)|sms?$|uou|iu")
_JOINED = re.compile(r"[tcs]ia[nl]")


def syllables(word: str) -> int:
    """Estimate the syllables of an English word; right for about 97 of 100 words of running text."""
    word = word.lower()
    number = len(_VOWELS.findall(word))
    if _SILENT_E.search(word):
        number -= 1
    elif _SILENT_ES.search(word):
        number -= not _SPOKEN_ES.search(word)
    elif _SILENT_ED.search(word):
        number -= not _SPOKEN_ED.search(word)
    number += len(_DIVIDED.findall(word)) - len(_JOINED.findall(word))
    return max(1, number)


@dataclass(frozen=True, slots=True)
class Readability:
    """Counts of a draft, and its Flesch reading ease; None when it has no English words to judge by."""

    words: int
    sentences: int
    ease: float | None


_LATIN_WORD = re.compile(r"[A-Za-z]+")


def readability(prose: Prose, found: Sequence[Sentence]) -> Readability:
    """Return counts and Flesch reading ease (about 0 to 100, higher is easier; Flesch 1948) of English prose.

    `found` are all sentences of `prose`.
    """
    words = sum(sentence.words for sentence in found)
    counts: dict[str, int] = {}
    for word in _LATIN_WORD.findall(prose.text):
        counts[word] = counts.get(word, 0) + 1
    latin = sum(counts.values())
    if not words or latin * 2 < words:
        return Readability(words, len(found), None)
    spoken = sum(syllables(word) * number for word, number in counts.items())
    ease = 206.835 - 1.015 * words / len(found) - 84.6 * spoken / latin
    return Readability(words, len(found), round(ease, 1))
