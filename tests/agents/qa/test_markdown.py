"""Markdown is read as its page shows it, with every place in the draft."""

from __future__ import annotations

import pytest

from motet_agents.qa import document_of
from motet_agents.qa.markdown_reading import MAX_NESTING
from tests.agents.qa.reading_aloud import blocks, targets


@pytest.mark.parametrize(
    ("draft", "shown"),
    [
        ("# Title\n\nOne *two* **three** ~~four~~.\n", ["Title", "One two three four."]),
        ("risk-**free** offer", ["risk-free offer"]),
        ("a \\* b &amp; c &lt; d", ["a * b & c < d"]),
        ("snake_case stays, 2 * 3 stays", ["snake_case stays, 2 * 3 stays"]),
        ("***both*** and **open", ["both and **open"]),
        ("see `code` here", ["see _ here"]),
        ("see ``a ` b`` here", ["see _ here"]),
        ("```\nfence\n```\n\ntext", ["text"]),
        ("~~~html\n<p>fence</p>\n~~~\ntext", ["text"]),
        ("    indented code\n\ntext", ["text"]),
        ("- one\n- two\n\n  more\n1. three", ["one", "two", "more", "three"]),
        ("> quoted\nlazy\n>\n> next", ["quoted lazy", "next"]),
        ("> - deep\n>   text", ["deep text"]),
        ("| a | b |\n|---|:-:|\n| x\\|y | *z* |\n| only |", ["a", "b", "x|y", "z", "only"]),
        ("> | a | b |\n> |---|---|\n> | c | d |", ["a", "b", "c", "d"]),
        ("a | b\n--|--\na | a", ["a", "b", "a", "a"]),
        ("Head\n====\n\nHead 2\n---\ntext", ["Head", "Head 2", "text"]),
        ("one  \ntwo\\\nthree", ["one two three"]),
        ('[label *text*](http://x.example "title") end', ["label text end"]),
        ("![picture](a.png) end", ["_ end"]),
        ("<div>block <b>bold</b></div>\n\ntext", ["block bold", "text"]),
        ("a <!-- hidden --> b <span title='no'>c</span>", ["a b c"]),
        ("<!-- hidden\n\nstill --> shown", ["shown"]),
        ("a <code>code **x**</code> b", ["a _ b"]),
        ("<pre>\ncode\n\n</pre>\n\ntext", ["text"]),
        ("<script>\nlet a;\n</script>\ntext", ["text"]),
        ("go to http://x.example/risk-free now", ["go to _ now"]),
        ("---\ntitle: hidden\ntags: [a]\n---\ntext", ["text"]),
        ("+++\ntitle = 'hidden'\n+++\ntext", ["text"]),
        ("---\nNot metadata here.\n\n---\ntext", ["Not metadata here.", "text"]),
        ("[ref]: http://x.example 'hidden'\n\ntext", ["text"]),
        ("\tcode\n\n-\titem\n\n\tmore", ["item", "more"]),
        ("مرحبا **بالعالم** 🎉👩‍👩‍👧", ["مرحبا بالعالم 🎉👩‍👩‍👧"]),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_prose_is_what_the_page_shows_outside_code(draft: str, shown: list[str], line_end: str) -> None:
    assert blocks(document_of(draft.replace("\n", line_end))) == shown


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        ("[a](http://x.example/a)", ["http://x.example/a"]),
        ("[a](<http://x.example/a b> 't')", ["http://x.example/a b"]),
        ('[a](http://x.example/(b) "t")', ["http://x.example/(b)"]),
        ("[a](http://x.example/?a=1&amp;b=2)", ["http://x.example/?a=1&b=2"]),
        ("[a](http://x.example/\\_b)", ["http://x.example/_b"]),
        ("[a]()", []),
        ("[a][b] [b][] [b]\n\n[b]: http://x.example/b", ["http://x.example/b"]),
        ("[a][b]\n\n> [b]:\n> <http://x.example/b>", ["http://x.example/b"]),
        ("[a][missing]", []),
        ("[unused]: http://x.example/b", []),
        ("<http://x.example/a> <me@x.example>", ["http://x.example/a", "mailto:me@x.example"]),
        ("http://x.example/a, (https://y.example/b)", ["http://x.example/a", "https://y.example/b"]),
        ("http://x.example/a\\_b\\* c", ["http://x.example/a_b"]),
        ("www.z.example.", ["http://www.z.example"]),
        ("http://x.example/a_b_c and **http://x.example/b**", ["http://x.example/a_b_c", "http://x.example/b"]),
        ("[http://x.example/a](http://y.example)", ["http://y.example"]),
        ("[![i](http://x.example/i.png)](http://y.example)", ["http://x.example/i.png", "http://y.example"]),
        ("![i][r]\n\n[r]: i.png", ["i.png"]),
        ("[a](javascript:alert(1)) [b](file:///etc/passwd)", ["javascript:alert(1)", "file:///etc/passwd"]),
        ("`http://x.example` and ``[a](http://x.example)``", []),
        ("```\nhttp://x.example\n```\n    http://x.example", []),
        ("<pre>http://x.example</pre>\n\n<code><a href='http://x.example'>x</a></code>", []),
        ('a <a href="http://x.example/?a&amp;b">http://y.example</a>', ["http://x.example/?a&b"]),
        ("<div><img src=http://x.example/i.png></div>", ["http://x.example/i.png"]),
        ("| [a](http://x.example/\\|b) |\n|---|\n| <http://y.example> |", ["http://x.example/|b", "http://y.example"]),
        ("# [a](#b)\n\n- > [c](d.md)", ["#b", "d.md"]),
        ("\\[a](http://x.example/a) \\<http://x.example/b>", ["http://x.example/a", "http://x.example/b"]),
        ('[a](http://x.example/a\n"title")', ["http://x.example/a"]),
        ("请看 http://x.example/a。然后", ["http://x.example/a"]),
        ("---\nurl: http://x.example\n---\ntext", []),
        ("[a\n> b](http://x.example)", ["http://x.example"]),
    ],
)
def test_links_are_what_the_page_links_to(draft: str, expected: list[str]) -> None:
    assert targets(draft) == expected


def test_a_place_is_that_of_the_target_itself() -> None:
    draft = "> See [this](<http://x.example/a> 't'),\r\n> [that][r] and <http://x.example/c>.\r\n\r\n[r]: http://x.example/b"
    places = [draft[link.start : link.end] for link in document_of(draft).links]
    assert places == ["http://x.example/a", "http://x.example/c", "http://x.example/b"]


def test_headings_get_the_anchors_that_github_gives_them() -> None:
    document = document_of(
        "# Hello, World! `x`\n\n## Hello, World! x\n\nSet *ext*\n---\n\n## Größe & Maß\n\n## Own {#mine}\n\n"
        "<a name=top-1></a>\n\n<h2 id='html'>x</h2>\n\n# 1.2 A_b\n"
    )
    expected = {"hello-world-x", "hello-world-x-1", "set-ext", "größe--maß", "own", "mine", "top-1", "html", "12-a_b"}
    assert document.anchors == expected


def test_blocks_that_markdown_it_would_leave_out_are_checked_as_text() -> None:
    document = document_of("> " * (MAX_NESTING + 5) + "risk-free http://x.example/a")
    assert document.reading.coarse
    assert "risk-free" in document.prose.text
    assert [link.target for link in document.links] == ["http://x.example/a"]


def test_a_quote_across_lines_and_marks_is_the_slice_of_the_draft() -> None:
    draft = "> risk\r\n> *free*"
    document = document_of(draft)
    start = document.prose.text.index("risk")
    begin, end = document.prose.span(start, document.prose.text.index("free") + 4)
    assert draft[begin:end] == "risk\r\n> *free"
