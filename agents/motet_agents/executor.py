"""The executor: hosts the capabilities of `content-qa`. Its checks are rules, no model is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from motet_agents.qa import compliance, links, tone
from motet_agents.qa.checklist import ComplianceRules, LinkRules, ToneRules
from motet_agents.qa.documents import document_of
from motet_agents.qa.preload import preload
from motet_agents.qa.results import CheckResult
from motet_bus import Agent, Outcome, Step
from motet_schemas import FREE, Evidence, Finding, PermanentError
from motet_schemas.report import RULE_BASED

_QUOTED: Final = 50

Rules = TypeVar("Rules", bound=BaseModel)

preload()
agent = Agent("executor", role="executor")


@agent.step("tone", concurrency=4)
async def check_tone(step: Step) -> Outcome:
    """Brand lexicon, hype, shouting, sentence length and readability."""
    text, media_type = draft_of(step)
    rules = _rules(ToneRules, step)
    result = await asyncio.to_thread(lambda: tone.check_tone(document_of(text, media_type=media_type), rules, step.id))
    return _outcome(step, result)


@agent.step("compliance", concurrency=4)
async def check_compliance(step: Step) -> Outcome:
    """Required and forbidden phrases, and near misses of both."""
    text, media_type = draft_of(step)
    rules = _rules(ComplianceRules, step)
    result = await asyncio.to_thread(
        lambda: compliance.check_compliance(document_of(text, media_type=media_type), rules, step.id)
    )
    return _outcome(step, result)


@agent.step("links", concurrency=4)
async def check_links(step: Step) -> Outcome:
    """Every link requested, every anchor looked up."""
    text, media_type = draft_of(step)
    document = await asyncio.to_thread(document_of, text, media_type=media_type)
    return _outcome(step, await links.check_links(document, _rules(LinkRules, step), step.id))


def draft_of(step: Step) -> tuple[str, str | None]:
    """Return the draft and its media type. Raises `PermanentError` when the step brings none."""
    draft, media_type = step.manifest.inputs.get("draft"), step.manifest.inputs.get("media_type")
    if not isinstance(draft, str):
        raise PermanentError(f"step {step.id}: its manifest brings no draft as text")
    return draft, media_type if isinstance(media_type, str) else None


def _rules(model: type[Rules], step: Step) -> Rules:
    try:
        return model.model_validate(step.manifest.inputs.get("rules") or {}, strict=False)
    except ValidationError as error:
        raise PermanentError(f"step {step.id}: its rules do not parse: {error}") from error


def _outcome(step: Step, result: CheckResult) -> Outcome:
    unread = " A human gave instructions: these checks are rules and cannot follow them." if step.instructions else ""
    return Outcome.passed(
        confidence=result.confidence,
        notes=result.notes + unread,
        evidence=_evidence(result.findings),
        findings=result.findings,
        output=result.output,
        usage=FREE,
        model=RULE_BASED,
    )


def _evidence(findings: Sequence[Finding]) -> list[Evidence]:
    quoted = [finding for finding in findings if finding.quote is not None]
    return [Evidence(type="quote", content=(finding.quote or "")[:500]) for finding in quoted[:_QUOTED]]
