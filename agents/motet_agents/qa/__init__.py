"""The document checks of `content-qa`: what a draft says, how it sounds, and where its links lead.

Pure functions over a `Document` (`check_links` asks over HTTP), and the gates that verify their results. Names are
loaded when they are first used, since parsers and HTTP clients are slow to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motet_agents.qa.addresses import Resolver
    from motet_agents.qa.checklist import Checklist, ComplianceRules, LinkRules, ToneRules, load_checklist
    from motet_agents.qa.compliance import check_compliance
    from motet_agents.qa.documents import MAX_BYTES, Document, document_of, media_type_of, read_document
    from motet_agents.qa.gates import GateOutcome, lexicon_holds, links_complete, quotes_stand
    from motet_agents.qa.links import check_links
    from motet_agents.qa.reading import Link
    from motet_agents.qa.results import CheckResult
    from motet_agents.qa.tone import check_tone

_HOMES = {
    "MAX_BYTES": "documents",
    "CheckResult": "results",
    "Checklist": "checklist",
    "ComplianceRules": "checklist",
    "Document": "documents",
    "GateOutcome": "gates",
    "Link": "reading",
    "LinkRules": "checklist",
    "Resolver": "addresses",
    "ToneRules": "checklist",
    "check_compliance": "compliance",
    "check_links": "links",
    "check_tone": "tone",
    "document_of": "documents",
    "lexicon_holds": "gates",
    "links_complete": "gates",
    "load_checklist": "checklist",
    "media_type_of": "documents",
    "quotes_stand": "gates",
    "read_document": "documents",
}

__all__ = [
    "MAX_BYTES",
    "CheckResult",
    "Checklist",
    "ComplianceRules",
    "Document",
    "GateOutcome",
    "Link",
    "LinkRules",
    "Resolver",
    "ToneRules",
    "check_compliance",
    "check_links",
    "check_tone",
    "document_of",
    "lexicon_holds",
    "links_complete",
    "load_checklist",
    "media_type_of",
    "quotes_stand",
    "read_document",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
