"""What the elements of HTML mean for a draft: which divide text, which hold none, and which link."""

from __future__ import annotations

from typing import Final

CODE: Final = frozenset({"pre", "code", "samp", "template"})
"""Elements that hold no prose and no links."""

RAW_TEXT: Final = frozenset({"script", "style", "xmp", "iframe", "noembed", "noframes", "plaintext", "textarea"})
"""Elements whose content is no markup, and is not prose either."""

VOID: Final = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
)
"""Elements without content."""

REPLACED: Final = frozenset({"audio", "canvas", "embed", "iframe", "img", "input", "object", "video"})
"""Elements that show something other than text."""

LINKING: Final = {"a": "href", "area": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements that lead somewhere, and the attribute that says where."""

BLOCKS: Final = frozenset(
    {
        *("address", "article", "aside", "blockquote", "body", "button", "caption", "center", "dd", "details"),
        *("dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2"),
        *("h3", "h4", "h5", "h6", "head", "header", "hgroup", "hr", "html", "legend", "li", "main", "menu", "nav"),
        *("ol", "optgroup", "option", "p", "pre", "section", "select", "summary", "table", "tbody", "td", "tfoot"),
        *("th", "thead", "title", "tr", "ul"),
    }
)
"""Elements that begin and end a block of text."""
