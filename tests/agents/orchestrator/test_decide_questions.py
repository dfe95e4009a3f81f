"""When humans are asked, what their answers do, what silence means, and which budgets are watched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from motet_agents.orchestrator import decide, is_settled
from motet_schemas import (
    EscalateRaised,
    EscalateTimedOut,
    PlanRejected,
    PlanRequested,
    StepReady,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from motet_schemas.standing import open_questions, status
from tests.agents.orchestrator.decisions import content, follow, missing, questions, the, timers
from tests.schemas.samples import START, Story, answer, plan, refused, step

A, B = step("a", max_attempts=1), step("b")
TICK = TimerFired(at=START)


def _story(*steps: Any, policy: dict[str, Any] | None = None, **budget: Any) -> Story:
    rules = {"max_replans": 0} | (policy or {})
    return Story().submitted(owner="ann").planned(plan(*(steps or (A, B)), policy=rules, **budget))


def _doubtful(**policy: Any) -> Story:
    """A conversation that asks whether a step of low confidence is good enough."""
    return follow(_story(policy=policy).opened(A).executed(A, confidence=0.1, output="draft").verified(A))


@pytest.mark.parametrize(
    ("fields", "reason", "allowed"),
    [
        ({"confidence": 0.69}, "low_confidence", ("approve", "revise", "reject", "take_over")),
        ({"confidence": None}, "low_confidence", ("approve", "revise", "reject", "take_over")),
        ({"status": "failed"}, "step_failed", ("revise", "reject", "take_over")),
        ({"status": "blocked"}, "step_blocked", ("revise", "reject", "take_over")),
    ],
)
def test_a_human_is_asked_about_a_step(fields: dict[str, Any], reason: str, allowed: tuple[str, ...]) -> None:
    story = _story(A).opened(A).executed(A, **fields).verified(A)
    raised = the(EscalateRaised, story)
    assert (raised.reason, raised.step, raised.attempt, raised.asked) == (reason, "a", 1, "ann")
    assert raised.allowed_answers == allowed
    assert raised.due_at == story.now + timedelta(days=1)
    assert raised.transcript
    assert all(word in raised.proposal for word in allowed)
    assert "timer.set.escalation.1.1" in timers(story)
    assert missing(follow(story)) == []
    assert is_settled(story.state)
    assert status(story.state) == "waiting"


def test_confidence_at_the_threshold_is_enough_and_a_threshold_of_zero_asks_nobody() -> None:
    assert missing(_story(A).done(A, confidence=0.7)) == ["task.completed.content-qa"]
    careless = step("a", min_confidence=0.0)
    assert missing(_story(careless).done(careless, confidence=None)) == ["task.completed.content-qa"]


def test_a_human_is_asked_when_gates_fail_and_attempts_are_used_up() -> None:
    story = _story(A).opened(A).executed(A).add("verify.failed", "a", 1, data=refused("no such quote"))
    assert "no such quote" in the(EscalateRaised, story).question


def test_other_steps_go_on_while_a_human_is_asked() -> None:
    story = _doubtful()
    assert [one.number for one in story.state.opened("b")] == [1]
    story.executed(B).verified(B)
    assert missing(story) == []
    story.add("escalate.answered", 1, data=answer("approve"))
    assert missing(story) == ["task.completed.content-qa"]


def test_approved_counts_as_done_and_the_report_says_by_whom() -> None:
    story = _doubtful().executed(B).verified(B).add("escalate.answered", 1, data=answer("approve", note="good enough"))
    report = the(TaskCompleted, story)
    assert report.steps[0].accepted_by == "ann"
    assert report.steps[0].output == "draft"
    assert any("low_confidence" in concern and "good enough" in concern for concern in report.concerns)


def test_revised_is_done_again_with_the_instructions_beyond_the_attempts_of_the_step() -> None:
    story = _doubtful().add("escalate.answered", 1, data=answer("revise", instructions="be kinder"))
    assert missing(story) == ["step.ready.a.2.qa"]
    assert the(StepReady, story).instructions == ("be kinder",)
    follow(story).executed(A, 2, confidence=0.1).verified(A, 2)
    assert questions(story) == ["low_confidence"]
    assert missing(story) == ["escalate.raised.2"]


def test_rejected_fails_at_once() -> None:
    story = _doubtful().add("escalate.answered", 1, data=answer("reject", note="nonsense"))
    assert missing(story) == ["task.failed.content-qa"]
    assert "nonsense" in the(TaskFailed, story).reason


@pytest.mark.parametrize("result", [{"made": "by hand"}, [], 0, "", False])
def test_taken_over_is_done_with_the_humans_result(result: Any) -> None:
    last = step("z", "a")
    story = follow(_story(A, last).opened(A).executed(A, confidence=0.1, output="draft").verified(A))
    story.add("escalate.answered", 1, data=answer("take_over", result=result))
    assert the(StepReady, story).found[0].output == result
    report = the(TaskCompleted, story.done(last))
    assert report.steps[0].output == result
    assert report.steps[0].accepted_by == "ann"


@pytest.mark.parametrize(("on_timeout", "ends"), [("reject", "task.failed"), ("approve", "task.completed")])
def test_silence_means_what_the_policy_says(on_timeout: str, ends: str) -> None:
    story = _doubtful(on_timeout=on_timeout, human_sla_s=60).executed(B, after_s=0).verified(B)
    story.add("timer.fired", "escalation", 1, 1, data=TICK, after_s=60)
    assert missing(story) == ["escalate.timed_out.1"]
    assert the(EscalateTimedOut, story).decision == on_timeout
    assert not decide(story.state).final
    for fact in decide(story.state).facts:
        story.put(fact.subject, fact.data, after_s=0)
    assert missing(story) == [f"{ends}.content-qa"]


def test_silence_cannot_approve_what_nobody_may_approve() -> None:
    story = _story(A, policy={"on_timeout": "approve"}).opened(A).executed(A, status="blocked")
    assert the(EscalateRaised, story).on_timeout == "reject"


def test_a_tick_before_it_is_due_times_nothing_out_and_sets_the_timer_again() -> None:
    story = _doubtful().add("timer.fired", "escalation", 1, 1, data=TICK)
    assert missing(story) == []
    assert timers(story) == ["timer.set.escalation.1.2"]
    assert decide(follow(story).state).facts == ()


def test_no_tick_is_needed_to_see_that_the_time_is_over() -> None:
    story = _doubtful(human_sla_s=60).executed(B, after_s=61)
    assert missing(story) == ["escalate.timed_out.1"]


def test_an_answer_that_does_not_parse_is_asked_for_again() -> None:
    story = _doubtful().add("escalate.answered", 1, data=b"rubbish")
    assert missing(story) == ["escalate.raised.2"]


def test_an_answered_question_is_not_asked_again() -> None:
    story = _doubtful()
    assert questions(story) == []
    story.add("escalate.answered", 1, data=answer("approve"))
    assert questions(story) == []


def test_a_plan_that_cannot_be_made_is_asked_about_until_it_can() -> None:
    story = follow(Story().submitted()).add("plan.rejected", 1, data=PlanRejected(reason="unknown kind"))
    raised = the(EscalateRaised, story)
    assert (raised.reason, raised.allowed_answers) == ("plan_rejected", ("revise", "reject"))
    assert "unknown kind" in raised.question
    follow(story).add("escalate.answered", 1, data=answer("revise", instructions="call it qa"))
    assert missing(story) == ["plan.requested.2"]
    assert the(PlanRequested, story).instructions == ("call it qa",)
    follow(story).add("plan.rejected", 2, data=PlanRejected(reason="still unknown"))
    assert missing(story) == ["escalate.raised.2"]
    follow(story).add("escalate.answered", 2, data=answer("reject"))
    assert missing(story) == ["task.failed.content-qa"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_rubbish_for_a_plan_that_nobody_asked_for_blocks_nothing(when: str) -> None:
    story = follow(Story().submitted())
    if when == "before":
        story.add("plan.created", 2, data=b"rubbish")
    story.add("plan.rejected", 1, data=PlanRejected(reason="unknown kind"))
    if when == "after":
        story.add("plan.created", 2, data=b"rubbish")
    assert questions(story) == ["plan_rejected"]
    follow(story).add("escalate.answered", 1, data=answer("revise"))
    assert missing(story) == ["plan.requested.3"]


def test_a_question_about_a_step_that_a_new_plan_dropped_is_moot() -> None:
    story = Story().submitted().planned(plan(A, B, policy={"human_sla_s": 60, "max_replans": 1}))
    story.opened(A).opened(B).executed(A, confidence=0.1).verified(A)
    follow(story).executed(B, status="blocked")
    follow(story).add("plan.created", 2, data=plan(step("d"), policy={"human_sla_s": 60}))
    assert open_questions(story.state) == []
    follow(story).add("timer.fired", "escalation", 1, 1, data=TICK, after_s=100)
    story.executed(step("d")).verified(step("d"))
    assert missing(story) == ["task.completed.content-qa"]


def test_questions_that_are_raised_together_have_numbers_of_their_own() -> None:
    both = _story(A, A.evolve(id="b")).opened(A).opened(A.evolve(id="b"))
    both.executed(A, confidence=0.1).verified(A).executed(A.evolve(id="b"), status="blocked")
    assert missing(both) == ["escalate.raised.1", "escalate.raised.2"]
    assert timers(both) == ["timer.set.escalation.1.1", "timer.set.escalation.2.1"]


def test_every_question_is_decided_the_same_way_twice() -> None:
    story = _story(A, step("z", "a"), max_tokens=1_000).done(A, tokens_in=2_000)
    assert content(decide(story.state)) == content(decide(story.state))
