"""A playbook, and the fixed plan that it makes of a task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from motet_schemas import (
    Budget,
    BudgetLimits,
    BudgetOverride,
    Contract,
    Gate,
    InvalidInputError,
    Json,
    Manifest,
    Plan,
    PlanStep,
    Policy,
    Task,
    Token,
    limits_context,
)
from motet_schemas.plan import Name, check_graph
from motet_schemas.report import RULE_BASED
from motet_schemas.task import Note, Text

_LEAST_STEP_S = 10


class ManifestTemplate(Contract):
    """The part of a step's manifest that is the same for every task."""

    objective: Text = Field(min_length=1, description="What must be true when the step is done.")
    allowed_paths: tuple[str, ...] = Field(default=(), description="Files that may be touched.")
    allowed_tools: tuple[Name, ...] = Field(default=(), description="Tools that may be called.")
    constraints: tuple[Note, ...] = Field(default=(), description="What must not be done.")
    verification: tuple[Gate, ...] = Field(default=(), description="Gates that must pass.")
    handoff_notes: tuple[Note, ...] = Field(default=(), description="What the next one should know.")


class StepTemplate(Contract):
    """One step of a fixed plan."""

    id: Token = Field(description="Unique in the playbook.")
    capability: Token = Field(description="Who can do it.")
    goal: Text = Field(min_length=1, description="What this step is for.")
    context: Text = Field(default="", description="Where to look, what to keep in mind.")
    depends_on: tuple[Token, ...] = Field(default=(), description="Steps that must be done before.")
    when: str | None = Field(default=None, description="The section of the checklist that calls for this step.")
    max_attempts: int = Field(default=2, ge=1, le=5, description="Attempts before a human or a re-plan.")
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="Else the policy's.")
    time_budget_s: int = Field(default=60, ge=10, le=600, description="Seconds one attempt may take.")
    manifest: ManifestTemplate = Field(description="The contract of the step.")


class Playbook(Contract):
    """How a kind of task is done: a fixed `plan`, or guidance for a `planner` that thinks."""

    name: Token = Field(description="The kind of task.")
    description: Text = Field(default="", description="What it is for.")
    inputs: tuple[Token, ...] = Field(default=(), description="Inputs that a task must bring.")
    checklist: Literal["content"] | None = Field(default=None, description="The kind of checklist a task must bring.")
    capabilities: tuple[Token, ...] = Field(default=(), description="Capabilities that its steps may ask for.")
    policy: Policy = Field(default=Policy(), description="How it is run when not everything goes well.")
    budget: Budget = Field(default=Budget(), description="What a task of this kind may use.")
    limits: BudgetLimits = Field(default=BudgetLimits(), description="The ranges that a task's budget must keep.")
    gates: tuple[Gate, ...] = Field(default=(), description="Gates that every step must pass, beside its own.")
    plan: tuple[StepTemplate, ...] = Field(default=(), description="The steps, when they are always the same.")
    planner: Text = Field(default="", description="Guidance for a planner that thinks.")

    @model_validator(mode="after")
    def _says_how(self) -> Playbook:
        if bool(self.plan) == bool(self.planner):
            raise ValueError("give either plan (fixed steps) or planner (guidance), and not both")
        known = set(self.capabilities)
        for step in self.plan:
            if step.capability not in known:
                raise ValueError(f"step {step.id}: capability {step.capability!r} is not among the capabilities")
        check_graph([self._step(step, Task(kind=self.name), {}) for step in self.plan])
        return self

    def make_plan(self, task: Task, *, planner: str = "") -> Plan:
        """Return the fixed plan for `task`.

        Raises `InvalidInputError`, naming field, value and rule, when the task does not bring what the playbook needs,
        its budget is out of the playbook's range or too small, or the playbook has no fixed plan.
        """
        if not self.plan:
            raise InvalidInputError(
                f"playbook {self.name}: needs a planner that thinks, and the rule-based brain does not; "
                "give the playbook a fixed plan",
                field="kind",
                value=self.name,
            )
        sections = self._checked(task)
        budget = self._budget(task)
        wanted = {step.id for step in self.plan if step.when is None or step.when in sections}
        try:
            steps = tuple(self._step(step, task, sections) for step in self.plan if step.id in wanted)
            steps = tuple(step.evolve(depends_on=self._needed(step.id, wanted)) for step in steps)
            return Plan.model_validate(
                {
                    "steps": _fitted(steps, budget),
                    "budget": budget,
                    "policy": self.policy.overridden(task.policy),
                    "notes": f"the fixed plan of the playbook {self.name}",
                    "planner": planner,
                    "model": RULE_BASED,
                },
                context=limits_context(self.limits),
            )
        except ValidationError as error:
            raise InvalidInputError(f"playbook {self.name}: {error.errors()[0]['msg']}", field="plan") from error

    def _needed(self, step_id: str, wanted: set[str]) -> tuple[str, ...]:
        """Return what a step waits for; one that is not called for stands for what it would have waited for itself."""
        found: dict[str, None] = {}
        for step in self.plan:
            for name in step.depends_on if step.id == step_id else ():
                found |= dict.fromkeys((name,) if name in wanted else self._needed(name, wanted))
        return tuple(found)

    def _checked(self, task: Task) -> dict[str, Json]:
        """Return the sections of the task's checklist, after checking all that the playbook asks of a task."""
        for name in self.inputs:
            if name not in task.input and name not in task.references:
                raise InvalidInputError(
                    f"input.{name}: is missing; {self.name} needs it", field=f"input.{name}", rule="required"
                )
            if task.input.get(name) == "":
                raise InvalidInputError(f"input.{name}: is empty", field=f"input.{name}", value="", rule="not empty")
        if self.checklist != "content":
            return {}
        from motet_agents.qa.checklist import load_checklist

        checklist = load_checklist(task.checklist, "checklist")
        return {name: section for name, section in checklist.model_dump(mode="json").items() if section is not None}

    def _budget(self, task: Task) -> Budget:
        if task.budget is not None:
            given = {name: value for name, value in dict(task.budget).items() if value is not None}
            try:
                BudgetOverride.model_validate(given, context=limits_context(self.limits))
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise InvalidInputError(f"budget: {message}", field="budget") from error
        return self.budget.overridden(task.budget)

    def _step(self, template: StepTemplate, task: Task, sections: dict[str, Json]) -> PlanStep:
        threshold = task.policy.min_confidence if task.policy else None
        if threshold is None:
            threshold = self.policy.min_confidence if template.min_confidence is None else template.min_confidence
        inputs = dict(task.input)
        if template.when is not None and template.when in sections:
            inputs["rules"] = sections[template.when]
        manifest = template.manifest
        return PlanStep(
            id=template.id,
            capability=template.capability,
            goal=template.goal,
            context=template.context,
            depends_on=template.depends_on,
            max_attempts=template.max_attempts,
            min_confidence=threshold,
            time_budget_s=template.time_budget_s,
            manifest=Manifest(
                objective=manifest.objective,
                inputs=inputs,
                references=task.references,
                allowed_paths=manifest.allowed_paths,
                allowed_tools=manifest.allowed_tools,
                constraints=(*manifest.constraints, *task.constraints),
                verification=(*manifest.verification, *self.gates),
                handoff_notes=manifest.handoff_notes,
            ),
        )


def _fitted(steps: tuple[PlanStep, ...], budget: Budget) -> tuple[PlanStep, ...]:
    """Cut the steps' attempts and seconds down to what the overall budget allows; raise when it is too small."""
    least_s = _LEAST_STEP_S * len(steps)
    for field, least, allowed in (
        ("max_attempts", len(steps), budget.max_attempts),
        ("time_budget_s", least_s, budget.time_budget_s),
    ):
        if least > allowed:
            raise InvalidInputError(
                f"budget.{field}: {allowed} is not enough for {len(steps)} steps; give at least {least}",
                field=f"budget.{field}",
                value=allowed,
                rule=f">= {least}",
            )
    attempts = _shared_out([step.max_attempts for step in steps], budget.max_attempts)
    seconds = _shared_out([step.time_budget_s for step in steps], budget.time_budget_s)
    return tuple(
        step.evolve(max_attempts=tries, time_budget_s=time_s)
        for step, tries, time_s in zip(steps, attempts, seconds, strict=True)
    )


def _shared_out(wanted: list[int], available: int) -> list[int]:
    """Take from the largest until the sum fits."""
    shares = list(wanted)
    for _ in range(max(0, sum(shares) - available)):
        shares[shares.index(max(shares))] -= 1
    return shares
