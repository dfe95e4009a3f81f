"""The compliance check: phrases that must stand in the draft, and phrases that must not.

Confidence: an exact match, or the lack of one, is certain (0.99). A near miss that decides something (a required phrase
that is only nearly there, a forbidden one that is only nearly avoided) is for a human to judge: 0.5 at the least
similarity that counts, 0.65 at the greatest. A draft that could not be read to the letter caps it at 0.6.
"""

from __future__ import annotations

from typing import Final

from motet_agents.qa.checklist import ComplianceRules
from motet_agents.qa.documents import Document
from motet_agents.qa.matching import FoldedText, Match, find_phrase
from motet_agents.qa.near_misses import NearMiss, find_near_misses
from motet_agents.qa.results import MAX_FINDINGS, CheckResult, count, in_order
from motet_schemas.base import Json
from motet_schemas.findings import Finding, Severity

SURE: Final = 0.99
UNDECIDED: Final = 0.6
_NEAR_LOW, _NEAR_HIGH = 0.5, 0.65
_NEAR_MISSES_SHOWN = 20


def check_compliance(document: Document, rules: ComplianceRules, step: str) -> CheckResult:
    """Return what in `document` breaks `rules`; `step` names the finder in each finding."""
    check = _ComplianceCheck(document, rules, step)
    check.required()
    check.forbidden()
    confidence = min(check.confidences)
    notes = f"{check.present} of {count(len(check.required_phrases), 'required phrase')} found, "
    notes += f"{count(check.occurrences, 'forbidden occurrence')}, {count(check.near, 'near miss', 'near misses')}"
    if document.reading.coarse:
        confidence = min(confidence, UNDECIDED)
        notes += f"; {document.reading.coarse}"
    findings = in_order(check.findings, step, "compliance")
    output: dict[str, Json] = {"phrases": check.outcomes, "findings": len(findings)}
    return CheckResult(findings=findings, confidence=confidence, notes=f"{notes}.", output=output)


class _ComplianceCheck:
    def __init__(self, document: Document, rules: ComplianceRules, step: str) -> None:
        self.findings: list[Finding] = []
        self.outcomes: list[Json] = []
        self.confidences = [SURE]
        self.present = self.occurrences = self.near = 0
        self.required_phrases = list(dict.fromkeys(rules.required))
        self._forbidden_phrases = list(dict.fromkeys(rules.forbidden))
        self._draft = document.text
        self._prose = document.prose
        self._least = rules.near_miss_ratio
        self._step = step
        self._folded = FoldedText(document.prose)
        self._exact: dict[str, list[Match]] = {
            phrase: list(find_phrase(self._folded, phrase, MAX_FINDINGS + 1))
            for phrase in (*self.required_phrases, *self._forbidden_phrases)
        }
        self._taken = [match.place for matches in self._exact.values() for match in matches]

    def required(self) -> None:
        for phrase in self.required_phrases:
            found = len(self._exact[phrase])
            near = [] if found else self._near_misses(phrase)
            self.present += bool(found)
            self._outcome("required", phrase, found, near)
            if near:
                best = max(near, key=lambda miss: miss.ratio)
                message = f'"{phrase}" is required; this is only nearly it ({best.ratio:.0f} % alike)'
                self._note_near(best, message, decides=True)
            elif not found:
                message = f'"{phrase}" is required, and stands nowhere in the draft'
                self.findings.append(self._finding("compliance.required", "error", message, None))

    def forbidden(self) -> None:
        for phrase in self._forbidden_phrases:
            matches = self._exact[phrase]
            near = self._near_misses(phrase)
            self.occurrences += len(matches)
            self._outcome("forbidden", phrase, len(matches), near)
            for match in matches:
                place = self._prose.span(match.start, match.end)
                message = f'"{phrase}" is forbidden; take it out'
                self.findings.append(self._finding("compliance.forbidden", "error", message, place))
            for miss in near:
                message = f'this is nearly "{phrase}", which is forbidden ({miss.ratio:.0f} % alike)'
                self._note_near(miss, message, decides=not matches)

    def _near_misses(self, phrase: str) -> list[NearMiss]:
        return list(find_near_misses(self._folded, phrase, self._least, self._taken, _NEAR_MISSES_SHOWN))

    def _outcome(self, kind: str, phrase: str, found: int, near: list[NearMiss]) -> None:
        best = round(max(miss.ratio for miss in near), 1) if near else None
        self.outcomes.append(
            {"kind": kind, "phrase": phrase, "found": found, "near_misses": len(near), "nearest": best}
        )

    def _note_near(self, miss: NearMiss, message: str, *, decides: bool) -> None:
        """Note a near miss; the confidence suffers only when the verdict hangs on it."""
        self.near += 1
        place = self._prose.span(*self._folded.origin(miss.start, miss.end))
        self.findings.append(self._finding("compliance.near-miss", "warning", message, place))
        if decides:
            share = (miss.ratio - self._least) / (100 - self._least)
            self.confidences.append(round(_NEAR_LOW + (_NEAR_HIGH - _NEAR_LOW) * share, 3))

    def _finding(self, rule: str, severity: Severity, message: str, place: tuple[int, int] | None) -> Finding:
        if place is None:
            return Finding(step=self._step, rule=rule, severity=severity, message=message)
        start, end = place
        quote = self._draft[start:end]
        return Finding(
            step=self._step, rule=rule, severity=severity, message=message, quote=quote, start=start, end=end
        )
