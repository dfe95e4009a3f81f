"""When humans are asked, what their answers do, what silence means, and which budgets are watched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from motet_agents.orchestrator import decide, is_settled
from motet_schemas import (
    EscalateRaised,
    EscalateTimedOut,
    LetterDiscarded,
    LetterRetried,
    PlanRejected,
    PlanRequested,
    StepReady,
    TaskCompleted,
    TaskFailed,
    TimerFired,
    TimerSet,
    Usage,
)
from motet_schemas.standing import open_questions, status
from tests.agents.orchestrator.decisions import content, follow, missing, questions, the, timers
from tests.schemas.samples import START, Story, answer, notice, plan, refused, step

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


@pytest.mark.parametrize("subject", ["step.ready.c.a.1.qa", "step.executed.c.a.1"])
def test_a_human_is_asked_about_a_step_that_went_to_the_dead_letters(subject: str) -> None:
    story = _story(A).opened(A)
    if "executed" in subject:
        story.executed(A)
    story.add("letter.dead", "step-qa-5", data=notice(subject, consumer="step-qa"))
    raised = the(EscalateRaised, story)
    assert (raised.reason, raised.step, raised.attempt, raised.letter) == ("dead_letter", "a", 1, "step-qa-5")
    assert len(questions(story)) == 1
    assert missing(follow(story)) == []


def test_a_letter_that_is_retried_makes_its_question_moot() -> None:
    story = _story(A, policy={"human_sla_s": 60}).opened(A).executed(A)
    follow(story.add("letter.dead", "verifier-5", data=notice("step.executed.c.a.1", consumer="verifier")))
    assert len(open_questions(story.state)) == 1
    story.add("letter.retried", "verifier-5", data=LetterRetried(by="ops"))
    assert open_questions(story.state) == []
    story.add("timer.fired", "escalation", 1, 1, data=TICK, after_s=100)
    assert "escalate.timed_out.1" not in missing(story)
    story.verified(A)
    assert missing(story) == ["task.completed.content-qa"]


def test_a_plan_request_that_went_to_the_dead_letters_is_asked_about() -> None:
    story = follow(Story().submitted()).add(
        "letter.dead", "planner-5", data=notice("plan.requested.c.1", consumer="planner")
    )
    assert questions(story) == ["plan_rejected"]
    assert the(EscalateRaised, story).letter == "planner-5"
    follow(story).add("letter.retried", "planner-5", data=LetterRetried(by="ops")).add("plan.created", 1, data=plan(A))
    assert missing(story) == ["step.ready.a.1.qa"]
    assert open_questions(story.state) == [], "the plan is there: the question is moot"


def test_a_letter_of_somebody_who_only_listens_undoes_no_work() -> None:
    story = _story(A, B).done(A).add("letter.dead", "learn-5", data=notice("step.executed.c.a.1"))
    raised = the(EscalateRaised, story)
    assert (raised.reason, raised.letter, raised.allowed_answers) == ("dead_letter", "learn-5", ("approve", "reject"))
    assert "step.ready.b.1.qa" in missing(story)


@pytest.mark.parametrize("what", ["task.submitted.c.content-qa", "timer.fired.c.x", "nonsense"])
def test_any_other_dead_letter_is_asked_about_once(what: str) -> None:
    story = follow(_story()).add("letter.dead", "learn-5", data=notice(what))
    assert questions(story) == ["dead_letter"]
    follow(story).add("escalate.answered", 1, data=answer("approve"))
    assert questions(story) == []


@pytest.mark.parametrize("act", [LetterRetried(by="ops"), LetterDiscarded(by="ops")])
def test_a_letter_that_an_operator_saw_to_is_not_asked_about(act: LetterRetried | LetterDiscarded) -> None:
    story = follow(_story()).add("letter.dead", "learn-5", data=notice("task.submitted.c.content-qa"))
    story.add(act.KIND, "learn-5", data=act)
    assert questions(story) == []


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
