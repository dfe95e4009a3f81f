"""Gates notice what a check left out or made up."""

from __future__ import annotations

import pytest

from motet_agents.qa import (
    Checklist,
    ComplianceRules,
    LinkRules,
    ToneRules,
    check_compliance,
    check_tone,
    document_of,
    lexicon_holds,
    links_complete,
    quotes_stand,
)
from motet_schemas.base import Json
from motet_schemas.findings import Finding

_CHECKLIST = Checklist(
    tone=ToneRules(banned=("revolutionary",), preferred={"utilize": "use"}),
    compliance=ComplianceRules(required=("Terms apply",), forbidden=("risk-free",)),
    links=LinkRules(),
)
_DRAFT = (
    "# Revolutionary\n\nWe utilize it, *risk-free*. Terms apply. `risk-free`\n\n"
    "[a](http://x.example/a) [b](#revolutionary)"
)


def test_a_quote_that_is_elsewhere_is_noticed() -> None:
    finding = Finding(
        step="s", rule="tone.banned", severity="error", message="m", quote="Revolutionary", start=3, end=16
    )
    outcome = quotes_stand(_DRAFT, [finding])
    assert not outcome.passed
    assert "tone.banned at 3" in outcome.evidence
    assert quotes_stand(_DRAFT, [finding.evolve(start=2, end=15)]).passed


@pytest.mark.parametrize("media_type", ["text/markdown", "text/html", "text/plain"])
def test_a_finding_that_is_left_out_is_noticed(media_type: str) -> None:
    document = document_of(_DRAFT.replace("`risk-free`", ""), media_type=media_type)
    tone, compliance = _CHECKLIST.tone, _CHECKLIST.compliance
    assert tone is not None
    assert compliance is not None
    found = [*check_tone(document, tone, "t").findings, *check_compliance(document, compliance, "c").findings]
    assert lexicon_holds(document, _CHECKLIST, found).passed
    for left_out in found:
        if left_out.rule in ("tone.banned", "tone.preferred", "compliance.forbidden"):
            rest = [finding for finding in found if finding != left_out]
            assert not lexicon_holds(document, _CHECKLIST, rest).passed


def test_each_group_answers_for_its_own_phrases() -> None:
    document = document_of(_DRAFT)
    tone = _CHECKLIST.tone
    assert tone is not None
    found = check_tone(document, tone, "t").findings
    assert lexicon_holds(document, _CHECKLIST, found, group="tone").passed
    assert not lexicon_holds(document, _CHECKLIST, found, group="compliance").passed


def test_a_required_phrase_that_is_there_cannot_be_reported_missing() -> None:
    missing = Finding(step="s", rule="compliance.required", severity="error", message="m")
    forbidden = Finding(
        step="s", rule="compliance.forbidden", severity="error", message="m", quote="risk-free", start=33, end=42
    )
    outcome = lexicon_holds(document_of(_DRAFT), _CHECKLIST, [missing, forbidden], group="compliance")
    assert "reported missing" in outcome.evidence


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"links": "none"},
        {"links": [{"target": "http://x.example/a"}]},
        {"links": [{"target": "http://x.example/a", "result": "ok"}]},
    ],
)
def test_a_list_of_links_that_is_not_whole_is_noticed(output: dict[str, Json]) -> None:
    assert not links_complete(document_of(_DRAFT), output).passed


def test_a_whole_list_of_links_passes_whatever_the_spelling() -> None:
    document = document_of("[a](<http://MÜNCHEN.example/a b>) <http://x.example/é> ![i](i.png)")
    listed: list[Json] = [{"target": link.target, "result": "ok"} for link in document.links]
    assert len(listed) == 3
    assert links_complete(document, {"links": listed}).passed


def test_only_the_beginning_of_an_endless_page_is_rendered_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motet_agents.qa.gates._MARKS_AT_MOST", 1_000)
    document = document_of("[a](http://x.example/a) *b*\n\n" * 2_000)
    outcome = links_complete(document, {"links": [{"target": "http://x.example/a", "result": "ok"}]})
    assert outcome.passed
    assert "the first" in outcome.evidence
