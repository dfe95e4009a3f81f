"""The one end of a conversation."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from motet_schemas.base import Contract, Json
from motet_schemas.findings import Finding
from motet_schemas.ids import Token
from motet_schemas.task import Note, Text

RULE_BASED: Final = "rule-based"
"""What thinks when no language model does; the report says so."""

StepStatus = Literal["pending", "ready", "claimed", "executed", "waiting", "done", "failed", "void"]
Verdict = Literal["approved", "changes_needed", "needs_human"]


class StepReport(Contract):
    """What became of one step, and who did it."""

    id: Token = Field(description="The step.")
    capability: Token = Field(description="Who could do it.")
    status: StepStatus = Field(description="Where it ended.")
    attempts: int = Field(ge=0, description="Attempts made; a lost claim is none.")
    confidence: float | None = Field(default=None, description="Of the last record; null when unknown.")
    min_confidence: float = Field(description="The threshold.")
    verdict: Literal["passed", "failed"] | None = Field(default=None, description="The verifier's, when it spoke.")
    elapsed_ms: int | None = Field(default=None, description="Milliseconds of all attempts' runs together.")
    tokens: int | None = Field(default=None, description="Tokens of all attempts together; null when unknown.")
    model: str | None = Field(default=None, description="What did the thinking.")
    executor: str | None = Field(default=None, description="The instance that did the work.")
    verifier: str | None = Field(default=None, description="The instance that verified it.")
    accepted_by: str | None = Field(default=None, description="The human who accepted or made the result.")
    output: Json = Field(default=None, description="The result.")


class TotalUsage(Contract):
    """What the whole conversation used. Unknown is null, never zero."""

    tokens: int | None = Field(default=None, description="Tokens in and out.")
    cost_usd: float | None = Field(default=None, description="US dollars.")
    attempts: int = Field(ge=0, description="Attempts of all steps together; a lost claim is none.")
    elapsed_ms: int = Field(ge=0, description="Milliseconds from submission to the end, human waits included.")


class Report(Contract):
    """What was asked, what came of it, and what remains doubtful."""

    verdict: Verdict = Field(description="What the work says of its subject.")
    summary: Text = Field(description="In a few sentences.")
    reason: Note = Field(default="", description="Why it failed or was cancelled.")
    brain: str = Field(default=RULE_BASED, max_length=200, description="What did the thinking.")
    findings: tuple[Finding, ...] = Field(default=(), description="Everything found, in order of place.")
    concerns: tuple[Note, ...] = Field(default=(), description="What remains unresolved; never hidden.")
    steps: tuple[StepReport, ...] = Field(default=(), description="Provenance, step by step.")
    usage: TotalUsage = Field(description="What it cost.")
