"""The tone check: brand lexicon, hype, shouting, long sentences and readability.

Confidence: matching words is certain (0.99). Flesch reading ease is a statistic, meant for passages of 100 words and
for English: with fewer words, or a score within `UNSURE_EASE` of the limit, it drops to 0.85, and to 0.6 when the limit
is set and the draft cannot be judged at all. A draft that could not be read to the letter caps it at 0.6.
"""

from __future__ import annotations

import re
from typing import Final

from motet_agents.qa.checklist import ToneRules
from motet_agents.qa.documents import Document
from motet_agents.qa.matching import FoldedText, Match, find_phrase
from motet_agents.qa.prose import Prose
from motet_agents.qa.results import MAX_FINDINGS, CheckResult, count, in_order
from motet_agents.qa.sentences import Readability, readability, sentences
from motet_schemas.base import Json
from motet_schemas.findings import Finding, Severity

HYPE: Final = (
    "amazing",
    "best-in-class",
    "bleeding-edge",
    "breakthrough",
    "cutting-edge",
    "disruptive",
    "game changer",
    "game-changer",
    "game-changing",
    "groundbreaking",
    "incredible",
    "industry-leading",
    "life-changing",
    "mind-blowing",
    "must-have",
    "next-generation",
    "once-in-a-lifetime",
    "paradigm shift",
    "revolutionary",
    "revolutionise",
    "revolutionize",
    "skyrocket",
    "state-of-the-art",
    "supercharge",
    "turbocharge",
    "unbeatable",
    "unparalleled",
    "unprecedented",
    "world-class",
)
"""Words that promise more than they say."""

SURE: Final = 0.99
UNSURE: Final = 0.85
UNDECIDED: Final = 0.6
UNSURE_EASE: Final = 3.0
_ENOUGH_WORDS = 100
_LONGEST_QUOTE = 2_000
_CAPITALS = re.compile(r"(?<![\w-])[A-Z]{2,}(?![\w-])(?:[^\S\x00]+[A-Z]{2,}(?![\w-]))*+!*+")
_EXCLAIMED = re.compile(r"(?<!!)!{2,}+")


def check_tone(document: Document, rules: ToneRules, step: str) -> CheckResult:
    """Return what in `document` breaks `rules`; `step` names the finder in each finding."""
    check = _ToneCheck(document, rules, step)
    check.lexicon()
    check.hype()
    check.shouting()
    check.long_sentences()
    measured = readability(document.prose, check.sentences)
    confidence, remark = check.readability(measured)
    if document.reading.coarse:
        confidence, remark = min(confidence, UNDECIDED), document.reading.coarse
    findings = in_order(check.findings, step, "tone")
    notes = f"{count(measured.words, 'word')} in {count(measured.sentences, 'sentence')} read, "
    notes += count(len(findings), "finding") + (f"; {remark}." if remark else ".")
    output: dict[str, Json] = {
        "words": measured.words,
        "sentences": measured.sentences,
        "reading_ease": measured.ease,
        "findings": len(findings),
    }
    return CheckResult(findings=findings, confidence=confidence, notes=notes, output=output)


class _ToneCheck:
    def __init__(self, document: Document, rules: ToneRules, step: str) -> None:
        self.findings: list[Finding] = []
        self._draft = document.text
        self._prose: Prose = document.prose
        self._rules = rules
        self._step = step
        self._folded = FoldedText(document.prose)
        self._named: set[int] = set()
        self.sentences = list(sentences(document.prose))

    def lexicon(self) -> None:
        for phrase in dict.fromkeys(self._rules.banned):
            for match in find_phrase(self._folded, phrase, MAX_FINDINGS + 1):
                self._note_match("tone.banned", "error", match, f'"{phrase}" is banned; say it in other words')
        for phrase, better in self._rules.preferred.items():
            for match in find_phrase(self._folded, phrase, MAX_FINDINGS + 1):
                self._note_match("tone.preferred", "warning", match, f'"{phrase}": write "{better}" instead')

    def hype(self) -> None:
        wanted = self._rules.hype
        if wanted is False:
            return
        words = wanted if isinstance(wanted, tuple) else HYPE
        severity: Severity = "info" if wanted is None else "warning"
        for phrase in dict.fromkeys(words):
            for match in find_phrase(self._folded, phrase, MAX_FINDINGS + 1):
                if match.start not in self._named:
                    message = f'"{phrase}" promises more than it says; name the fact behind it'
                    self._note("tone.hype", severity, match.start, match.end, message)

    def shouting(self) -> None:
        wanted = self._rules.shouting
        if wanted is False:
            return
        severity: Severity = "info" if wanted is None else "warning"
        capitals = [match.span() for match in _CAPITALS.finditer(self._prose.text) if _shouts(match.group())]
        ends = {end for _, end in capitals}
        exclaimed = [match.span() for match in _EXCLAIMED.finditer(self._prose.text) if match.end() not in ends]
        for start, end in (capitals + exclaimed)[: 4 * MAX_FINDINGS]:
            message = "this shouts; capitals and several exclamation marks are harder to read, not stronger"
            self._note("tone.shouting", severity, start, end, message)

    def long_sentences(self) -> None:
        limit = self._rules.max_sentence_words
        if limit is None:
            return
        for sentence in self.sentences:
            if sentence.words > limit and len(self.findings) < 4 * MAX_FINDINGS:
                message = f"this sentence has {sentence.words:,} words; the limit is {limit}"
                self._note("tone.sentence", "warning", sentence.start, sentence.end, message)

    def readability(self, measured: Readability) -> tuple[float, str]:
        """Return the confidence, and a remark when the reading ease could not be judged for sure."""
        limit = self._rules.min_reading_ease
        if limit is None:
            return SURE, ""
        if measured.ease is None:
            return UNDECIDED, "the reading ease could not be judged: too few English words"
        if measured.ease < limit:
            message = (
                f"the Flesch reading ease is {measured.ease}, the least allowed {limit:g}; shorten words and sentences"
            )
            self.findings.append(Finding(step=self._step, rule="tone.readability", severity="warning", message=message))
        if measured.words < _ENOUGH_WORDS:
            return UNSURE, f"a reading ease of {measured.ease} is a rough guess for so few words"
        if abs(measured.ease - limit) < UNSURE_EASE:
            return UNSURE, f"the reading ease of {measured.ease} is close to the limit of {limit:g}"
        return SURE, ""

    def _note_match(self, rule: str, severity: Severity, match: Match, message: str) -> None:
        self._named.add(match.start)
        self._note(rule, severity, match.start, match.end, message)

    def _note(self, rule: str, severity: Severity, start: int, end: int, message: str) -> None:
        begin, after = self._prose.span(start, end)
        if after - begin > _LONGEST_QUOTE:
            after = begin + _LONGEST_QUOTE
            message += f"; the quote shows its first {_LONGEST_QUOTE:,} characters"
        self.findings.append(
            Finding(
                step=self._step,
                rule=rule,
                severity=severity,
                message=message,
                quote=self._draft[begin:after],
                start=begin,
                end=after,
            )
        )


def _shouts(capitals: str) -> bool:
    """Say whether words in capitals are more than abbreviations that stand side by side."""
    words = capitals.rstrip("!").split()
    letters = sum(map(len, words))
    if capitals.endswith("!"):
        return letters >= (4 if len(words) == 1 else 5)
    return (len(words) >= 3 and letters >= 9) or (len(words) == 2 and letters >= 10)
