"""How a human is asked, and what a human may answer."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field, model_validator

from motet_schemas.base import Contract, Json
from motet_schemas.ids import Token
from motet_schemas.task import Note, Text

Reason = Literal[
    "low_confidence",
    "step_failed",
    "step_blocked",
    "verification_failed",
    "claims_lost",
    "attempts_exhausted",
    "tokens_exhausted",
    "cost_exhausted",
    "time_exhausted",
    "plan_rejected",
    "dead_letter",
]
Decision = Literal["approve", "revise", "reject", "take_over"]


class TranscriptLine(Contract):
    """One line of what has happened so far."""

    time: AwareDatetime = Field(description="When it was stored.")
    what: Note = Field(description="What happened, for a human.")


class Escalation(Contract):
    """A question to a human, with all that is needed to answer it."""

    reason: Reason = Field(description="Why it is asked.")
    step: Token | None = Field(default=None, description="The step it is about; null when about the whole.")
    attempt: int | None = Field(
        default=None, ge=1, description="The attempt, or the revision of the plan, it is about."
    )
    letter: str | None = Field(default=None, max_length=200, description="The dead letter it is about, if any.")
    question: Text = Field(description="What must be decided.")
    transcript: tuple[TranscriptLine, ...] = Field(default=(), max_length=200, description="What happened so far.")
    proposal: Text = Field(default="", description="What Motet would do, and what each answer means.")
    allowed_answers: tuple[Decision, ...] = Field(min_length=1, description="What may be answered.")
    asked: str = Field(default="operator", max_length=200, description="Who is asked.")
    due_at: AwareDatetime = Field(description="When silence becomes an answer.")
    on_timeout: Literal["reject", "approve"] = Field(description="What silence will mean.")


class HumanAnswer(Contract):
    """What a human decided."""

    decision: Decision = Field(description="approve, revise, reject or take over.")
    instructions: Text | None = Field(default=None, description="For revise: what to do differently.")
    result: Json = Field(default=None, description="For take_over: the result, done by hand.")
    answered_by: str = Field(min_length=1, max_length=200, description="Who answers.")
    note: Note = Field(default="", description="Why, for the report.")

    @model_validator(mode="after")
    def _says_enough(self) -> HumanAnswer:
        if self.decision == "revise" and not self.instructions:
            raise ValueError("instructions: revise needs them; say what to do differently")
        if self.decision == "take_over" and self.result is None:
            raise ValueError("result: take_over needs it; give the result that you made by hand")
        return self


class Silence(Contract):
    """Nobody answered in time; the policy decides."""

    decision: Literal["reject", "approve"] = Field(description="What the policy makes of it.")
    due_at: AwareDatetime = Field(description="When the answer was due.")
