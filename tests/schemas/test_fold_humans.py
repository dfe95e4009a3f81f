"""The fold of questions, answers, dead letters and timers."""

from __future__ import annotations

from datetime import timedelta

import pytest

from motet_schemas import (
    EscalateTimedOut,
    Fact,
    Failure,
    LetterDiscarded,
    LetterRetried,
    PlanRequested,
    TimerFired,
    TimerSet,
)
from motet_schemas.standing import deadline, judge, open_questions
from motet_schemas.subjects import build
from tests.schemas.samples import (
    START,
    Story,
    answer,
    notice,
    plan,
    raised,
    step,
)

TONE = step("tone")


def _planned(**policy: object) -> Story:
    return Story().submitted().planned(plan(TONE, step("links", "tone"), policy=dict(policy)))


def test_a_question_is_answered_once_and_only_as_allowed() -> None:
    story = _planned().add("escalate.raised", 1, data=raised(allowed_answers=("revise", "reject")))
    story.add("escalate.answered", 1, data=answer("approve"))
    assert story.state.questions[1].decision is None
    assert not story.state.questions[1].open
    again = _planned().add("escalate.raised", 1, data=raised()).add("escalate.answered", 1, data=answer("revise"))
    again.add("escalate.timed_out", 1, data=EscalateTimedOut(decision="reject", due_at=START))
    assert again.state.questions[1].decision == "revise"


def test_silence_means_what_the_question_said_it_would() -> None:
    story = _planned().add("escalate.raised", 1, data=raised(on_timeout="reject"))
    story.add("escalate.timed_out", 1, data=EscalateTimedOut(decision="approve", due_at=START))
    assert story.state.questions[1].decision != "approve"


@pytest.mark.parametrize("kind", ["escalate.raised", "escalate.answered", "escalate.timed_out"])
def test_a_question_that_rubbish_touched_is_closed_without_a_decision(kind: str) -> None:
    story = _planned()
    if kind != "escalate.raised":
        story.add("escalate.raised", 1, data=raised())
    story.add(kind, 1, data=b"rubbish").add("escalate.answered", 1, data=answer("approve"))
    question = story.state.questions[1]
    assert (question.open, question.decision) == (False, None)
    assert question.broken
    assert story.state.waiting_since is None


def test_an_answer_to_no_question_decides_nothing() -> None:
    state = Story().submitted().add("escalate.answered", 1, data=answer("reject")).state
    assert open_questions(state) == []
    assert all(question.decision is None for question in state.questions.values())


def test_waiting_for_a_human_consumes_no_time_budget() -> None:
    story = _planned().add("escalate.raised", 1, data=raised())
    limit = deadline(story.state)
    story.add("task.cancel", "ann", data=b"", after_s=0)
    story.add("escalate.raised", 2, data=raised(step="links"), after_s=100)
    story.add("escalate.answered", 1, data=answer("approve"), after_s=100)
    waiting = story.state
    assert waiting.waiting_since is not None
    story.add("escalate.answered", 2, data=answer("approve"), after_s=100)
    assert (story.state.waiting_since, story.state.waited) == (None, timedelta(seconds=300))
    assert limit is not None
    assert deadline(story.state) == limit + timedelta(seconds=300)


def test_waiting_begins_when_the_decision_to_ask_is_recorded() -> None:
    fact = Fact(build("escalate.raised", "c", 1), raised())
    story = _planned().decided(fact)
    began = story.now
    story.put(fact.subject, fact.data, after_s=50)
    assert story.state.waiting_since == began


def test_a_granted_budget_moves_the_deadline() -> None:
    story = _planned()
    before = deadline(story.state)
    question = raised("time_exhausted", step=None, attempt=None, allowed_answers=("approve", "reject"))
    story.add("escalate.raised", 1, data=question).add("escalate.answered", 1, data=answer("approve"))
    assert before is not None
    assert deadline(story.state) == before + timedelta(seconds=900 + 1)


@pytest.mark.parametrize("subject", ["step.ready.c.tone.1.qa", "step.executed.c.tone.1"])
def test_a_dead_letter_marks_the_attempt_and_a_retry_clears_it(subject: str) -> None:
    story = _planned().opened(TONE).executed(TONE).add("letter.dead", "learn-5", data=notice(subject))
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert attempt.letter is not None
    assert getattr(judge(attempt, TONE), "reason", None) == "dead_letter"
    cleared = story.add("letter.retried", "learn-5", data=LetterRetried(by="ann")).state
    assert cleared.letters["learn-5"].status == "retried"
    assert judge(cleared.attempts["tone"][0], TONE) == "open"


def test_a_dead_letter_marks_the_request_for_a_plan_until_an_answer_comes() -> None:
    story = Story().submitted().add("plan.requested", 1, data=PlanRequested())
    story.add("letter.dead", "planner-2", data=notice("plan.requested.c.1"))
    assert story.state.revisions[1].letter is not None
    assert story.add("plan.created", 1, data=plan()).state.revisions[1].letter is None


@pytest.mark.parametrize(
    "subject",
    ["nonsense", "step.ready.d.tone.1.qa", "step.ready.c.other.1.qa", "plan.requested.c.9", "task.cancel.c.x"],
)
def test_a_letter_about_something_else_is_only_noted(subject: str) -> None:
    story = _planned().opened(TONE)
    before = story.state
    after = story.add("letter.dead", "learn-5", data=notice(subject)).state
    assert list(after.letters) == ["learn-5"]
    assert (after.attempts, after.revisions) == (before.attempts, before.revisions)


def test_a_letter_that_does_not_parse_is_noted_too() -> None:
    letter = _planned().add("letter.dead", "learn-5", data=b"rubbish").state.letters["learn-5"]
    assert (letter.notice, letter.status) == (None, "dead")


def test_a_timer_is_set_once_and_fires_once() -> None:
    story = _planned().add("timer.set", "budget", 1, data=TimerSet(at=START))
    story.add("timer.set", "budget", 1, data=TimerSet(at=START + timedelta(hours=1)))
    assert story.state.alarms["budget.1"].at == START
    story.add("timer.fired", "budget", 1, data=TimerFired(at=START))
    story.add("timer.set", "budget", 1, data=TimerSet(at=START))
    assert story.state.alarms["budget.1"].fired


def test_a_schedule_that_does_not_parse_is_nothing_to_wait_for() -> None:
    alarm = _planned().add("timer.set", "budget", 1, data=b"rubbish").state.alarms.get("budget.1")
    assert alarm is None or alarm.fired


def test_a_letter_of_an_older_version_is_the_same_letter() -> None:
    """Motet 0.1.0 named it in one token."""
    story = _planned().opened(TONE).add("letter.dead", "step-qa-5", data=notice("step.ready.c.tone.1.qa"))
    story.add("letter.retried", "step-qa", 5, data=LetterRetried(by="ann"))
    assert {key: one.status for key, one in story.state.letters.items()} == {"step-qa-5": "retried"}


def test_the_first_act_on_a_letter_counts_and_what_does_not_parse_is_none() -> None:
    story = _planned().opened(TONE).add("letter.dead", "step-qa", 5, data=notice("step.ready.c.tone.1.qa"))
    story.add("letter.retried", "step-qa", 5, data=b"rubbish")
    assert story.state.letters["step-qa-5"].status == "dead"
    discarded = LetterDiscarded(by="ann", reason="old")
    story.add("letter.discarded", "step-qa", 5, data=discarded)
    story.add("letter.retried", "step-qa", 5, data=LetterRetried(by="ben"))
    letter = story.state.letters["step-qa-5"]
    assert (letter.status, letter.act) == ("discarded", discarded)
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert attempt.letter is not None, "what could not be done is still not done"


def test_a_retry_leaves_the_mark_of_another_letter_about_the_same_attempt() -> None:
    story = _planned().opened(TONE).executed(TONE)
    story.add("letter.dead", "verifier", 6, data=notice("step.executed.c.tone.1", consumer="verifier", sequence=6))
    story.add("letter.dead", "learn", 7, data=notice("step.executed.c.tone.1", consumer="learn", sequence=7))
    story.add("letter.retried", "learn", 7, data=LetterRetried(by="ann"))
    attempt = story.state.attempt("tone", 1)
    assert attempt is not None
    assert attempt.letter is not None
    assert attempt.letter.consumer == "verifier"
    story.add("letter.retried", "verifier", 6, data=LetterRetried(by="ann"))
    assert judge(story.state.attempts["tone"][0], TONE) == "open"


def test_a_retry_of_a_handoff_that_broke_for_good_wants_another_attempt_until_it_breaks_again() -> None:
    broke = Failure(code="permanent", message="m", retryable=False)
    story = _planned().opened(TONE)
    story.add("letter.dead", "step-qa", 5, data=notice("step.ready.c.tone.1.qa", consumer="step-qa"))
    story.executed(TONE, status="failed", failure=broke)
    wanted = [story.state.attempts["tone"][0].wanted_again]
    story.add("letter.retried", "step-qa", 5, data=LetterRetried(by="ann"))
    wanted.append(story.state.attempts["tone"][0].wanted_again)
    again = notice("step.ready.c.tone.1.qa", consumer="step-qa", sequence=9)
    story.add("letter.dead", "step-qa", 9, data=again)
    wanted.append(story.state.attempts["tone"][0].wanted_again)
    assert wanted == [False, True, False]
    assert getattr(judge(story.state.attempts["tone"][0], TONE), "reason", None) == "dead_letter"
