"""The fold, rule by rule: the first of any fact counts, rubbish fails what it touches, time is the server's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from motet_schemas import (
    Conversation,
    Fact,
    Handled,
    PlanRejected,
    PlanRequested,
    StepRenewed,
    TaskCancel,
    TaskFailed,
    TaskSubmitted,
    TimerFired,
    TimerSet,
    fold,
)
from motet_schemas.standing import attempts_made, judge, known_usage
from motet_schemas.subjects import build, handled
from tests.schemas.samples import (
    START,
    Story,
    claim,
    passed,
    plan,
    raised,
    ready,
    refused,
    report,
    step,
)

TONE = step("tone")


def _planned(**policy: object) -> Story:
    return Story().submitted().planned(plan(TONE, step("links", "tone"), policy=dict(policy)))


def test_the_first_task_counts() -> None:
    story = Story().submitted(owner="ann").submitted(owner="bob")
    assert story.state.task is not None
    assert story.state.task.owner == "ann"
    assert story.state.submitted_at == START + timedelta(seconds=1)


def test_a_task_that_does_not_parse_or_fit_its_subject_is_unreadable() -> None:
    assert "kind" in Story().add("task.submitted", "content-qa", data=b"{}").state.unreadable_task
    odd = Story().add("task.submitted", "content-qa", data=TaskSubmitted(kind="other")).state
    assert odd.task is None
    assert odd.unreadable_task


def test_now_is_the_newest_stored_time_and_never_goes_back() -> None:
    story = Story().submitted()
    story.add("task.cancel", "ann", data=TaskCancel(), after_s=-50)
    assert story.state.now == START + timedelta(seconds=1)
    assert story.state.last_seq == 2


def test_events_of_another_conversation_change_nothing() -> None:
    state = Story("other").submitted().state
    event = Story("c").submitted().events[0]
    assert fold(state, event) == state


def test_a_plan_is_made_once_for_each_revision() -> None:
    story = _planned().add("plan.created", 1, data=plan(step("other")))
    story.add("plan.rejected", 1, data=PlanRejected(reason="no"))
    assert [one.id for one in (story.state.plan or plan()).steps] == ["tone", "links"]
    assert story.state.revisions[1].refusal == ""


def test_a_plan_that_does_not_parse_is_a_refused_one() -> None:
    story = Story().submitted().add("plan.requested", 1, data=PlanRequested()).add("plan.created", 1, data=b"{}")
    assert story.state.plan is None
    assert "steps" in story.state.revisions[1].refusal


def test_a_step_id_is_never_used_again_for_something_else() -> None:
    story = _planned().planned(plan(step("tone", goal="something else")), revision=2)
    assert story.state.plan_revision == 1
    assert "tone" in story.state.revisions[2].refusal
    kept = _planned().planned(plan(TONE, step("new")), revision=2)
    assert kept.state.plan_revision == 2


def test_the_newest_plan_counts() -> None:
    story = _planned().planned(plan(TONE, step("new", "tone")), revision=2)
    assert [one.id for one in (story.state.plan or plan()).steps] == ["tone", "new"]


def test_one_owner_has_an_attempt() -> None:
    story = _planned().opened(TONE).claimed(TONE).claimed(TONE, nonce="nonce-2-of-other", owner="worker-2")
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert attempt.claim is not None
    assert attempt.claim.owner == "worker-1"


def test_a_claim_lives_from_its_stored_time_and_as_long_as_it_is_renewed() -> None:
    story = _planned().opened(TONE).claimed(TONE, ttl_s=30.0)
    taken = story.now
    story.add("step.renewed", "tone", 1, data=StepRenewed(**dict(claim())), after_s=20)
    story.add("step.renewed", "tone", 1, data=StepRenewed(**dict(claim("nonce-of-another"))), after_s=5)
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert attempt.claim is not None
    assert attempt.claim.live_until == taken + timedelta(seconds=20 + 30)


def test_a_claim_that_does_not_parse_has_no_life() -> None:
    story = _planned().opened(TONE).add("step.claimed", "tone", 1, data=b"x")
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert attempt.claim is not None
    assert attempt.claim.live_until == story.now


@pytest.mark.parametrize("first", ["executed", "expired", "rubbish"])
def test_exactly_one_outcome_counts(first: str) -> None:
    story = _planned().opened(TONE).claimed(TONE)
    if first == "executed":
        story.executed(TONE)
    elif first == "expired":
        story.lost(TONE)
    else:
        story.add("step.executed", "tone", 1, data=b"rubbish")
    before = story.state.attempt("tone", 1)
    story.executed(TONE, notes="late").lost(TONE).add("step.executed", "tone", 1, data=b"?")
    assert story.state.attempt("tone", 1) == before


def test_an_outcome_that_does_not_parse_is_a_failed_attempt() -> None:
    story = _planned().opened(TONE).claimed(TONE).add("step.executed", "tone", 1, data=b'{"status":"great"}')
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert "status" in attempt.unreadable
    assert attempt.ended
    assert getattr(judge(attempt, TONE), "reason", None) == "step_failed"


def test_a_verification_that_does_not_parse_or_fit_its_subject_fails_the_attempt() -> None:
    for data in (b"rubbish", refused("gate")):
        story = _planned().opened(TONE).executed(TONE).add("verify.passed", "tone", 1, data=data).verified(TONE)
        attempt = story.state.attempt("tone", 1)
        assert attempt is not None
        assert attempt.verification is None
        assert attempt.unreadable


def test_a_verification_before_the_record_blocks_nothing() -> None:
    story = _planned().opened(TONE).add("verify.passed", "tone", 1, data=b"rubbish").executed(TONE)
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert judge(attempt, TONE) != "open", "the verifier's own word is refused: its subject is taken"


def test_nobody_verifies_what_he_did_himself() -> None:
    story = _planned().opened(TONE).executed(TONE, executor="one").add("verify.passed", "tone", 1, data=passed("one"))
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert judge(attempt, TONE) != "done"


def test_an_attempt_counts_when_it_was_opened_and_a_lost_claim_does_not() -> None:
    story = _planned().executed(TONE, attempt=3).opened(TONE).claimed(TONE).lost(TONE).opened(TONE, 2)
    assert [one.number for one in story.state.opened("tone")] == [1, 2]
    assert attempts_made(story.state) == 1


def test_the_number_of_an_outsider_does_not_become_the_next_one() -> None:
    story = _planned().opened(TONE, 10**18 - 1).opened(TONE)
    assert [one.number for one in story.state.opened("tone")] == [1]


def test_what_a_record_lists_is_decided_and_waits_to_be_emitted() -> None:
    facts = [
        Fact(build("step.ready", "c", "tone", 1, "qa"), ready(TONE)),
        Fact(build("timer.set", "c", "budget", 1), TimerSet(at=START)),
    ]
    story = _planned().decided(*facts)
    assert [one.number for one in story.state.opened("tone")] == [1]
    assert list(story.state.pending) == [str(fact.subject) for fact in facts]
    attempts = story.state.attempts
    story.put(facts[0].subject, facts[0].data)
    assert list(story.state.pending) == ["timer.set.c.budget.1"]
    assert story.state.attempts == attempts
    story.put(facts[1].subject, facts[1].data)
    assert story.state.pending == {}


def test_a_tick_shows_that_its_schedule_was_emitted() -> None:
    story = _planned().decided(Fact(build("timer.set", "c", "budget", 1), TimerSet(at=START)))
    story.add("timer.fired", "budget", 1, data=TimerFired(at=START))
    assert story.state.pending == {}
    assert story.state.alarms["budget.1"].fired


def test_what_was_there_before_the_record_is_not_emitted_again() -> None:
    story = _planned().opened(TONE).decided(Fact(build("step.ready", "c", "tone", 1, "qa"), ready(TONE)))
    assert story.state.pending == {}


@pytest.mark.parametrize("consumer", ["learn", "planner"])
def test_only_an_orchestrators_record_counts_as_decided(consumer: str) -> None:
    fact = Fact(build("step.ready", "c", "tone", 1, "qa"), ready(TONE))
    listed = Handled(outputs=(fact.to_output(),))
    state = _planned().put(handled(consumer, "c", 3), listed).state
    assert state.attempts == {}
    assert state.pending == {}


def test_a_record_of_another_conversations_facts_changes_nothing() -> None:
    story = _planned().decided(Fact(build("step.ready", "d", "tone", 1, "qa"), ready(TONE)))
    assert story.state.attempts == {}


def test_after_the_end_only_the_place_in_the_stream_moves() -> None:
    story = _planned().opened(TONE).decided(Fact(build("escalate.raised", "c", 1), raised()))
    story.add("task.failed", "content-qa", data=report(TaskFailed))
    ended = story.state
    assert ended.ending is not None
    assert (ended.ending.status, ended.ending.at, ended.pending) == ("failed", story.now, {})
    story.executed(TONE).add("task.completed", "content-qa", data=report()).add("task.cancel", "ann", data=TaskCancel())
    after = story.state
    assert after.evolve(last_seq=ended.last_seq, now=ended.now) == ended
    assert after.last_seq == len(story.events)


def test_an_end_that_does_not_parse_is_none() -> None:
    assert _planned().add("task.completed", "content-qa", data=b"rubbish").state.ending is None


def test_a_report_of_unknown_usage_ends_a_conversation() -> None:
    story = _planned().add("task.completed", "content-qa", data=report())
    assert story.state.ending is not None
    assert story.state.ending.report.usage.tokens is None


def test_the_first_request_to_stop_counts_even_when_it_does_not_parse() -> None:
    story = _planned().add("task.cancel", "ann", data=b"rubbish").add("task.cancel", "bob", data=TaskCancel())
    assert story.state.cancel is not None
    assert story.state.cancel.requested_by == "ann"


def test_known_tokens_count_although_others_are_unknown() -> None:
    story = _planned().opened(TONE).executed(TONE, tokens_in=None, tokens_out=None)
    story.opened(TONE, 2).executed(TONE, 2, tokens_in=700, tokens_out=300)
    assert known_usage(story.state)[0] == 1_000
    half = _planned().opened(TONE).executed(TONE, tokens_in=700, tokens_out=None)
    assert known_usage(half.state)[0] == 700


def test_a_conversation_of_which_nothing_is_recorded_is_empty() -> None:
    assert Story().state == Conversation(id="c")


def test_a_decision_that_something_came_before_is_void() -> None:
    """A replicated stream may store it; for all readers it is as if it had been refused."""
    asked = Fact(build("plan.requested", "c", 1), PlanRequested(reason="a first plan"))
    story = Story().submitted().add("task.cancel", "me", data=TaskCancel())
    decided_on = story.state.last_seq
    in_time = Handled(outputs=(asked.to_output(),))
    on_time = story.put(handled("orchestrator", "c", decided_on), in_time).state
    assert (list(on_time.revisions), list(on_time.pending)) == ([1], ["plan.requested.c.1"])
    late = Story().submitted().add("task.cancel", "me", data=TaskCancel())
    void = late.put(handled("orchestrator", "c", decided_on - 1), in_time).state
    assert (void.revisions, void.pending, void.last_seq) == ({}, {}, decided_on + 1)


def test_an_end_that_was_decided_by_a_record_is_pending_until_it_is_emitted() -> None:
    ended = Fact(build("task.failed", "c", "content-qa"), TaskFailed(**dict(report())))
    story = Story().submitted().decided(ended)
    assert story.state.ending is not None
    assert list(story.state.pending) == ["task.failed.c.content-qa"]
    story.add("task.failed", "content-qa", data=ended.data)
    assert story.state.pending == {}
