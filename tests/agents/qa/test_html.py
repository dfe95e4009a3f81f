"""HTML and plain text are read as their readers meet them."""

from __future__ import annotations

import pytest

from motet_agents.qa import document_of
from tests.agents.qa.reading_aloud import blocks, targets


@pytest.mark.parametrize(
    ("draft", "shown"),
    [
        ("<p>One <b>two</b><p>three", ["One two", "three"]),
        ("<title>Head</title><style>p{}</style><body>text", ["Head", "text"]),
        ("a&nbsp;b &copy; &#x41;&#66; &bogus; &amp", ["a b © AB &bogus; &"]),
        ("a <script>if (a<b) x('</p>')</script> b", ["a b"]),
        ("a<!-- x > y --> b <!-- open", ["a b"]),
        ("<pre>code <b>x</b></pre>text <code>y</code> <samp>z</samp> end", ["text _ _ end"]),
        ("<ul><li>one<li>two</ul>", ["one", "two"]),
        ("<table><tr><td>a<td>b</table>c", ["a", "b", "c"]),
        ("one<br>two", ["one two"]),
        ("<p title='hidden > more'>text</p>", ["text"]),
        ("risk<wbr>-free", ["risk-free"]),
        ("1 < 2 and <3 you", ["1 < 2 and <3 you"]),
        ("text <b unclosed", ["text <b unclosed"]),
        ('text <a href="x', ['text <a href="x']),
        ("<div><code>x</div>shown", ["shown"]),
        ("<textarea>x</textarea><b>y", ["y"]),
        ("<code/>shown", ["shown"]),
        ("go http://x.example/free now", ["go _ now"]),
        ("</p></b>odd</", ["odd</"]),
        ("<?php echo 1 ?>a<!DOCTYPE html>b", ["ab"]),
    ],
)
def test_html_prose_is_the_visible_text(draft: str, shown: list[str]) -> None:
    assert blocks(document_of(draft, media_type="text/html")) == shown


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        ('<a href="http://x.example/?a=1&amp;b">x</a>', ["http://x.example/?a=1&b"]),
        (
            "<A HREF = 'a.html' >x</A><area href=b><img src=c/><iframe src=d></iframe><source src=e>",
            ["a.html", "b", "c/", "d", "e"],
        ),
        ("<a href=' http://x.example '>x</a>", ["http://x.example"]),
        ("<a href=''>x</a><a>y</a>", []),
        ("<a href=x href=y>z</a>", ["x"]),
        ("<!-- <a href=x> --><script>'<a href=y>'</script><pre><a href=z></pre>", []),
        ("see https://x.example/a&amp;b and www.y.example", ["https://x.example/a&b", "http://www.y.example"]),
        ("<a href=x>https://y.example</a>", ["x"]),
        ("<p data-a='>' title=\"<a href=no>\"><a href=yes>", ["yes"]),
        ("&lt;http://x.example&gt;", ["http://x.example"]),
    ],
)
def test_html_links_are_found(draft: str, expected: list[str]) -> None:
    assert targets(draft, "text/html") == expected


def test_html_places_are_those_of_the_attribute_values() -> None:
    draft = "<p>\r\n<a class=x href=' http://x.example/?a&amp;b '>Read <b>more</b></a>"
    (link,) = document_of(draft, media_type="text/html").links
    assert draft[link.start : link.end] == "http://x.example/?a&amp;b"
    assert link.text == "Read more"


def test_html_anchors_and_base_are_noted() -> None:
    reading = document_of("<base href='http://x.example/d/'><p id=a><a name=b>", media_type="text/html").reading
    assert reading.anchors == {"a", "b"}
    assert reading.base == "http://x.example/d/"


def test_plain_text_is_divided_by_blank_lines_and_list_marks() -> None:
    draft = "One line\r\ngoes on.\r\n\r\nTwo\n- three\n- four\n12. five\n * not *markup*\n`code` <b>tag</b>"
    expected = ["One line goes on.", "Two", "- three", "- four", "12. five", "* not *markup* `code` <b>tag</b>"]
    assert blocks(document_of(draft, media_type="text/plain")) == expected


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        ("<http://x.example/a>", ["http://x.example/a"]),
        ("(see http://x.example/a_(b)).", ["http://x.example/a_(b)"]),
        ("HTTPS://X.EXAMPLE/A?b=c&d#e!", ["HTTPS://X.EXAMPLE/A?b=c&d#e"]),
        (
            "ftp://x.example/ http://[::1]:80/a http://localhost:1/",
            ["ftp://x.example/", "http://[::1]:80/a", "http://localhost:1/"],
        ),
        ("http:// https://. nohttp://x.example me@www.x.example", []),
        ('"http://x.example/a", ‘http://x.example/b’', ["http://x.example/a", "http://x.example/b"]),
        ("http://x.example/a...", ["http://x.example/a"]),
    ],
)
def test_plain_text_links_are_bare_addresses(draft: str, expected: list[str]) -> None:
    assert targets(draft, "text/plain") == expected
