"""Budgets and policies: ranges that a playbook may widen and a task cannot, and sums in which unknown is not zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from motet_schemas import (
    ANY_LIMITS,
    DEFAULT_LIMITS,
    Budget,
    BudgetLimits,
    BudgetOverride,
    Policy,
    PolicyOverride,
    TaskSubmitted,
    Usage,
    limits_context,
)
from motet_schemas.standing import total_usage

RANGES = [("max_attempts", 1, 10), ("max_tokens", 1_000, 12_000), ("time_budget_s", 60, 900)]


@pytest.mark.parametrize(("field", "low", "high"), RANGES)
@pytest.mark.parametrize("contract", [Budget, BudgetOverride])
def test_a_budget_keeps_its_ranges(contract: type[Budget | BudgetOverride], field: str, low: int, high: int) -> None:
    for value in (low, high):
        assert getattr(contract.model_validate({field: value}), field) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValidationError) as refused:
            contract.model_validate({field: value})
        message = str(refused.value)
        assert field in message
        assert str(low) in message
        assert str(high) in message


@pytest.mark.parametrize(("field", "low", "high"), RANGES)
def test_a_task_answers_to_the_same_ranges(field: str, low: int, high: int) -> None:
    body = f'{{"kind":"k","budget":{{"{field}":{high + 1}}}}}'
    with pytest.raises(ValidationError, match=field):
        TaskSubmitted.model_validate_json(body)


def test_the_defaults_are_within_the_ranges() -> None:
    assert Budget.model_validate(Budget().model_dump()) == Budget()
    assert BudgetLimits(max_attempts=(1, 10), max_tokens=(1_000, 12_000), time_budget_s=(60, 900)) == DEFAULT_LIMITS


def test_a_playbook_may_widen_a_range() -> None:
    wider = limits_context(BudgetLimits(max_attempts=(1, 50)))
    assert Budget.model_validate({"max_attempts": 50}, context=wider).max_attempts == 50
    with pytest.raises(ValidationError, match="1 to 50"):
        Budget.model_validate({"max_attempts": 51}, context=wider)
    with pytest.raises(ValidationError, match="60 to 900"):
        Budget.model_validate({"time_budget_s": 901}, context=wider)


@pytest.mark.parametrize("value", ["5", 5.0, True, None])
def test_a_budget_is_made_of_whole_numbers(value: object) -> None:
    with pytest.raises(ValidationError):
        Budget.model_validate({"max_attempts": value})


@pytest.mark.parametrize("value", [-0.01, float("nan"), float("inf")])
def test_a_cost_is_a_finite_number_from_zero(value: float) -> None:
    with pytest.raises(ValidationError):
        Budget(max_cost_usd=value)


def test_an_override_changes_only_what_it_sets() -> None:
    changed = Budget(max_cost_usd=2.0).overridden(BudgetOverride(max_tokens=3_000))
    assert changed == Budget(max_tokens=3_000, max_cost_usd=2.0)
    assert Budget().overridden(None) == Budget()
    policy = Policy(max_replans=0).overridden(PolicyOverride(on_timeout="approve"))
    assert policy == Policy(max_replans=0, on_timeout="approve")


def test_an_override_keeps_the_wider_range_of_a_playbook() -> None:
    wide = Budget.model_validate({"max_attempts": 50}, context=limits_context(ANY_LIMITS))
    assert wide.overridden(BudgetOverride(max_tokens=2_000)).max_attempts == 50


@pytest.mark.parametrize(
    "given_policy",
    [
        {"min_confidence": 1.1},
        {"min_confidence": -0.1},
        {"max_parallel": 0},
        {"max_parallel": 65},
        {"max_replans": -1},
        {"max_replans": 4},
        {"human_sla_s": 0},
        {"on_timeout": "revise"},
    ],
)
def test_a_policy_keeps_its_ranges(given_policy: dict[str, object]) -> None:
    for contract in (Policy, PolicyOverride):
        with pytest.raises(ValidationError, match=next(iter(given_policy))):
            contract.model_validate(given_policy)


amounts = st.none() | st.integers(0, 10**9)
usages = st.builds(
    Usage, tokens_in=amounts, tokens_out=amounts, cost_usd=st.none() | st.floats(0, 1e6, allow_nan=False)
)


@given(st.lists(usages, max_size=6))
def test_a_sum_is_unknown_as_soon_as_a_part_is(parts: list[Usage]) -> None:
    total = total_usage(parts)
    for field in ("tokens_in", "tokens_out", "cost_usd"):
        values = [getattr(part, field) for part in parts]
        if None in values:
            assert getattr(total, field) is None
        else:
            assert getattr(total, field) == pytest.approx(sum(values))


def test_a_record_cannot_make_the_sum_of_costs_overflow() -> None:
    with pytest.raises(ValidationError):
        Usage(cost_usd=1e308)


def test_tokens_are_unknown_when_one_side_is() -> None:
    assert Usage(tokens_in=1, tokens_out=2).tokens == 3
    assert Usage(tokens_in=1).tokens is None
