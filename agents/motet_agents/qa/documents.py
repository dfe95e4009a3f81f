"""A draft to be checked: decoding, size limits, and what its readers meet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Final, Literal

from motet_agents.qa.prose import Prose
from motet_agents.qa.reading import Link, Reading
from motet_schemas.errors import InvalidInputError

MediaType = Literal["text/markdown", "text/html", "text/plain"]

MAX_BYTES: Final = 5 * 1024 * 1024
"""The largest draft, encoded: 5 MiB."""

_BY_SUFFIX: dict[str, MediaType] = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".mdown": "text/markdown",
    ".mkd": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
}
_BY_NAME: dict[str, MediaType] = {
    "text/markdown": "text/markdown",
    "text/x-markdown": "text/markdown",
    "text/html": "text/html",
    "application/xhtml+xml": "text/html",
    "text/plain": "text/plain",
}
_OTHER_FORMATS = {"%PDF-": "a PDF file", "{\\rtf": "an RTF file", "PK\x03\x04": "a ZIP or Office file"}
_CONTROL = {chr(code) for code in range(32)} - set("\t\n\r\f\v\b\x1b")


@dataclass(frozen=True)
class Document:
    """A draft. All offsets, everywhere, count characters of `text`: the draft as decoded, byte order mark left off."""

    text: str
    media_type: MediaType = "text/markdown"

    @cached_property
    def reading(self) -> Reading:
        """What a reader of the draft meets; read once, at first use."""
        if self.media_type == "text/markdown":
            from motet_agents.qa.markdown_reading import read_markdown

            return read_markdown(self.text)
        if self.media_type == "text/html":
            from motet_agents.qa.html_reading import read_html

            return read_html(self.text)
        from motet_agents.qa.plain_reading import read_plain

        return read_plain(self.text)

    @property
    def prose(self) -> Prose:
        """The visible text, code left out."""
        return self.reading.prose

    @property
    def links(self) -> tuple[Link, ...]:
        """Every link, in the order of the draft."""
        return self.reading.links

    @property
    def anchors(self) -> frozenset[str]:
        """The names that `#…` can lead to within the document."""
        return self.reading.anchors


def read_document(data: bytes, *, name: str = "draft", media_type: str | None = None) -> Document:
    """Return the draft that `data` holds: UTF-8 (with or without byte order mark), or UTF-16 with one.

    `media_type` wins over the suffix of `name`; a name with another suffix is plain text. Raises `InvalidInputError`
    when the draft is too large, empty, binary, or in another encoding.
    """
    _check_size(len(data), name)
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        found = "" if encoding == "utf-16" else f" (byte 0x{data[error.start]:02X} at offset {error.start:,})"
        kind = "UTF-16, as its byte order mark says" if encoding == "utf-16" else "UTF-8"
        raise _refused(name, f"is not {kind}{found}; save it as UTF-8", "is UTF-8, or UTF-16 with a mark") from error
    return document_of(text, name=name, media_type=media_type_of(name, media_type))


def document_of(text: str, *, name: str = "draft", media_type: str | None = None) -> Document:
    """Return the draft `text`; Markdown when no media type is given. Raises `InvalidInputError` as `read_document`."""
    try:
        _check_size(len(text.encode()), name)
    except UnicodeEncodeError as error:
        raise _refused(name, f"holds half of a surrogate pair at offset {error.start:,}", "is Unicode text") from error
    if not text.strip():
        raise _refused(name, "is empty", "has at least one visible character")
    for opening, kind in _OTHER_FORMATS.items():
        if text.startswith(opening):
            raise _refused(name, f"is {kind}; export it as Markdown, HTML or text", "is a text document")
    if "\x00" in text or sum(text.count(control) for control in _CONTROL) * 100 > len(text):
        raise _refused(name, "is binary, not text", "is a text document")
    return Document(text, media_type_of(name, media_type or "text/markdown"))


def media_type_of(name: str, given: str | None = None) -> MediaType:
    """Return the media type that is `given`, or follows from a file's name. Raises `InvalidInputError`."""
    if given is None:
        return _BY_SUFFIX.get(PurePath(name).suffix.lower(), "text/plain")
    known = _BY_NAME.get(given.split(";", 1)[0].strip().lower())
    if known is None:
        rule = f"must be one of {', '.join(media_types())}"
        raise InvalidInputError(f"media_type: {rule}, not {given!r}", field="media_type", value=given, rule=rule)
    return known


def _check_size(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise _refused(name, f"has {size:,} bytes; the limit is {MAX_BYTES:,} (5 MiB)", f"at most {MAX_BYTES:,} bytes")


def _refused(name: str, problem: str, rule: str) -> InvalidInputError:
    return InvalidInputError(f"{name}: the draft {problem}", field="draft", value=name, rule=rule)


def media_types() -> tuple[MediaType, ...]:
    """Return the media types that can be checked."""
    return tuple(dict.fromkeys(_BY_NAME.values()))
