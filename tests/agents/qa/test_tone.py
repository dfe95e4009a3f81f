"""How a draft sounds: every word that is found is quoted, and what is not judged is said."""

from __future__ import annotations

import pytest

from motet_agents.qa import ToneRules, check_tone, document_of, quotes_stand
from motet_agents.qa.results import MAX_FINDINGS
from motet_agents.qa.sentences import sentences, syllables
from motet_schemas.findings import Finding


def _found(draft: str, rules: ToneRules, media_type: str = "text/markdown") -> list[Finding]:
    result = check_tone(document_of(draft, media_type=media_type), rules, "tone")
    assert quotes_stand(draft, result.findings).passed
    assert all(finding.step == "tone" for finding in result.findings)
    return list(result.findings)


def _quotes(draft: str, rule: str, rules: ToneRules) -> list[str | None]:
    return [finding.quote for finding in _found(draft, rules) if finding.rule == rule]


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        ("A Revolutionary idea, REVOLUTIONARY!", ["Revolutionary", "REVOLUTIONARY"]),
        ("counterrevolutionary revolutionaryish", []),
        ("counter-revolutionary revolutionary's", ["revolutionary", "revolutionary"]),
        ("`revolutionary` and\n\n    revolutionary\n", []),
        ("[x](http://x.example/revolutionary) http://x.example/revolutionary", []),
        ("revolu**tionary**", ["revolu**tionary"]),
        ("re\u00advolutionary", ["re\u00advolutionary"]),
        ("revolutionary\u0301", []),
        ("\uff52evolutionary", ["\uff52evolutionary"]),
    ],
)
def test_banned_words_are_found_as_whole_words(draft: str, expected: list[str]) -> None:
    assert _quotes(draft, "tone.banned", ToneRules(banned=("revolutionary",))) == expected


@pytest.mark.parametrize(
    ("phrase", "draft", "expected"),
    [
        ("don't miss", "Don’t\n  miss it", "Don’t\n  miss"),
        ("don’t miss", "> DON'T\r\n> MISS it", "DON'T\r\n> MISS"),
        ("can", "You can't", None),
        ("100% safe", "It is 100%\u00a0safe.", "100%\u00a0safe"),
        ("C++", "We use c++.", "c++"),
        ("over here", "over\n\nhere", None),
        ("over here", "- over\n- here", None),
        ("the file", "the `x` file", None),
        ("Straße", "die STRASSE", "STRASSE"),
        ("ﬁne print", "Fine print", "Fine print"),
        ("cafe\u0301", "Café", "Café"),
        ("state-of-the-art", "state‑of‑the–art", "state‑of‑the–art"),
    ],
)
def test_phrases_match_however_they_are_set(phrase: str, draft: str, expected: str | None) -> None:
    assert _quotes(draft, "tone.banned", ToneRules(banned=(phrase,))) == ([expected] if expected else [])


def test_a_preferred_word_is_named_in_the_message() -> None:
    (finding,) = _found("We utilize it.", ToneRules(preferred={"utilize": "use"}))
    assert (finding.rule, finding.severity, finding.quote) == ("tone.preferred", "warning", "utilize")
    assert '"use"' in finding.message


def test_hype_is_advice_until_the_checklist_asks_for_it() -> None:
    draft = "A game-changing, bespoke thing."
    assert [(f.quote, f.severity) for f in _found(draft, ToneRules())] == [("game-changing", "info")]
    assert [(f.quote, f.severity) for f in _found(draft, ToneRules(hype=True))] == [("game-changing", "warning")]
    assert [(f.quote, f.severity) for f in _found(draft, ToneRules(hype=("bespoke",)))] == [("bespoke", "warning")]
    assert _found(draft, ToneRules(hype=False)) == []


def test_a_banned_word_is_not_reported_again_as_hype() -> None:
    found = _found("Revolutionary!", ToneRules(banned=("revolutionary",), hype=True))
    assert [finding.rule for finding in found] == ["tone.banned"]


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        ("BUY NOW! It is FREE!", ["BUY NOW!", "FREE!"]),
        ("Great!! Or??", ["!!"]),
        ("NOTHING COMPARES HERE at all", ["NOTHING COMPARES HERE"]),
        ("The HTTP API of NATO, USA. README", []),
        ("`SHOUT LOUD HERE!!`", []),
    ],
)
def test_shouting_is_heard(draft: str, expected: list[str]) -> None:
    assert _quotes(draft, "tone.shouting", ToneRules(shouting=True)) == expected
    assert _quotes(draft, "tone.shouting", ToneRules(shouting=False)) == []


def test_a_long_sentence_is_quoted_whole_and_none_runs_across_blocks() -> None:
    draft = "# One two three\n\nOne two three four five\nsix. One two.\n\n- one two three\n- four five six"
    rules = ToneRules(max_sentence_words=5)
    assert _quotes(draft, "tone.sentence", rules) == ["One two three four five\nsix."]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Dr. Smith met J. R. Brown, e.g. today. He left.", 2),
        ("Really?! Yes… “Quite so.” (Indeed.) Version 1.5 works.", 5),
        ("No. Then go.", 2),
        ("He asked me. then", 1),
        ("你好。再见！", 2),
    ],
)
def test_sentences_end_where_readers_stop(text: str, number: int) -> None:
    assert len(list(sentences(document_of(text).prose))) == number


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("cat", 1),
        ("table", 2),
        ("readability", 5),
        ("walked", 1),
        ("wanted", 2),
        ("beautiful", 3),
        ("the", 1),
        ("rhythm", 1),
    ],
)
def test_syllables_are_counted_as_spoken(word: str, number: int) -> None:
    assert syllables(word) == number


def test_readability_has_no_place_and_says_what_it_measured() -> None:
    hard = "Organizational interdependencies necessitate comprehensive infrastructural reconsiderations. " * 20
    result = check_tone(document_of(hard), ToneRules(min_reading_ease=40), "t")
    (finding,) = result.findings
    assert (finding.rule, finding.severity, finding.quote, finding.start) == ("tone.readability", "warning", None, None)
    assert "40" in finding.message
    assert result.confidence > 0.9
    easy = check_tone(
        document_of("The cat sat on the mat. It was a good day for us all. " * 20), ToneRules(min_reading_ease=60), "t"
    )
    assert easy.findings == ()


@pytest.mark.parametrize(
    ("draft", "least", "most"),
    [("The cat sat on the mat.", 0.7, 0.9), ("你好。再见！", 0, 0.6), ("`code only`", 0, 0.6)],
)
def test_what_cannot_be_judged_lowers_the_confidence(draft: str, least: float, most: float) -> None:
    result = check_tone(document_of(draft), ToneRules(min_reading_ease=40), "t")
    assert least <= result.confidence <= most
    assert "reading ease" in result.notes


def test_more_findings_than_can_be_listed_are_owned_up_to() -> None:
    result = check_tone(document_of("free " * 3_000), ToneRules(banned=("free",)), "t")
    assert len(result.findings) == MAX_FINDINGS
    assert result.findings[-1].rule == "tone.more"
    assert result.findings[-1].quote is None
