"""One attempt at a step: the handoff, the claim check, the execution record and its verification."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from motet_schemas.base import Contract, Json
from motet_schemas.budget import FREE, Confidence, Cost, Remaining, Tokens, Usage
from motet_schemas.findings import Finding
from motet_schemas.ids import Token
from motet_schemas.plan import Name, PlanStep
from motet_schemas.task import Note, Text

Instance = Annotated[str, Field(min_length=1, max_length=200)]


class Failure(Contract):
    """An error as it travels: what broke, and whether trying again can help."""

    code: str = Field(max_length=100, description="Stable, for machines.")
    message: str = Field(max_length=4_000, description="For people.")
    retryable: bool = Field(default=False, description="Whether the same act may succeed later.")
    type: str = Field(default="", max_length=200, description="The exception's class, where there was one.")
    retry_after_s: float | None = Field(default=None, ge=0, le=86_400, description="A hint, in seconds.")


class Found(Contract):
    """What an earlier step found, for those that build on it."""

    step: Token = Field(description="The step that found it.")
    notes: Text = Field(default="", description="In its own words.")
    confidence: Confidence | None = Field(default=None, description="How sure it was.")
    output: Json = Field(default=None, description="Its output.")


class Failed(Contract):
    """What was tried and did not work, so that nobody repeats it."""

    step: Token = Field(description="The step.")
    attempt: int = Field(ge=1, description="The attempt.")
    reason: Note = Field(description="Why it does not count as done.")
    evidence: tuple[Note, ...] = Field(default=(), description="What showed it.")


class Handoff(Contract):
    """Everything the next one needs: what was asked, found and failed, what comes next, what may be spent."""

    step: PlanStep = Field(description="The step with its manifest.")
    plan_revision: int = Field(ge=1, description="The plan it belongs to.")
    asked: Text = Field(default="", description="The task, in a line.")
    found: tuple[Found, ...] = Field(default=(), description="Results of the steps it depends on.")
    failed: tuple[Failed, ...] = Field(default=(), description="Earlier attempts at this step.")
    instructions: tuple[Text, ...] = Field(default=(), description="What a human asked for.")
    next_steps: tuple[Token, ...] = Field(default=(), description="Steps that wait for this one.")
    remaining: Remaining = Field(description="What is left of the conversation's budget.")
    idempotency_key: str = Field(
        min_length=1, max_length=300, description="For effects outside the bus; the same until a run answers."
    )


class ClaimCheck(Contract):
    """One owner for one attempt. It lives for `ttl_s` from the moment it was stored, unless renewed."""

    owner: Instance = Field(description="The instance that works on it.")
    nonce: str = Field(min_length=8, max_length=64, description="Tells this run from any other of the same owner.")
    ttl_s: float = Field(gt=0, le=3_600, description="Seconds, by the server's clock.")
    attempt: int = Field(ge=1, description="The attempt.")


class LostClaim(Contract):
    """A claim ended without a record."""

    owner: str = Field(default="", max_length=200, description="Who had it.")
    nonce: str = Field(default="", max_length=64, description="The run that had it.")
    reason: Note = Field(description="ttl: it ran out; released: its owner gave it back.")


class Evidence(Contract):
    """One thing that shows why."""

    type: Name = Field(default="note", description="quote, link, file, note, …")
    content: Text = Field(description="The thing itself.")


Status = Literal["passed", "failed", "blocked"]
NextAction = Literal["continue", "revise", "escalate"]


class ExecutionRecord(Contract):
    """The whole output of one run of one attempt, in one fact."""

    status: Status = Field(description="passed: the work was done, whatever it found; failed; blocked.")
    confidence: Confidence | None = Field(default=None, description="0 to 1; null when unknown.")
    notes: Text = Field(default="", description="What a reader must know.")
    evidence: tuple[Evidence, ...] = Field(default=(), max_length=10_000, description="What shows it.")
    findings: tuple[Finding, ...] = Field(default=(), max_length=100_000, description="What was found in the input.")
    output: Json = Field(default=None, description="The result, as JSON.")
    files_changed: tuple[str, ...] = Field(default=(), description="Paths, relative to the work tree.")
    commands_run: tuple[str, ...] = Field(default=(), description="As they were run.")
    risks: tuple[Note, ...] = Field(default=(), description="What remains risky.")
    tokens_in: Tokens | None = Field(default=None, description="Prompt tokens; null when unknown.")
    tokens_out: Tokens | None = Field(default=None, description="Completion tokens; null when unknown.")
    cost_usd: Cost | None = Field(default=None, description="US dollars; null when unknown.")
    elapsed_ms: int = Field(ge=0, description="Milliseconds the run took.")
    next_action: NextAction = Field(default="continue", description="What the executor thinks should come next.")
    model: str | None = Field(default=None, max_length=200, description="What did the thinking.")
    executor: Instance = Field(description="The instance that did the work.")
    idempotency_key: str = Field(max_length=300, description="What effects outside the bus were keyed with.")
    failure: Failure | None = Field(default=None, description="The error that ended the run, where one did.")

    @property
    def usage(self) -> Usage:
        """Tokens and cost of the run."""
        return Usage(tokens_in=self.tokens_in, tokens_out=self.tokens_out, cost_usd=self.cost_usd)


class GateResult(Contract):
    """One gate's verdict."""

    name: Name = Field(description="The gate.")
    passed: bool = Field(description="Whether it holds.")
    evidence: tuple[Text, ...] = Field(default=(), description="What shows it.")


class VerificationResult(Contract):
    """What somebody other than the executor says of its record."""

    verdict: Literal["passed", "failed"] = Field(description="passed when every gate is.")
    gates: tuple[GateResult, ...] = Field(default=(), description="Gate by gate.")
    verifier: Instance = Field(description="The instance that verified; never the executor's.")
    rollback_note: Note = Field(default="", description="How to undo what was done.")
    model: str | None = Field(default=None, max_length=200, description="What judged, where a model did.")
    usage: Usage = Field(default=FREE, description="What verifying cost.")

    @model_validator(mode="after")
    def _verdict_follows(self) -> VerificationResult:
        broken = [gate.name for gate in self.gates if not gate.passed]
        if self.verdict == "passed" and broken:
            raise ValueError(f"verdict: passed, although {', '.join(broken)} did not pass")
        return self
