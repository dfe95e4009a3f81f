"""The largest drafts, and the most contrived ones, are read with an amount of work that grows with their size only."""

from __future__ import annotations

import pytest

from motet_agents.qa import (
    MAX_BYTES,
    Checklist,
    ComplianceRules,
    ToneRules,
    check_compliance,
    check_tone,
    document_of,
    lexicon_holds,
    links_complete,
    quotes_stand,
)
from motet_agents.qa.markdown_inline import MAX_BLOCK_STEPS, Steps, TooMuchMarkupError
from motet_schemas.base import Json

pytestmark = pytest.mark.slow

_CHECKLIST = Checklist(
    tone=ToneRules(banned=("snake oil",), max_sentence_words=40, min_reading_ease=10),
    compliance=ComplianceRules(required=("Terms apply",), forbidden=("risk-free",)),
)
_LARGE = 5_000_000
_CONTRIVED = 100_000


def _check(draft: str, media_type: str) -> float:
    """Run all that reads a draft; return the lower confidence."""
    document = document_of(draft, media_type=media_type)
    tone, compliance = _CHECKLIST.tone, _CHECKLIST.compliance
    assert tone is not None
    assert compliance is not None
    results = [check_tone(document, tone, "t"), check_compliance(document, compliance, "c")]
    found = [finding for result in results for finding in result.findings]
    assert quotes_stand(draft, found).passed
    assert lexicon_holds(document, _CHECKLIST, found).passed
    listed: list[Json] = [{"target": link.target, "result": "ok"} for link in document.links]
    assert links_complete(document, {"links": listed}).passed
    return min(result.confidence for result in results)


@pytest.mark.parametrize("media_type", ["text/markdown", "text/html", "text/plain"])
def test_five_megabytes_of_prose_are_checked(media_type: str) -> None:
    paragraph = "The quick brown fox jumps over the lazy dog, and nobody minds. " * 12 + "See <b>this</b>.\n\n"
    draft = paragraph * (_LARGE // len(paragraph)) + "It is risk-free. Terms apply."
    assert len(draft.encode()) <= MAX_BYTES
    assert _check(draft, media_type) > 0.9


@pytest.mark.parametrize("mark", ["[", "<", "![", "<a ", "<!-- ", "`a ", "\\", "> ", ".", "a"])
def test_five_megabytes_of_one_mark_are_survived(mark: str) -> None:
    document = document_of((mark * (_LARGE // len(mark)))[:_LARGE])
    assert document.links == ()
    assert len(document.prose.text) <= _LARGE + 1


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "[",
            "![",
            "[a](",
            "[a",
            "]",
            "<",
            "<a ",
            "<a b='",
            "</",
            "<!",
            "<?",
            "<!--",
            "<script>",
            "<code>",
            "<p>",
            "`",
            "*a ",
        ),
        *(
            "a**b",
            "_a",
            "~~a",
            "&amp;",
            "&",
            "\\",
            "> ",
            "- ",
            "a\n",
            "* a\n",
            "|a",
            "|a|b|\n",
            "[x]: u\n",
            "[x]\n",
            "# a\n",
        ),
        *(
            "http://a ",
            "http://a(",
            "www.a.",
            "x@y ",
            "...",
            "!!",
            "AA ",
            "ﬁ",
            "e\u0301",
            "risk fre ",
            "risk-free ",
            "\r",
            "\t",
        ),
    ],
)
@pytest.mark.parametrize("media_type", ["text/markdown", "text/html", "text/plain"])
def test_contrived_drafts_are_read(pattern: str, media_type: str) -> None:
    draft = "x " + pattern * (_CONTRIVED // len(pattern) // (10 if media_type == "text/markdown" else 1))
    assert 0 < _check(draft, media_type) <= 0.99


def test_a_draft_with_too_much_markup_is_read_as_text_and_says_so() -> None:
    draft = "*a " * MAX_BLOCK_STEPS + "[a](http://x.example/a) http://x.example/b risk-free"
    document = document_of(draft)
    assert document.reading.coarse
    assert {link.target for link in document.links} == {"http://x.example/a", "http://x.example/b"}
    assert _check(draft, "text/markdown") <= 0.6


def test_the_work_for_one_document_is_bounded() -> None:
    steps = Steps(left=MAX_BLOCK_STEPS + 10)

    def read_a_dense_block() -> None:
        steps.begin_block()
        for _ in range(MAX_BLOCK_STEPS):
            steps.take()

    read_a_dense_block()
    read_a_dense_block()
    with pytest.raises(TooMuchMarkupError):
        read_a_dense_block()
