"""What a test reads from a draft, in a form that is easy to compare."""

from __future__ import annotations

from motet_agents.qa import Document, document_of
from motet_agents.qa.prose import BLOCK, GAP


def blocks(document: Document) -> list[str]:
    """Return the blocks of prose, gaps shown as `_`, white space evened out."""
    text = document.prose.text.replace(GAP, "_")
    return [" ".join(block.split()) for block in text.split(BLOCK) if block.strip() and block.strip() != "_"]


def targets(text: str, media_type: str = "text/markdown") -> list[str]:
    """Return where the links of `text` lead, and assert that their places are right."""
    document = document_of(text, media_type=media_type)
    for link in document.links:
        assert 0 <= link.start < link.end <= len(text)
    return [link.target for link in document.links]
