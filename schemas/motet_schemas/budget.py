"""What a conversation may cost, what it has cost, and how much latitude its policy leaves."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationInfo, model_validator

from motet_schemas.base import Contract

Bound = tuple[int, int]
Confidence = Annotated[float, Field(ge=0, le=1)]
Cost = Annotated[float, Field(ge=0, le=1e9)]
Tokens = Annotated[int, Field(ge=0, le=10**12)]


class BudgetLimits(Contract):
    """The ranges a budget must keep. A playbook's file may widen them; a task cannot."""

    max_attempts: Bound = Field(default=(1, 10), description="Least and most attempts, of all steps together.")
    max_tokens: Bound = Field(default=(1_000, 12_000), description="Least and most tokens.")
    time_budget_s: Bound = Field(default=(60, 900), description="Least and most seconds.")


DEFAULT_LIMITS: Final = BudgetLimits()
ANY_LIMITS: Final = BudgetLimits(max_attempts=(0, 10**9), max_tokens=(0, 10**12), time_budget_s=(0, 10**9))
"""For reading what is recorded: whoever wrote it answered to its playbook's limits."""


def limits_context(limits: BudgetLimits) -> dict[str, BudgetLimits]:
    """Return the pydantic validation context that makes budgets answer to `limits`."""
    return {"limits": limits}


class BudgetOverride(Contract):
    """The part of a budget that a task sets itself; what is null comes from the playbook."""

    max_attempts: int | None = Field(default=None, description="Attempts of all steps together, 1 to 10.")
    max_tokens: int | None = Field(default=None, description="Tokens in and out, 1 000 to 12 000.")
    time_budget_s: int | None = Field(default=None, description="Seconds without human waits, 60 to 900.")
    max_cost_usd: Cost | None = Field(default=None, description="US dollars; null is no limit.")

    @model_validator(mode="wrap")
    @classmethod
    def _in_range(
        cls, data: object, handler: ModelWrapValidatorHandler[BudgetOverride], info: ValidationInfo
    ) -> BudgetOverride:
        made = handler(data)
        if made is not data:  # an instance was checked where it was read, by its playbook's limits
            _check_ranges(made, info)
        return made


class Budget(Contract):
    """What one conversation may use in all. Waiting for a human consumes no time budget."""

    max_attempts: int = Field(
        default=6, json_schema_extra={"minimum": 1, "maximum": 10}, description="Attempts of all steps together."
    )
    max_tokens: int = Field(
        default=6_000, json_schema_extra={"minimum": 1_000, "maximum": 12_000}, description="Tokens in and out."
    )
    time_budget_s: int = Field(
        default=240, json_schema_extra={"minimum": 60, "maximum": 900}, description="Seconds without human waits."
    )
    max_cost_usd: Cost | None = Field(default=None, description="US dollars; null is no limit.")

    @model_validator(mode="wrap")
    @classmethod
    def _in_range(cls, data: object, handler: ModelWrapValidatorHandler[Budget], info: ValidationInfo) -> Budget:
        made = handler(data)
        if made is not data:  # an instance was checked where it was read, by its playbook's limits
            _check_ranges(made, info)
        return made

    def evolve(self, **changes: object) -> Self:
        """Return a copy with `changes`; the ranges were checked where the budget was read."""
        return type(self).model_validate(dict(self) | changes, context=limits_context(ANY_LIMITS))

    def overridden(self, override: BudgetOverride | None) -> Budget:
        """Return this budget with what `override` sets; the ranges were checked where it was read."""
        if override is None:
            return self
        return self.evolve(**{name: value for name, value in override if value is not None})


def _check_ranges(budget: Budget | BudgetOverride, info: ValidationInfo) -> None:
    context: dict[str, BudgetLimits] = info.context or {}
    limits = context.get("limits", DEFAULT_LIMITS)
    for name in BudgetLimits.model_fields:
        value: int | None = getattr(budget, name)
        low, high = getattr(limits, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} is {value}; it must be {low} to {high}")


class Usage(Contract):
    """What something has used. Unknown is null, never zero."""

    tokens_in: Tokens | None = Field(default=None, description="Prompt tokens.")
    tokens_out: Tokens | None = Field(default=None, description="Completion tokens.")
    cost_usd: Cost | None = Field(default=None, description="US dollars.")

    @property
    def tokens(self) -> int | None:
        """Tokens in and out together; null when either is unknown."""
        if self.tokens_in is None or self.tokens_out is None:
            return None
        return self.tokens_in + self.tokens_out


FREE: Final = Usage(tokens_in=0, tokens_out=0, cost_usd=0.0)
"""The usage of work that asks no model."""


class Remaining(Contract):
    """What is left of a conversation's budget when a step is handed over."""

    attempts: int = Field(ge=0, description="Attempts left after this one, of all steps together.")
    tokens: int = Field(ge=0, description="Tokens left.")
    time_s: float = Field(ge=0, description="Seconds left.")
    cost_usd: Cost | None = Field(default=None, description="US dollars left; null when there is no limit.")


class PolicyOverride(Contract):
    """The part of a policy that a task sets itself; what is null comes from the playbook."""

    min_confidence: Confidence | None = Field(default=None, description="Threshold for every step, 0 to 1.")
    max_parallel: int | None = Field(default=None, ge=1, le=64, description="Steps in progress at the same time.")
    max_replans: int | None = Field(default=None, ge=0, le=3, description="Re-plans before a human is asked.")
    human_sla_s: int | None = Field(default=None, ge=1, le=2_592_000, description="Seconds a human has to answer.")
    on_timeout: Literal["reject", "approve"] | None = Field(default=None, description="What silence means.")


class Policy(Contract):
    """How a conversation is run when not everything goes well."""

    min_confidence: Confidence = Field(default=0.7, description="Threshold for steps that name none, 0 to 1.")
    max_parallel: int = Field(default=4, ge=1, le=64, description="Steps in progress at the same time.")
    max_replans: int = Field(default=1, ge=0, le=3, description="Re-plans before a human is asked.")
    human_sla_s: int = Field(default=86_400, ge=1, le=2_592_000, description="Seconds a human has to answer.")
    on_timeout: Literal["reject", "approve"] = Field(default="reject", description="What silence means.")

    def overridden(self, override: PolicyOverride | None) -> Policy:
        """Return this policy with what `override` sets."""
        if override is None:
            return self
        return Policy.model_validate(dict(self) | {name: value for name, value in override if value is not None})
