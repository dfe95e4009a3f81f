"""Drafts that are no drafts: read and checked in a process whose memory is measured."""

from __future__ import annotations

from typing import Final

from motet_agents.qa import ComplianceRules, ToneRules, check_compliance, check_tone, document_of
from motet_schemas import InvalidInputError

_TONE: Final = ToneRules(banned=("snake oil",), max_sentence_words=40, min_reading_ease=10)
_COMPLIANCE: Final = ComplianceRules(required=("Terms apply",), forbidden=("risk-free",))
_HTML: Final = (
    "<div>",
    "<a href='#x'>",
    "<table><tr><td>",
    "&amp;",
    "&#x110000;",
    "<!--",
    "<script>",
    "<a " + "b='c' " * 50 + ">",
    "<svg><foreignObject>",
    "</p>",
    "\x1b[31m<b>",
)
_MARKDOWN: Final = (
    "[a](b) ",
    "![",
    "**a",
    "> ",
    "- " * 20,
    "|",
    "```\n",
    "<div>\n",
    "[x]: y\n",
    "_" * 10,
    "a\u0301" * 10,
    "🏳️‍🌈",
)


def check_all(size: str) -> dict[str, int]:
    """Check a draft of about `size` bytes of each contrivance; return the number of findings, -1 for none read."""
    found: dict[str, int] = {}
    for media_type, parts in (
        ("text/html", _HTML),
        ("text/markdown", _MARKDOWN),
        ("text/plain", ("a", "\u200b", "\n")),
    ):
        for part in parts:
            draft = part * (int(size) // len(part.encode()) + 1)
            found[f"{media_type} {part[:20]!r}"] = _check(f"{draft} Terms apply.", media_type)
    return found


def _check(draft: str, media_type: str) -> int:
    try:
        document = document_of(draft, media_type=media_type)
        results = [check_tone(document, _TONE, "t"), check_compliance(document, _COMPLIANCE, "c")]
    except InvalidInputError:
        return -1
    return sum(len(result.findings) for result in results)
