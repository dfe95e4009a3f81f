"""What the orchestrator decides about steps: the DAG, parallelism, retries, re-plans, lost claims."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from motet_agents.orchestrator import decide, is_settled
from motet_schemas import (
    Evidence,
    StepReady,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TimerFired,
    Usage,
)
from tests.agents.orchestrator.decisions import content, follow, missing, questions, settled, the, timers
from tests.schemas.samples import START, Story, answer, failure, passed, plan, record, refused, step

A, B, C = step("a"), step("b"), step("c", "a", "b")


def _story(*steps: object, **policy: object) -> Story:
    return Story().submitted(owner="ann").planned(plan(*(steps or (A, B, C)), policy=dict(policy)))  # type: ignore[arg-type]


def test_nothing_is_missing_before_a_task_and_after_the_end() -> None:
    assert decide(Story().state).facts == ()
    done = follow(_story(A).done(A))
    assert done.state.ending is not None
    assert decide(done.state).facts == ()
    assert is_settled(done.state)


def test_a_submitted_task_needs_a_plan() -> None:
    story = Story().submitted()
    assert missing(story) == ["plan.requested.1"]
    assert timers(story) == ["timer.set.budget.1"]
    assert missing(follow(story)) == []


def test_a_task_that_does_not_parse_fails() -> None:
    story = Story().add("task.submitted", "content-qa", data=b"rubbish")
    assert missing(story) == ["task.failed.unreadable"]
    assert "does not parse" in the(TaskFailed, story).reason


def test_steps_without_dependencies_start_together() -> None:
    assert missing(_story()) == ["step.ready.a.1.qa", "step.ready.b.1.qa"]


def test_a_step_waits_until_all_that_it_depends_on_is_done() -> None:
    story = follow(_story()).executed(A).verified(A)
    assert missing(story) == []
    story.executed(B)
    assert missing(story) == []
    story.verified(B)
    assert missing(story) == ["step.ready.c.1.qa"]


def test_no_more_steps_are_in_progress_than_the_policy_allows() -> None:
    many = [step(f"s{n}") for n in range(5)]
    story = _story(*many, max_parallel=2)
    assert missing(story) == ["step.ready.s0.1.qa", "step.ready.s1.1.qa"]
    follow(story).executed(many[0]).verified(many[0])
    assert missing(story) == ["step.ready.s2.1.qa"]


def test_a_step_that_waits_for_a_human_takes_no_place() -> None:
    story = follow(_story(A, B, max_parallel=1)).executed(A, status="blocked", confidence=None)
    story.planned(plan(A, B, policy={"max_parallel": 1, "max_replans": 0}), revision=2)
    assert missing(story) == ["step.ready.b.1.qa", "escalate.raised.1"]


def test_the_handoff_says_what_was_asked_found_and_failed_and_what_comes_next() -> None:
    story = _story().done(A, notes="three links", output={"links": [None]}).done(B)
    story.opened(C).executed(C, status="failed", notes="timeout", evidence=(Evidence(content="504"),))
    ready = the(StepReady, story)
    assert ready.step == C
    assert ready.asked == "content-qa for ann"
    assert [(found.step, found.notes, found.output) for found in ready.found] == [
        ("a", "three links", {"links": [None]}),
        ("b", "done", None),
    ]
    assert [(one.step, one.attempt, one.reason, one.evidence) for one in ready.failed] == [
        ("c", 1, "timeout", ("504",))
    ]
    assert the(StepReady, _story(A, step("z", "a")).opened(step("z"))).next_steps == ("z",)


def test_the_handoff_says_what_may_still_be_spent() -> None:
    story = Story().submitted().planned(plan(A, B, max_attempts=5, max_tokens=5_000, max_cost_usd=1.0))
    story.done(A, tokens_in=700, tokens_out=300, cost_usd=0.25)
    left = the(StepReady, story).remaining
    assert (left.attempts, left.tokens, left.cost_usd) == (3, 4_000, 0.75)
    assert left.time_s == pytest.approx(900 - 5)


def test_parallel_handoffs_do_not_promise_the_same_attempt_twice() -> None:
    facts = decide(_story().state).facts
    left = [fact.data.remaining.attempts for fact in facts if isinstance(fact.data, StepReady)]
    assert left == [9, 8]


def test_a_failed_attempt_is_tried_again_until_its_attempts_are_used_up() -> None:
    story = _story(A, max_replans=0).opened(A).executed(A, status="failed", notes="no")
    assert missing(story) == ["step.ready.a.2.qa"]
    story.opened(A, 2).executed(A, 2, status="failed", notes="no")
    assert questions(story) == ["step_failed"]


def test_a_failed_verification_is_tried_again_with_what_the_gates_found() -> None:
    story = _story(A).opened(A).executed(A).add("verify.failed", "a", 1, data=refused("no such quote"))
    assert missing(story) == ["step.ready.a.2.qa"]
    assert the(StepReady, story).failed[0].evidence == ("qa.quotes: no such quote",)


@pytest.mark.parametrize("what", ["step.executed", "verify.passed", "verify.failed"])
def test_an_outcome_that_does_not_parse_is_tried_again(what: str) -> None:
    story = _story(A).opened(A)
    if what != "step.executed":
        story.executed(A)
    story.add(what, "a", 1, data=b"rubbish")
    assert missing(story) == ["step.ready.a.2.qa"]
    assert "does not parse" in the(StepReady, story).failed[0].reason


def test_a_handoff_that_does_not_parse_is_a_failed_attempt() -> None:
    story = _story(A).add("step.ready", "a", 1, "nobody", data=b"rubbish")
    assert missing(story) == ["step.ready.a.2.qa"]


@pytest.mark.parametrize(
    "fields",
    [
        {"next_action": "escalate"},
        {"failure": failure(retryable=False)},
        {"status": "blocked"},
    ],
)
def test_what_another_attempt_cannot_cure_is_not_tried_again(fields: dict[str, Any]) -> None:
    given: dict[str, Any] = {"status": "failed"}
    story = _story(A, max_replans=0).opened(A).add("step.executed", "a", 1, data=record(**(given | fields)))
    assert questions(story) in (["step_failed"], ["step_blocked"])


def test_an_attempt_that_broke_rests_before_the_next_one() -> None:
    story = _story(A).opened(A).executed(A, status="failed", failure=failure(retry_after_s=20.0))
    assert missing(story) == []
    assert "timer.set.backoff.a.1.1" in timers(story)
    follow(story)
    story.add("timer.fired", "backoff", "a", 1, 1, data=TimerFired(at=START), after_s=5)
    assert missing(story) == [], "a tick is a reason to look, not a reason to act"
    story.add("timer.fired", "backoff", "a", 1, 2, data=TimerFired(at=START), after_s=16)
    assert missing(story) == ["step.ready.a.2.qa"]


def test_backoffs_grow_and_end() -> None:
    waits: list[float] = []
    slow = step("a", max_attempts=5)
    story = _story(slow)
    for attempt in range(1, 5):
        story.opened(slow, attempt).executed(slow, attempt, status="failed", failure=failure())
        due = [fact.data for fact in decide(story.state).facts if str(fact.subject).startswith("timer.set.c.backoff")]
        waits.append((due[0].at - story.now) / timedelta(seconds=1))  # type: ignore[union-attr]
        follow(story)
    assert waits == sorted(waits)
    assert 0 < waits[0] < waits[-1] <= 60


@pytest.mark.parametrize("hint", [0.0, 1e6, 1e13, 1e300])
def test_no_hint_of_an_executor_can_break_or_stop_a_conversation(hint: float) -> None:
    failed = record(status="failed", failure=failure(retry_after_s=1.0)).to_json()
    hinted = failed.replace(b'"retry_after_s":1.0', f'"retry_after_s":{hint}'.encode())
    story = _story(A).opened(A).add("step.executed", "a", 1, data=hinted)
    decide(story.state)
    story.add("timer.fired", "budget", 1, data=TimerFired(at=START), after_s=1_000)
    assert missing(story) != []


def test_the_idempotency_key_stays_until_a_run_ended_with_an_answer() -> None:
    story = _story(step("a", max_attempts=4))
    one = step("a", max_attempts=4)
    first = the(StepReady, story).idempotency_key
    story.opened(one).claimed(one).lost(one)
    assert the(StepReady, story).idempotency_key == first
    story.opened(one, 2).executed(one, 2, status="failed", failure=failure(), after_s=1)
    story.add("timer.fired", "x", data=TimerFired(at=START), after_s=60)
    assert the(StepReady, story).idempotency_key == first
    story.opened(one, 3).executed(one, 3, status="failed")
    assert the(StepReady, story).idempotency_key != first


def test_a_lost_claim_costs_no_attempt_and_takes_the_next_number() -> None:
    once = step("a", max_attempts=1)
    story = _story(once).opened(once).claimed(once).lost(once)
    assert missing(story) == ["step.ready.a.2.qa"]
    story.opened(once, 2).executed(once, 2).verified(once, 2)
    assert missing(story) == ["task.completed.content-qa"]
    assert the(TaskCompleted, story).usage.attempts == 1


def test_lost_claims_have_a_bound_of_their_own() -> None:
    story = _story(A)
    for attempt in (1, 2, 3):
        assert missing(story) == [f"step.ready.a.{attempt}.qa"]
        story.opened(A, attempt).claimed(A, attempt).lost(A, attempt)
    assert missing(story) == ["step.ready.a.4.qa"]
    story.opened(A, 4).claimed(A, 4).lost(A, 4)
    assert questions(story) == ["claims_lost"]
    assert missing(follow(story)) == []


def test_a_claim_that_ran_out_is_expired_when_a_tick_shows_it_and_not_before() -> None:
    story = follow(_story(A, B)).claimed(A, ttl_s=30.0)
    story.executed(B, after_s=29)
    assert missing(story) == []
    story.verified(B).add("timer.fired", "x", data=TimerFired(at=START), after_s=1)
    assert missing(story) == ["step.expired.a.1"]
    assert not decide(story.state).final, "the next attempt follows at once"
    follow(story)
    assert [one.number for one in story.state.opened("a")] == [1, 2]


def test_all_steps_done_is_completed() -> None:
    story = _story(A, B).done(A).done(B)
    assert missing(story) == ["task.completed.content-qa"]
    report = the(TaskCompleted, story)
    assert (report.verdict, report.usage.attempts, report.usage.tokens) == ("approved", 2, 0)
    assert [(one.id, one.status, one.verdict, one.executor, one.verifier) for one in report.steps] == [
        ("a", "done", "passed", "worker-1", "verifier-1"),
        ("b", "done", "passed", "worker-1", "verifier-1"),
    ]


def test_a_request_to_stop_ends_it_whatever_else_is_missing() -> None:
    story = follow(_story()).add("task.cancel", "bob", data=b"")
    assert missing(story) == ["task.cancelled.content-qa"]
    assert "bob" in the(TaskCancelled, story).reason


def test_the_same_state_gives_the_same_decision() -> None:
    story = _story().done(A).opened(B).executed(B, confidence=0.1)
    assert content(decide(story.state)) == content(decide(story.state))
    assert settled(follow(story).state)


def test_unknown_usage_is_not_zero() -> None:
    story = _story(A).opened(A).executed(A, tokens_in=None, cost_usd=None)
    story.add("verify.passed", "a", 1, data=passed(usage=Usage(tokens_in=5, tokens_out=5, cost_usd=0.1)))
    report = the(TaskCompleted, story)
    assert (report.usage.tokens, report.usage.cost_usd, report.steps[0].tokens) == (None, None, None)
    assert any("tokens" in concern for concern in report.concerns)


def test_plans_and_verifications_count_too() -> None:
    made = plan(A).evolve(usage=Usage(tokens_in=10, tokens_out=5, cost_usd=0.5))
    story = Story().submitted().planned(made).opened(A).executed(A, tokens_in=1, tokens_out=1, cost_usd=0.25)
    story.add("verify.passed", "a", 1, data=passed(usage=Usage(tokens_in=3, tokens_out=1, cost_usd=0.25)))
    report = the(TaskCompleted, story)
    assert (report.usage.tokens, report.usage.cost_usd) == (21, 1.0)


def test_costs_that_would_overflow_break_nothing() -> None:
    story = _story(A, B)
    for one in (A, B):
        story.done(one)
        body = record().to_json().replace(b'"cost_usd":0.0', b'"cost_usd":1e308')
        story.add("step.executed", one.id, 2, data=body)
    decide(story.state)


def test_an_answer_by_revise_reaches_the_executor_in_full() -> None:
    long = "word " * 3_000
    story = follow(_story(A).done(A, confidence=0.1))
    story.add("escalate.answered", 1, data=answer("revise", instructions=long))
    assert the(StepReady, story).instructions == (long,)
