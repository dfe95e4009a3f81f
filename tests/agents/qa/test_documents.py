"""Bytes become a draft, or an error that says what to do."""

from __future__ import annotations

import pytest

from motet_agents.qa import MAX_BYTES, document_of, media_type_of, read_document
from motet_schemas.errors import InvalidInputError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_offsets_count_characters_behind_the_byte_order_mark(encoding: str) -> None:
    document = read_document("Grüße 🎉 https://x.example/".encode(encoding), name="a.txt")
    assert document.text.startswith("Grüße")
    (link,) = document.links
    assert document.text[link.start : link.end] == "https://x.example/"


def test_line_ends_are_kept() -> None:
    assert read_document(b"a\r\nb\r\n").text == "a\r\nb\r\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty"]),
        (b"\xef\xbb\xbf  \n", ["empty"]),
        ("Grüße".encode("latin-1"), ["not UTF-8", "0xFC", "offset 2"]),
        (b"\xff\xfea", ["UTF-16"]),
        (b"abc\x00def", ["binary"]),
        (bytes(range(1, 9)) * 3, ["binary"]),
        (b"%PDF-1.4 text", ["PDF", "export"]),
        (b"x" * (MAX_BYTES + 1), ["5,242,881", "5,242,880"]),
    ],
)
def test_what_is_no_draft_is_refused(data: bytes, words: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_document(data, name="drafts/spring.md")
    for word in ["drafts/spring.md", *words]:
        assert word in str(caught.value)


def test_a_draft_of_the_largest_size_is_taken() -> None:
    assert len(read_document(b"x " * (MAX_BYTES // 2), name="a.txt").text) == MAX_BYTES


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="surrogate"):
        document_of("a\ud800")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("a.md", None, "text/markdown"),
        ("a.MARKDOWN", None, "text/markdown"),
        ("a.html", None, "text/html"),
        ("a.txt", None, "text/plain"),
        ("README", None, "text/plain"),
        ("a.md", "text/html; charset=utf-8", "text/html"),
    ],
)
def test_media_types_follow_from_names(name: str, given: str | None, expected: str) -> None:
    assert media_type_of(name, given) == expected


def test_an_unknown_media_type_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="text/markdown, text/html, text/plain"):
        media_type_of("a", "application/pdf")
