"""Time, attempts, tokens and money: what runs out is asked about, and a grant is the same once more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from motet_agents.orchestrator import decide
from motet_schemas import (
    EscalateRaised,
    PlanRequested,
    TimerFired,
    TimerSet,
    Usage,
)
from tests.agents.orchestrator.decisions import follow, missing, questions, the, timers
from tests.schemas.samples import START, Story, answer, plan, step

A, B = step("a", max_attempts=1), step("b")
TICK = TimerFired(at=START)


def _story(*steps: Any, policy: dict[str, Any] | None = None, **budget: Any) -> Story:
    rules = {"max_replans": 0} | (policy or {})
    return Story().submitted(owner="ann").planned(plan(*(steps or (A, B)), policy=rules, **budget))


def test_a_planner_that_never_answers_runs_out_of_time() -> None:
    story = follow(Story().submitted())
    story.add("timer.fired", "budget", 1, data=TICK, after_s=300)
    assert questions(story) == ["time_exhausted"]
    assert decide(follow(story).state).facts == ()


def test_a_worker_that_never_comes_runs_out_of_time() -> None:
    story = follow(_story(time_budget_s=120)).add("timer.fired", "budget", 1, data=TICK, after_s=119)
    assert questions(story) == ["time_exhausted"]
    follow(story)
    assert timers(story) == []
    story.add("escalate.answered", 1, data=answer("approve"), after_s=1_000)
    assert questions(story) == []
    assert timers(story) == ["timer.set.budget.2"]
    assert the(TimerSet, story).at == story.events[0].time + timedelta(seconds=240 + 1_000)


def test_a_budget_timer_that_comes_too_early_is_set_anew_once() -> None:
    story = follow(_story()).add("timer.fired", "budget", 1, data=TICK)
    assert timers(story) == ["timer.set.budget.2"]
    assert decide(follow(story).state).facts == ()


@pytest.mark.parametrize(
    "name", [("budget", 1), ("budget", 2), ("budget", "x"), ("escalation", 1, 1), ("backoff", "a", 1, 1)]
)
@pytest.mark.parametrize("kind", ["timer.set", "timer.fired"])
def test_rubbish_about_timers_leaves_a_timer_that_runs(kind: str, name: tuple[str | int, ...]) -> None:
    story = _story(time_budget_s=120).add(kind, *name, data=b"rubbish")
    follow(story)
    assert any(not alarm.fired and alarm.at is not None for alarm in story.state.alarms.values())


def test_no_attempt_starts_when_all_are_used_up_and_a_grant_allows_as_many_again() -> None:
    two = step("a", max_attempts=2), step("b", max_attempts=2)
    story = _story(*two, max_attempts=4)
    for attempt in (1, 2):
        story.opened(two[0], attempt).executed(two[0], attempt, status="failed")
    story.add("escalate.raised", 1, data=_raised("a", 2)).add("escalate.answered", 1, data=answer("revise"))
    story.opened(two[0], 3).executed(two[0], 3).verified(two[0], 3)
    story.opened(two[1]).executed(two[1], status="failed")
    assert missing(story) == ["step.ready.b.2.qa"]
    small = Story().submitted().planned(plan(step("a", max_attempts=1), max_attempts=1, policy={"max_replans": 1}))
    small.opened(A).executed(A, status="failed").add("plan.requested", 2, data=PlanRequested())
    small.add("plan.created", 2, data=plan(B.evolve(max_attempts=1), max_attempts=1))
    assert questions(small) == ["attempts_exhausted"]
    follow(small).add("escalate.answered", 1, data=answer("approve"))
    assert missing(small) == ["step.ready.b.1.qa"]


def _raised(name: str, attempt: int) -> EscalateRaised:
    return EscalateRaised(
        reason="step_failed",
        step=name,
        attempt=attempt,
        question="?",
        allowed_answers=("revise", "reject"),
        due_at=START + timedelta(days=1),
        on_timeout="reject",
    )


@pytest.mark.parametrize(
    ("spent", "reason"),
    [
        ({"tokens_in": 4_000, "tokens_out": 0}, "tokens_exhausted"),
        ({"tokens_in": 2_000, "tokens_out": 2_000}, "tokens_exhausted"),
        ({"tokens_in": 4_000, "tokens_out": None}, "tokens_exhausted"),
        ({"cost_usd": 0.5}, "cost_exhausted"),
    ],
)
def test_no_attempt_starts_when_tokens_or_money_are_used_up(spent: dict[str, Any], reason: str) -> None:
    story = _story(A, step("z", "a"), max_tokens=4_000, max_cost_usd=0.5).done(A, **spent)
    assert questions(story) == [reason]
    assert the(EscalateRaised, story).allowed_answers == ("approve", "reject")
    follow(story).add("escalate.answered", 1, data=answer("approve"))
    assert missing(story) == ["step.ready.z.1.qa"]


def test_known_costs_count_although_another_is_unknown() -> None:
    story = _story(A, B, step("z", "a", "b"), max_cost_usd=0.5).done(A, cost_usd=0.9).done(B, cost_usd=None)
    assert questions(story) == ["cost_exhausted"]


def test_work_that_is_done_needs_no_budget() -> None:
    assert missing(_story(A, max_tokens=4_000).done(A, tokens_in=9_000)) == ["task.completed.content-qa"]


def test_several_budgets_may_run_out_together() -> None:
    made = plan(A, step("z", "a"), max_tokens=1_000, max_cost_usd=0.1).evolve(usage=Usage(tokens_in=600, tokens_out=0))
    story = Story().submitted().planned(made).done(A, tokens_in=400, cost_usd=0.15)
    assert questions(story) == ["tokens_exhausted", "cost_exhausted"]
    follow(story).add("escalate.answered", 1, data=answer("approve"))
    assert missing(story) == []
    story.add("escalate.answered", 2, data=answer("approve"))
    assert missing(story) == ["step.ready.z.1.qa"]
