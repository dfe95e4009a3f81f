"""Plans hold together: unique ids, known dependencies, no cycle, and sums within the budget."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from motet_schemas import EVENTS, Manifest, PlanStep
from motet_schemas.plan import check_graph
from tests.schemas.samples import plan, step


def _step_with(field: str, value: float) -> PlanStep:
    fields: dict[str, Any] = {field: value}
    return step(**fields)


@pytest.mark.parametrize(
    ("field", "low", "high", "below", "above"),
    [
        ("max_attempts", 1, 5, 0, 6),
        ("min_confidence", 0.0, 1.0, -0.01, 1.01),
        ("time_budget_s", 10, 600, 9, 601),
    ],
)
def test_a_step_keeps_its_ranges(field: str, low: float, high: float, below: float, above: float) -> None:
    for value in (low, high):
        assert getattr(_step_with(field, value), field) == value
    for value in (below, above):
        with pytest.raises(ValidationError, match=field):
            _step_with(field, value)


@pytest.mark.parametrize("missing", ["capability", "goal", "manifest", "id"])
def test_a_step_without_what_it_needs_is_refused(missing: str) -> None:
    fields = {key: value for key, value in json.loads(step().to_json()).items() if key != missing}
    with pytest.raises(ValidationError, match=missing):
        PlanStep.model_validate_json(json.dumps(fields))


@pytest.mark.parametrize("token", ["", "a.b", "*", ">", "a b", "a\n", "é", "x" * 65])
@pytest.mark.parametrize("field", ["id", "capability"])
def test_names_that_cannot_stand_in_a_subject_are_refused(field: str, token: str) -> None:
    given: dict[str, Any] = {"id": "a", "capability": "qa", "goal": "g", "manifest": Manifest(objective="o")}
    with pytest.raises(ValidationError, match=field):
        PlanStep.model_validate(given | {field: token})


def test_a_plan_has_at_least_one_step() -> None:
    body = json.loads(plan().to_json()) | {"steps": []}
    with pytest.raises(ValidationError, match="steps"):
        EVENTS["plan.created"].model_validate_json(json.dumps(body))


def test_a_step_id_stands_only_once_in_a_plan() -> None:
    with pytest.raises(ValidationError, match="duplicate id tone"):
        plan(step("tone"), step("links"), step("tone"))


def test_an_unknown_dependency_is_named() -> None:
    with pytest.raises(ValidationError, match=r"links.*tonne"):
        plan(step("tone"), step("links", "tonne"))


@pytest.mark.parametrize(
    "steps", [(step("a", "a"),), (step("a", "b"), step("b", "a")), (step("a", "c"), step("b", "a"), step("c", "b"))]
)
def test_a_cycle_is_refused_and_shown(steps: tuple[PlanStep, ...]) -> None:
    with pytest.raises(ValidationError, match=r"cycle.*a"):
        plan(*steps)


@pytest.mark.parametrize(
    ("field", "each", "budget"),
    [
        ("max_attempts", {"max_attempts": 3}, {"max_attempts": 5}),
        ("time_budget_s", {"time_budget_s": 60}, {"time_budget_s": 119}),
    ],
)
def test_what_the_steps_may_use_fits_into_the_budget(field: str, each: dict[str, Any], budget: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=field):
        plan(step("a", **each), step("b", **each), **budget)
    allowed = {name: value + 1 for name, value in budget.items()}
    assert len(plan(step("a", **each), step("b", **each), **allowed).steps) == 2


@given(st.data())
def test_a_graph_is_accepted_exactly_when_it_has_an_order(data: st.DataObject) -> None:
    names = [f"s{n}" for n in range(data.draw(st.integers(1, 6)))]
    edges = {name: data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) for name in names}
    steps = [step(name, *after) for name, after in edges.items()]
    done: set[str] = set()
    for _ in names:
        done |= {name for name, after in edges.items() if set(after) <= done}
    if done == set(names):
        check_graph(steps)
    else:
        with pytest.raises(ValueError, match="cycle"):
            check_graph(steps)


def test_a_plan_finds_its_steps() -> None:
    made = plan(step("a"), step("b", "a"))
    assert made.step("b") == step("b", "a")
    assert made.step("c") is None
