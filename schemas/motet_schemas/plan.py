"""The handoff's small print: manifests, steps, and plans that hold together."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from motet_schemas.base import Contract, Json
from motet_schemas.budget import FREE, Budget, Policy, Usage
from motet_schemas.ids import Token
from motet_schemas.task import Note, Reference, Text

Name = Annotated[str, Field(min_length=1, max_length=100)]


class CommandGate(Contract):
    """Passes when the command exits with 0."""

    kind: Literal["command"] = "command"
    argv: tuple[str, ...] = Field(min_length=1, max_length=100, description="Program and arguments; no shell.")


class SchemaGate(Contract):
    """Passes when the record's output is valid against a JSON Schema."""

    kind: Literal["schema"] = "schema"
    output_schema: dict[str, Json] = Field(description="A JSON Schema, draft 2020-12.")


class LexiconGate(Contract):
    """Passes when the record's notes and output hold every required phrase and no forbidden one."""

    kind: Literal["lexicon"] = "lexicon"
    required: tuple[Name, ...] = Field(default=(), description="Phrases that must occur.")
    forbidden: tuple[Name, ...] = Field(default=(), description="Phrases that must not occur.")


class JudgeGate(Contract):
    """Passes when a model, given the rubric, says so."""

    kind: Literal["judge"] = "judge"
    rubric: Text = Field(description="What to judge by.")
    min_score: float = Field(default=0.7, ge=0, le=1, description="Least score that passes.")


class CheckGate(Contract):
    """Passes when a named check of the verifier's own does, for example `qa.quotes`."""

    kind: Literal["check"] = "check"
    check: Name = Field(description="The name of the check, as the verifier knows it.")


Gate = Annotated[CommandGate | SchemaGate | LexiconGate | JudgeGate | CheckGate, Field(discriminator="kind")]


class Manifest(Contract):
    """One bounded piece of work: what is wanted, what may be touched, and what must hold afterwards."""

    objective: Text = Field(min_length=1, description="What must be true when the step is done.")
    inputs: dict[str, Json] = Field(default_factory=dict, description="Named inputs.")
    references: dict[str, Reference] = Field(default_factory=dict, description="Named inputs in the object store.")
    allowed_paths: tuple[str, ...] = Field(default=(), max_length=200, description="Files that may be touched.")
    allowed_tools: tuple[Name, ...] = Field(default=(), max_length=100, description="Tools that may be called.")
    constraints: tuple[Note, ...] = Field(default=(), max_length=50, description="What must not be done.")
    verification: tuple[Gate, ...] = Field(default=(), max_length=50, description="Gates that must pass.")
    handoff_notes: tuple[Note, ...] = Field(default=(), max_length=50, description="What the next one should know.")


class PlanStep(Contract):
    """One node of a plan."""

    id: Token = Field(description="Unique in the conversation; never used again for something else.")
    capability: Token = Field(description="Who can do it: the last token of its `step.ready` subject.")
    goal: Text = Field(min_length=1, description="What this step is for.")
    context: Text = Field(default="", description="Where to look, what to keep in mind.")
    depends_on: tuple[Token, ...] = Field(default=(), description="Steps that must be done before.")
    max_attempts: int = Field(default=2, ge=1, le=5, description="Attempts before a human or a re-plan.")
    min_confidence: float = Field(default=0.7, ge=0, le=1, description="Below it a human is asked.")
    time_budget_s: int = Field(default=60, ge=10, le=600, description="Seconds one attempt may take.")
    manifest: Manifest = Field(description="The contract of the step.")


class Plan(Contract):
    """Steps as a directed acyclic graph, with the budget and policy they answer to."""

    steps: tuple[PlanStep, ...] = Field(min_length=1, max_length=1_000, description="The steps, in reading order.")
    budget: Budget = Field(description="The whole conversation's budget.")
    policy: Policy = Field(default=Policy(), description="The whole conversation's policy.")
    notes: Text = Field(default="", description="What the planner wants known.")
    planner: str = Field(default="", max_length=200, description="The instance that planned.")
    model: str | None = Field(default=None, max_length=200, description="What thought of it; `rule-based` offline.")
    usage: Usage = Field(default=FREE, description="What planning cost.")

    @model_validator(mode="after")
    def _holds_together(self) -> Plan:
        check_graph(self.steps)
        for field, total, allowed in (
            ("max_attempts", sum(step.max_attempts for step in self.steps), self.budget.max_attempts),
            ("time_budget_s", sum(step.time_budget_s for step in self.steps), self.budget.time_budget_s),
        ):
            if total > allowed:
                raise ValueError(f"steps: their {field} add up to {total}, but the overall budget allows {allowed}")
        return self

    def step(self, step_id: str) -> PlanStep | None:
        """Return the step with this id, or None."""
        return next((step for step in self.steps if step.id == step_id), None)


def check_graph(steps: Sequence[PlanStep]) -> None:
    """Raise `ValueError` for duplicate ids, unknown dependencies or a cycle; the message names the steps."""
    ids = [step.id for step in steps]
    duplicates = sorted({step_id for step_id in ids if ids.count(step_id) > 1}) if len(set(ids)) != len(ids) else []
    if duplicates:
        raise ValueError(f"steps: duplicate id {', '.join(duplicates)}; every step needs its own")
    known = set(ids)
    for step in steps:
        unknown = [name for name in step.depends_on if name not in known]
        if unknown:
            raise ValueError(f"step {step.id}: depends_on names {', '.join(unknown)}, which is no step of this plan")
    try:
        TopologicalSorter({step.id: step.depends_on for step in steps}).prepare()
    except CycleError as error:
        raise ValueError(f"steps: they wait for each other in a cycle: {' → '.join(error.args[1])}") from None


class PlanRequest(Contract):
    """Asks the planner for a first plan, or for another one."""

    reason: Note = Field(default="", description="Why a plan is wanted.")
    found: tuple[Note, ...] = Field(default=(), description="What is already known.")
    failed: tuple[Note, ...] = Field(default=(), description="What did not work.")
    instructions: tuple[Text, ...] = Field(default=(), description="What a human asked for.")
    keep: tuple[PlanStep, ...] = Field(default=(), description="Steps that are done and must stay as they are.")


class PlanRefusal(Contract):
    """Why no valid plan could be made."""

    reason: Text = Field(min_length=1, description="For a human, with what to do next.")
    planner: str = Field(default="", max_length=200, description="The instance that tried.")
    usage: Usage = Field(default=FREE, description="What trying cost.")
