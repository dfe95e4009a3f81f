"""A budget that a playbook widened can be handed on: into a plan, into an event, over the wire."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from motet_schemas import ANY_LIMITS, Budget, BudgetOverride, PlanCreated, TaskSubmitted, decode, limits_context
from motet_schemas.subjects import build
from tests.schemas.samples import START, step

WIDE = Budget.model_validate({"max_attempts": 50}, context=limits_context(ANY_LIMITS))


def test_a_widened_budget_stands_in_a_plan_and_survives_the_wire() -> None:
    made = PlanCreated(steps=(step("a"),), budget=WIDE)
    again = PlanCreated(**dict(made))
    assert again.budget.max_attempts == 50
    assert decode(build("plan.created", "c", 1), {}, again.to_json(), seq=1, time=START).data == again


def test_a_widened_override_stands_in_a_task() -> None:
    override = BudgetOverride.model_validate({"max_tokens": 50_000}, context=limits_context(ANY_LIMITS))
    assert TaskSubmitted(kind="k", budget=override).budget == override


def test_a_widened_budget_can_be_evolved() -> None:
    assert WIDE.evolve(max_cost_usd=1.0).max_attempts == 50


def test_what_was_never_read_with_wider_limits_is_refused() -> None:
    body = {"steps": (step("a"),), "budget": {"max_attempts": 50}}
    with pytest.raises(ValidationError, match="1 to 10"):
        PlanCreated.model_validate(body)
