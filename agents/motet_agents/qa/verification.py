"""The checks that `content-qa` playbooks name in their gates: manifest and record in, problems out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from motet_agents.qa.checklist import load_checklist
from motet_agents.qa.documents import Document, document_of
from motet_agents.qa.gates import GateOutcome, lexicon_holds, links_complete, quotes_stand
from motet_schemas import ExecutionRecord, InvalidInputError, Manifest


def quotes(manifest: Manifest, record: ExecutionRecord) -> list[str]:
    """Every quote stands in the draft where its finding says."""
    return _problems(quotes_stand(_draft(manifest), record.findings))


def lexicon(manifest: Manifest, record: ExecutionRecord) -> list[str]:
    """No plain occurrence of a banned or forbidden phrase was missed."""
    rules = manifest.inputs.get("rules")
    if not isinstance(rules, dict):
        return ["the manifest brings no rules to verify by"]
    group: Literal["tone", "compliance"] = "compliance" if rules.keys() & {"required", "forbidden"} else "tone"
    try:
        checklist = load_checklist({group: rules}, "rules")
    except InvalidInputError as error:
        return [error.message]
    return _problems(lexicon_holds(_document(manifest), checklist, record.findings, group=group))


def links(manifest: Manifest, record: ExecutionRecord) -> list[str]:
    """Every link of the draft is in the record's list, with a result."""
    output = record.output if isinstance(record.output, dict) else {}
    return _problems(links_complete(_document(manifest), output))


def shape(manifest: Manifest, record: ExecutionRecord) -> list[str]:
    """The record says how sure it is, its output is an object, and its rules belong to its capability."""
    problems = [] if isinstance(record.output, dict) else ["the output is no JSON object"]
    if record.confidence is None:
        problems.append("the record does not say how sure it is")
    length = len(_draft(manifest))
    problems += [
        f"{finding.rule} at {finding.start}: lies outside the draft of {length} characters"
        for finding in record.findings
        if finding.end is not None and finding.end > length
    ]
    problems += [
        f"{finding.rule}: has no place, but only what is missing has none"
        for finding in record.findings
        if finding.start is None and finding.severity == "error" and not _may_lack_place(finding.rule)
    ]
    return problems


CHECKS: Final[dict[str, Callable[[Manifest, ExecutionRecord], list[str]]]] = {
    "qa.quotes": quotes,
    "qa.lexicon": lexicon,
    "qa.links": links,
    "qa.shape": shape,
}
"""By the name that a gate gives."""


def _may_lack_place(rule: str) -> bool:
    return rule == "compliance.required" or rule.endswith(".more")


def _draft(manifest: Manifest) -> str:
    draft = manifest.inputs.get("draft")
    return draft if isinstance(draft, str) else ""


def _document(manifest: Manifest) -> Document:
    media_type = manifest.inputs.get("media_type")
    return document_of(_draft(manifest), media_type=media_type if isinstance(media_type, str) else None)


def _problems(outcome: GateOutcome) -> list[str]:
    return [] if outcome.passed else [outcome.evidence]
