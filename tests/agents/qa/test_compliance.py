"""Required and forbidden phrases: exact ones decide, near ones are for a human."""

from __future__ import annotations

import pytest

from motet_agents.qa import CheckResult, ComplianceRules, check_compliance, document_of, quotes_stand


def _check(draft: str, required: tuple[str, ...] = (), forbidden: tuple[str, ...] = ()) -> CheckResult:
    rules = ComplianceRules(required=required, forbidden=forbidden)
    result = check_compliance(document_of(draft), rules, "compliance")
    assert quotes_stand(draft, result.findings).passed
    return result


def _rules(result: CheckResult) -> list[tuple[str, str | None]]:
    return [(finding.rule, finding.quote) for finding in result.findings]


def test_each_forbidden_occurrence_is_quoted() -> None:
    result = _check("It is risk-free, truly RISK‑FREE, and `risk-free` in code.", forbidden=("risk-free",))
    assert _rules(result) == [("compliance.forbidden", "risk-free"), ("compliance.forbidden", "RISK‑FREE")]
    assert {finding.severity for finding in result.findings} == {"error"}
    assert result.confidence == 0.99


@pytest.mark.parametrize(
    "draft", ["Terms apply.", "TERMS\u00a0APPLY", "> terms\r\n> apply", "**Terms** apply", "Terms&nbsp;apply"]
)
def test_a_required_phrase_is_found_however_it_is_set(draft: str) -> None:
    result = _check(draft, required=("Terms apply",))
    assert result.findings == ()
    assert result.confidence == 0.99


def test_a_missing_phrase_has_no_place() -> None:
    result = _check("Nothing of the kind.", required=("Terms apply",))
    (finding,) = result.findings
    assert (finding.rule, finding.severity, finding.quote, finding.start, finding.end) == (
        "compliance.required",
        "error",
        None,
        None,
        None,
    )
    assert result.confidence == 0.99


@pytest.mark.parametrize("near", ["Terms aply", "Term apply", "Terms-apply", "terms  aplly"])
def test_a_near_miss_of_a_required_phrase_is_reported_instead_and_lowers_confidence(near: str) -> None:
    result = _check(f"Now: {near}, always.", required=("Terms apply",))
    assert _rules(result) == [("compliance.near-miss", near)]
    assert result.findings[0].severity == "warning"
    assert 0.5 <= result.confidence <= 0.65


def test_an_exact_occurrence_elsewhere_makes_near_ones_irrelevant() -> None:
    assert _check("Terms apply. Terms aply.", required=("Terms apply",)).findings == ()


@pytest.mark.parametrize("near", ["risk free", "risk-fre", "riskfree"])
def test_a_near_miss_of_a_forbidden_phrase_is_for_a_human(near: str) -> None:
    result = _check(f"It is {near} for you.", forbidden=("risk-free",))
    assert _rules(result) == [("compliance.near-miss", near)]
    assert result.confidence < 0.7


def test_a_near_miss_beside_an_exact_one_does_not_lower_confidence() -> None:
    result = _check("It is risk-free, and risk free.", forbidden=("risk-free",))
    assert _rules(result) == [("compliance.forbidden", "risk-free"), ("compliance.near-miss", "risk free")]
    assert result.confidence == 0.99


@pytest.mark.parametrize(
    ("phrase", "draft"),
    [
        ("best", "the rest is a test"),
        ("cure", "cures and sure care"),
        ("unlimited", "a limited offer"),
        ("ensure", "insure"),
        ("guaranteed returns", "returns are not guaranteed by anyone"),
        ("risk-free", "see `risk free` and http://x.example/risk-fre"),
        ("terms and conditions", "terms\n\nand conditions"),
    ],
)
def test_what_only_looks_alike_is_no_near_miss(phrase: str, draft: str) -> None:
    assert _check(draft, forbidden=(phrase,)).findings == ()


def test_words_of_another_rule_are_no_near_miss() -> None:
    result = _check("Terms and conditions apply.", ("Terms and conditions apply",), ("Terms and condition apply",))
    assert result.findings == ()


def test_several_near_misses_are_all_found_with_their_places() -> None:
    draft = "A garanteed thing. " + "Filler words here. " * 400 + "> Then guarantead it.\n\nAnd a guaranted end."
    assert [quote for _, quote in _rules(_check(draft, forbidden=("guaranteed",)))] == [
        "garanteed",
        "guarantead",
        "guaranted",
    ]


def test_the_output_names_every_phrase() -> None:
    result = _check("Terms apply, risk-free.", ("Terms apply",), ("risk-free", "miracle cure"))
    phrases = result.output["phrases"]
    assert isinstance(phrases, list)
    assert [phrase["found"] for phrase in phrases if isinstance(phrase, dict)] == [1, 1, 0]
