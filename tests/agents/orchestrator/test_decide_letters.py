"""What went to the dead letters is asked about, until somebody saw to it."""

from __future__ import annotations

from typing import Any

import pytest

from motet_schemas import (
    EscalateRaised,
    Failure,
    LetterDiscarded,
    LetterRetried,
    TimerFired,
)
from motet_schemas.standing import open_questions
from tests.agents.orchestrator.decisions import follow, missing, questions, the
from tests.schemas.samples import START, Story, answer, notice, plan, step

A, B = step("a", max_attempts=1), step("b")
TICK = TimerFired(at=START)


def _story(*steps: Any, policy: dict[str, Any] | None = None, **budget: Any) -> Story:
    rules = {"max_replans": 0} | (policy or {})
    return Story().submitted(owner="ann").planned(plan(*(steps or (A, B)), policy=rules, **budget))


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


def test_a_retried_step_that_broke_for_good_is_opened_again_although_its_attempts_are_used_up() -> None:
    broke = Failure(code="permanent", message="the database is shut", retryable=False)
    story = _story(A, max_attempts=1).opened(A)
    story.add("letter.dead", "step-qa", 5, data=notice("step.ready.c.a.1.qa", consumer="step-qa"))
    follow(story.executed(A, status="failed", next_action="escalate", failure=broke))
    assert [question.number for question in open_questions(story.state)] == [1]
    story.add("letter.retried", "step-qa", 5, data=LetterRetried(by="ops"))
    assert open_questions(story.state) == []
    assert missing(story) == ["step.ready.a.2.qa"]
    follow(story)
    story.add("letter.dead", "step-qa", 9, data=notice("step.ready.c.a.2.qa", consumer="step-qa", sequence=9))
    follow(story.executed(A, 2, status="failed", next_action="escalate", failure=broke))
    assert [question.number for question in open_questions(story.state)] == [2]
    assert missing(story) == []


def test_a_discarded_step_still_asks_its_human() -> None:
    story = _story(A).opened(A)
    story.add("letter.dead", "step-qa", 5, data=notice("step.ready.c.a.1.qa", consumer="step-qa"))
    story.add("letter.discarded", "step-qa", 5, data=LetterDiscarded(by="ops", reason="hopeless"))
    assert questions(story) == ["dead_letter"]
    follow(story).add("escalate.answered", 1, data=answer("reject"))
    assert missing(story) == ["task.failed.content-qa"]
