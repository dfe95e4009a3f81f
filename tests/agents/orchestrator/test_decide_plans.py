"""When another plan is asked for, and what it makes void."""

from __future__ import annotations

import pytest

from motet_schemas import (
    PlanRejected,
    PlanRequested,
)
from tests.agents.orchestrator.decisions import follow, missing, questions, the
from tests.schemas.samples import Story, plan, step

A, B, C = step("a"), step("b"), step("c", "a", "b")


def _story(*steps: object, **policy: object) -> Story:
    return Story().submitted(owner="ann").planned(plan(*(steps or (A, B, C)), policy=dict(policy)))  # type: ignore[arg-type]


def test_a_step_that_cannot_be_done_asks_for_another_plan_once() -> None:
    story = _story().done(A, notes="a is fine").opened(B).executed(B, status="blocked", notes="no network")
    assert missing(story) == ["plan.requested.2"]
    request = the(PlanRequested, story)
    assert "no network" in request.reason
    assert [one.id for one in request.keep] == ["a"]
    assert request.found == ("a: a is fine",)
    assert request.failed[0] == "no network"
    follow(story)
    assert missing(story) == []
    story.add("plan.created", 2, data=plan(A, step("d", "a")))
    assert missing(story) == ["step.ready.d.1.qa"]
    story.opened(step("d")).executed(step("d"), status="blocked")
    assert questions(story) == ["step_blocked"], "the policy allows one re-plan"


@pytest.mark.parametrize("replans", [0, 1, 2, 3])
def test_as_many_plans_are_asked_for_as_the_policy_allows(replans: int) -> None:
    story = _story(A, max_replans=replans).opened(A).executed(A, status="blocked")
    for revision in range(2, replans + 2):
        assert missing(story) == [f"plan.requested.{revision}"]
        follow(story).add("plan.rejected", revision, data=PlanRejected(reason="no other way"))
    assert questions(story) == ["step_blocked"]


def test_nothing_new_starts_while_another_plan_is_made() -> None:
    story = follow(_story(max_parallel=4)).executed(A, status="blocked")
    follow(story).executed(B).verified(B)
    assert missing(story) == []
    story.add("plan.created", 2, data=plan(B, step("d", "b")))
    assert missing(story) == ["step.ready.d.1.qa"]


def test_what_a_new_plan_made_void_changes_nothing() -> None:
    story = follow(_story()).executed(A, status="blocked")
    follow(story).add("plan.created", 2, data=plan(B, step("d", "b")))
    story.executed(B).verified(B)
    assert missing(story) == ["step.ready.d.1.qa"]
    story.done(step("d", "b"))
    assert missing(story) == ["task.completed.content-qa"]


def test_a_new_plan_that_uses_an_id_for_something_else_is_refused_and_a_human_asked() -> None:
    story = follow(_story().opened(A).executed(A, status="blocked"))
    story.add("plan.created", 2, data=plan(step("a", goal="something else")))
    assert questions(story) == ["step_blocked"]
