"""Whatever a draft is made of: what is shown stands where it is said to, and no link and no phrase is missed."""

from __future__ import annotations

import html

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from motet_agents.qa import (
    Checklist,
    ComplianceRules,
    Document,
    ToneRules,
    check_compliance,
    check_tone,
    lexicon_holds,
    links_complete,
    quotes_stand,
)
from motet_agents.qa.prose import BLOCK, GAP
from motet_schemas.base import Json

_FRAGMENTS = st.sampled_from(
    [
        *(
            "risk-free",
            "Risk-Free",
            "risk-",
            "free",
            " ",
            "  ",
            "\t",
            "word",
            "a",
            "é",
            "e\u0301",
            "ﬁ",
            "🎉",
            "مرحبا",
            "’",
        ),
        *("\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "    ", "\n    ", "\n\t", "> ", "\n> ", "\n>> ", "\n- ", "\n1. "),
        *(
            "\n  * ",
            "\n\n  ",
            "*",
            "**",
            "_",
            "~~",
            "`",
            "``",
            "\n```\n",
            "\n~~~\n",
            "\\",
            "\\*",
            "!",
            "[",
            "]",
            "(",
            ")",
        ),
        *(
            ")",
            "](",
            "][",
            "[x]",
            "{#id}",
            "[a](http://h.example/1)",
            "[a](<http://h.example/2 b> 't')",
            "[a][r]",
            "[r]",
        ),
        *("![i](http://h.example/3)", "\n\n[r]: http://h.example/4\n", "<http://h.example/5>", "http://h.example/6"),
        *(
            "www.h.example",
            "https://h.example/a_b*c)",
            "<",
            ">",
            "<b>",
            "</b>",
            "<a href='http://h.example/7'>",
            "</a>",
        ),
        *("<p>", "</p>", "<div>", "</div>", "<br>", "<code>", "</code>", "<pre>", "</pre>", "<!--", "-->"),
        *(
            "<img src=http://h.example/8>",
            "</script>",
            "&amp;",
            "&nbsp;",
            "&",
            "&#65;",
            "\n| a | b |\n|---|---|\n",
            "|",
        ),
        *("\\|", "\n# ", "\n## ", " #\n", "\n===\n", "\n---\n", "---\n", "a: b\n", "\u00a0", "\u2028", "\u00ad"),
    ]
)
_DRAFTS = st.lists(_FRAGMENTS, min_size=1, max_size=30).map("".join)
_TYPES = st.sampled_from(["text/markdown", "text/html", "text/plain"])
_TONE = ToneRules(banned=("free",), preferred={"word": "term"}, max_sentence_words=4, hype=("risk-free",))
_COMPLIANCE = ComplianceRules(required=("risk-free word",), forbidden=("risk-free", "free word"))
_SEARCH = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=300)


@_SEARCH
@given(text=_DRAFTS, media_type=_TYPES)
def test_every_character_shown_stands_in_the_draft(text: str, media_type: str) -> None:
    document = Document(text, media_type)  # type: ignore[arg-type]
    prose = document.prose
    last = 0
    for position, character in enumerate(prose.text):
        if character in BLOCK + GAP:
            continue
        start, end = prose.span(position, position + 1)
        assert last <= start < end <= len(text)
        shown = text[start:end]
        is_same = shown == character or (character == "\n" and shown in "\r<\\")
        assert is_same or shown in ("\\" + character, "\\\n", "\\\r") or character in html.unescape(shown)
        last = start


@_SEARCH
@given(text=_DRAFTS, media_type=_TYPES)
def test_every_quote_is_the_slice_and_no_plain_phrase_is_missed(text: str, media_type: str) -> None:
    document = Document(text, media_type)  # type: ignore[arg-type]
    found = (*check_tone(document, _TONE, "s").findings, *check_compliance(document, _COMPLIANCE, "s").findings)
    assert quotes_stand(text, found).passed
    outcome = lexicon_holds(document, Checklist(tone=_TONE, compliance=_COMPLIANCE), found)
    assert outcome.passed, outcome.evidence


@_SEARCH
@given(text=_DRAFTS)
@example("[a](http://h.example/1")
def test_every_link_of_the_rendered_markdown_is_found(text: str) -> None:
    _assert_links_are_found(Document(text, "text/markdown"))


@_SEARCH
@given(text=_DRAFTS)
def test_every_link_of_html_and_plain_text_is_found(text: str) -> None:
    _assert_links_are_found(Document(text, "text/html"))
    _assert_links_are_found(Document(text, "text/plain"))


@pytest.mark.parametrize("media_type", ["text/markdown", "text/html", "text/plain"])
def test_a_link_that_is_not_listed_is_noticed(media_type: str) -> None:
    document = Document("<p>See http://h.example/6 and <a href='x'>this</a>, or http://h.example/8.", media_type)  # type: ignore[arg-type]
    for left_out in document.links:
        listed: list[Json] = [{"target": link.target, "result": "ok"} for link in document.links if link != left_out]
        assert not links_complete(document, {"links": listed}).passed


def _assert_links_are_found(document: Document) -> None:
    for link in document.links:
        raw = document.text[link.start : link.end]
        assert link.kind == "reference" or raw
    listed: list[Json] = [{"target": link.target, "result": "ok"} for link in document.links]
    outcome = links_complete(document, {"links": listed})
    assert outcome.passed, outcome.evidence
