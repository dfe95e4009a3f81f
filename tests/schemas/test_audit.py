"""The oracle: silent on what was recorded rightly, and loud about every way in which a history can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from motet_schemas import (
    Event,
    Failure,
    Handled,
    LetterDead,
    StepClaimed,
    StepExecuted,
    StepExpired,
    StepReady,
    TaskCompleted,
    VerifyPassed,
)
from motet_schemas.audit import Violation, audit
from motet_schemas.subjects import build, parse
from tests.agents.orchestrator.record_histories import WANTED
from tests.schemas.histories import FOLDER, read

Change = Callable[[list[Event]], list[Event]]

RECORDED = sorted(WANTED)
"""The histories that agents made; others were written by hand, for their kinds of facts."""


def history(name: str) -> list[Event]:
    return read(FOLDER / f"{name}.jsonl")


def found(events: list[Event], **settings: Any) -> list[Violation]:
    return audit("c", events, **settings)


@pytest.mark.parametrize("name", RECORDED)
def test_nothing_is_wrong_with_what_was_recorded_rightly(name: str) -> None:
    assert found(history(name)) == []


@pytest.mark.parametrize("name", RECORDED)
def test_nothing_is_wrong_with_any_beginning_of_it_while_it_is_still_going_on(name: str) -> None:
    events = history(name)
    for length in range(len(events) + 1):
        assert found(events[:length], settled=False) == []


# Ways to corrupt a history. `at` names the subject that is changed.


def _one(events: list[Event], at: str) -> Event:
    [event] = [event for event in events if str(event.subject) == at]
    return event


def without(at: str) -> Change:
    return lambda events: [event for event in events if str(event.subject) != at]


def after(at: str, make: Callable[[Event], Event]) -> Change:
    """Insert what `make` makes of the fact at `at`, at the end of the history."""

    def change(events: list[Event]) -> list[Event]:
        last = events[-1]
        return [*events, replace(make(_one(events, at)), seq=last.seq + 1, time=last.time)]

    return change


def moved(at: str, before: str) -> Change:
    """Have the fact at `at` recorded just before the fact at `before`."""

    def change(events: list[Event]) -> list[Event]:
        event, other = _one(events, at), _one(events, before)
        kept = [replace(one, seq=one.seq * 10) for one in events if one is not event]
        return sorted([*kept, replace(event, seq=other.seq * 10 - 1, time=other.time)], key=lambda one: one.seq)

    return change


def but(at: str, **changes: Any) -> Change:
    """Change the envelope of a fact."""
    return lambda events: [replace(one, **changes) if str(one.subject) == at else one for one in events]


def data(at: str, **changes: Any) -> Change:
    """Change the contents of a fact."""

    def change(events: list[Event]) -> list[Event]:
        return [
            replace(one, data=cast("Any", one.data).evolve(**changes)) if str(one.subject) == at else one
            for one in events
        ]

    return change


def again(event: Event) -> Event:
    return event


def other_id(event: Event) -> Event:
    return replace(event, id="another-id-of-it")


def as_(subject: str) -> Callable[[Event], Event]:
    return lambda event: replace(event, subject=parse(subject), id=f"id-of-{subject}")


def lost(reason: str = "ttl") -> Callable[[Event], Event]:
    def make(claim: Event) -> Event:
        assert isinstance(claim.data, StepClaimed)
        expired = StepExpired(owner=claim.data.owner, nonce=claim.data.nonce, reason=reason)
        subject = build("step.expired", "c", *claim.subject.detail)
        return replace(claim, subject=subject, data=expired, source="/agents/orchestrator/o-1", id="expired-id")

    return make


def report(**usage: Any) -> Change:
    def change(events: list[Event]) -> list[Event]:
        end = events[-1]
        assert isinstance(end.data, TaskCompleted)
        return [*events[:-1], replace(end, data=end.data.evolve(usage=end.data.usage.evolve(**usage)))]

    return change


def spent(at: str, tokens: int) -> Change:
    return data(at, usage={"tokens_in": tokens, "tokens_out": 0, "cost_usd": 0.0})


def letter(about: str) -> Callable[[Event], Event]:
    def make(event: Event) -> Event:
        notice = LetterDead(
            consumer="verifier", subject=about, sequence=8, deliveries=5, failure=Failure(code="x", message="m")
        )
        return replace(event, subject=parse("letter.dead.c.verifier.8"), data=notice, id="letter-id")

    return make


def both(*changes: Change) -> Change:
    def change(events: list[Event]) -> list[Event]:
        for one in changes:
            events = one(events)
        return events

    return change


CLAIM, RECORD, VERDICT = "step.claimed.c.s0.1", "step.executed.c.s0.1", "verify.passed.c.s0.1"
END = "task.completed.c.content-qa"
ASKED, ANSWERED = "escalate.raised.c.1", "escalate.answered.c.1"


def taken_while_live(events: list[Event]) -> list[Event]:
    """Have the claim of 30 s taken five seconds after it was made."""
    claim = _one(events, "step.claimed.c.r1s1.1")
    return but("step.expired.c.r1s1.1", time=claim.time + timedelta(seconds=5))(events)


def in_another_place(event: Event) -> Event:
    return replace(event, subject=parse("timer.set.c.budget.2"))


def elsewhere(subject: str, **changes: Any) -> Callable[[Event], Event]:
    """Make the same decision again under another subject."""
    return lambda event: replace(event, subject=parse(subject), **{"id": "another-id-of-it", **changes})


def asked_without_timer(events: list[Event]) -> list[Event]:
    """Return the history up to its question, without the record that lists it and its timer."""
    return [one for one in events if one.seq < 10 or one.kind == "escalate.raised"]


WRONG: list[tuple[str, str, Change, str]] = [
    ("the same fact twice", "completed", after(RECORD, again), "recorded_twice"),
    ("a step attempt with two results", "completed", after(RECORD, other_id), "recorded_twice"),
    ("a result and a lost claim", "completed", after(CLAIM, lost()), "recorded_twice"),
    (
        "a result behind the loss of its claim",
        "lost-claim",
        after("step.expired.c.r1s1.1", as_("step.executed.c.r1s1.1")),
        "behind_the_end_of_its_attempt",
    ),
    ("two owners of one attempt", "completed", after(CLAIM, other_id), "recorded_twice"),
    (
        "one handoff to two capabilities",
        "completed",
        after("step.ready.c.s0.1.qa", as_("step.ready.c.s0.1.other")),
        "recorded_twice",
    ),
    (
        "a plan that was made and refused",
        "completed",
        after("plan.created.c.1", as_("plan.rejected.c.1")),
        "recorded_twice",
    ),
    ("two verdicts", "completed", after(VERDICT, as_("verify.failed.c.s0.1")), "recorded_twice"),
    ("two ends", "completed", after(END, as_("task.failed.c.content-qa")), "recorded_twice"),
    ("two answers", "escalated-and-approved", after(ANSWERED, as_("escalate.timed_out.c.1")), "recorded_twice"),
    ("two tasks", "completed", after("task.submitted.c.content-qa", as_("task.submitted.c.other")), "recorded_twice"),
    (
        "one fact in two places",
        "completed",
        after("timer.set.c.budget.1", in_another_place),
        "recorded_twice",
    ),
    ("a claim that nobody handed out", "completed", moved(CLAIM, "step.ready.c.s0.1.qa"), "claim_without_handoff"),
    ("a result without a claim", "completed", without(CLAIM), "without_a_claim"),
    ("a result before its claim", "completed", moved(RECORD, CLAIM), "without_a_claim"),
    ("a result by somebody else", "completed", data(RECORD, executor="thief"), "not_the_owner"),
    (
        "a renewal with another nonce",
        "replanned",
        data("step.renewed.c.r2s0.1", nonce="nonce-of-nobody"),
        "not_the_owner",
    ),
    ("a renewal by another owner", "replanned", data("step.renewed.c.r2s0.1", owner="thief"), "not_the_owner"),
    (
        "a renewal behind the end",
        "replanned",
        moved("step.renewed.c.r2s0.1", "step.ready.c.r2s0.2.qa"),
        "behind_the_end_of_its_attempt",
    ),
    ("a result that no fence can have let in", "completed", but(RECORD, cause=3), "fence_did_not_hold"),
    (
        "a loss that means another claim",
        "lost-claim",
        data("step.expired.c.r1s1.1", nonce="nonce-of-nobody"),
        "not_the_owner",
    ),
    ("a live claim that was taken", "lost-claim", taken_while_live, "live_claim_taken"),
    ("a verdict of the one who did the work", "completed", data(VERDICT, verifier="worker-1"), "own_work_verified"),
    ("a verdict on nothing", "completed", moved(VERDICT, CLAIM), "verdict_without_record"),
    (
        "a revision that was left out",
        "replanned",
        but("plan.requested.c.2", subject=parse("plan.requested.c.3")),
        "revision_out_of_order",
    ),
    ("a plan that nobody had asked for", "completed", without("plan.requested.c.1"), "revision_out_of_order"),
    ("an attempt that was left out", "lost-claim", without("step.ready.c.r1s1.2.qa"), "attempt_out_of_order"),
    ("an attempt beside an open one", "lost-claim", without("step.expired.c.r1s1.1"), "attempt_out_of_order"),
    (
        "a handoff of a plan that is not in force",
        "completed",
        data("step.ready.c.s0.1.qa", plan_revision=2),
        "plan_not_in_force",
    ),
    (
        "a question that was left out",
        "escalated-and-approved",
        but(ASKED, subject=parse("escalate.raised.c.2")),
        "question_out_of_order",
    ),
    ("an answer that nobody asked for", "escalated-and-approved", without(ASKED), "answer_without_question"),
    (
        "an answer that was not allowed",
        "escalated-and-approved",
        data(ASKED, allowed_answers=("reject",)),
        "answer_not_allowed",
    ),
    ("a decision that was never emitted", "completed", without("timer.set.c.budget.1"), "never_emitted"),
    (
        "a decision that another fact stands for",
        "completed",
        but("timer.set.c.budget.1", id="another-id-of-it"),
        "emitted_otherwise",
    ),
    (
        "an output before its record",
        "completed",
        moved("timer.set.c.budget.1", "handled.orchestrator.c.1"),
        "void_decision_emitted",
    ),
    (
        "an output of a void record",
        "completed",
        moved("plan.created.c.1", "handled.orchestrator.c.1"),
        "void_decision_emitted",
    ),
    (
        "a decision that was made twice",
        "completed",
        after("handled.orchestrator.c.1", elsewhere("handled.orchestrator.c.18")),
        "decided_twice",
    ),
    (
        "a step that was handed out after the end",
        "completed",
        after("step.ready.c.s0.1.qa", as_("step.ready.c.s0.2.qa")),
        "decided_after_the_end",
    ),
    (
        "a decision after the end",
        "completed",
        after("handled.orchestrator.c.1", elsewhere("handled.orchestrator.c.18", data=Handled())),
        "decided_after_the_end",
    ),
    ("a claim that the orchestrator expired after the end", "completed", after(CLAIM, lost()), "decided_after_the_end"),
    ("tokens that the report counts twice", "completed", report(tokens=7_000), "miscounted"),
    ("an attempt that the report does not count", "completed", report(attempts=2), "miscounted"),
    ("dollars that the report makes up", "completed", report(cost_usd=1.5), "miscounted"),
    ("tokens that the report leaves out", "completed", spent(VERDICT, 100), "miscounted"),
    ("a conversation that hangs", "completed", without(END), "hangs"),
    ("a question whose waiting nothing ends", "escalated-and-approved", asked_without_timer, "hangs"),
    (
        "a question to nobody",
        "escalated-and-approved",
        both(asked_without_timer, data(ASKED, asked="")),
        "nobody_is_asked",
    ),
    ("facts without a task", "completed", lambda events: events[1:-1], "no_task"),
    ("a claim that nobody ended", "completed", lambda events: events[:7], "orphaned_claim"),
    (
        "a dead letter that nobody explains",
        "completed",
        both(after(VERDICT, letter(RECORD)), moved("letter.dead.c.verifier.8", END)),
        "letter_unexplained",
    ),
    ("a fact that was caused by a later one", "completed", but(VERDICT, cause=99), "cause_after_effect"),
]


@pytest.mark.parametrize(("name", "change", "rule"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_the_oracle_reports(name: str, change: Change, rule: str) -> None:
    violations = found(change(history(name)))
    assert rule in {violation.rule for violation in violations}, violations
    for violation in violations:
        assert violation.conversation == "c"
        assert violation.words
        assert str(violation).startswith(f"c: {violation.rule}: ")


def test_every_rule_is_broken_by_some_history() -> None:
    """What is not in the table above, or below, would be a rule that nobody knows can fail."""
    import inspect
    import re

    from motet_schemas import audit_attempts, audit_rules

    source = inspect.getsource(audit_attempts) + inspect.getsource(audit_rules)
    rules = set(re.findall(r'violation\(\s*"([a-z_]+)"', source))
    beside = {"letter_untold", "timed_out_early", "over_budget", "unreadable_end"}
    assert rules == {rule for *_, rule in WRONG} | beside


def test_a_violation_says_where() -> None:
    [twice, *_] = found(after(RECORD, other_id)(history("completed")))
    assert twice.seqs == (8, 19)
    assert "(sequence 8, 19)" in str(twice)


def test_a_dead_letter_that_its_conversation_was_not_told_of_is_reported() -> None:
    notice = LetterDead(
        consumer="planner",
        subject="plan.requested.c.1",
        sequence=3,
        deliveries=5,
        failure=Failure(code="x", message="m"),
    )
    assert [one.rule for one in found(history("completed"), letters=[notice])] == ["letter_untold"]
    told = history("replanned")
    assert found(told, letters=[one.data for one in told if isinstance(one.data, LetterDead)]) == []


def test_silence_that_answers_too_early_is_reported() -> None:
    from motet_schemas import EscalateRaised, EscalateTimedOut

    events = history("escalated-and-approved")[:13]
    raised = _one(events, ASKED)
    assert isinstance(raised.data, EscalateRaised)
    silence = EscalateTimedOut(decision=raised.data.on_timeout, due_at=raised.data.due_at)
    late = replace(
        events[-1],
        subject=parse("escalate.timed_out.c.1"),
        data=silence,
        time=raised.data.due_at,
        source="/agents/orchestrator/o",
    )
    assert "timed_out_early" not in {one.rule for one in found([*events[:-1], late], settled=False)}
    early = replace(late, time=raised.data.due_at - timedelta(milliseconds=1))
    assert "timed_out_early" in {one.rule for one in found([*events[:-1], early], settled=False)}


def test_more_attempts_than_the_budget_allows_are_reported() -> None:
    events = history("completed")
    made = _one(events, "plan.created.c.1")
    assert "over_budget" in {
        one.rule
        for one in found(
            [
                replace(
                    made,
                    data=cast("Any", made.data).evolve(
                        budget=cast("Any", made.data).budget.evolve(max_attempts=2),
                        steps=cast("Any", made.data).steps[:2],
                    ),
                )
                if one is made
                else one
                for one in events
            ]
        )
    }


def test_an_end_that_does_not_parse_is_reported() -> None:
    from motet_schemas import Unreadable

    assert "unreadable_end" in {one.rule for one in found(but(END, data=Unreadable("no JSON"))(history("completed")))}


def test_what_a_stranger_wrote_is_not_held_against_the_agents() -> None:
    events = history("completed")
    rubbish = replace(_one(events, RECORD), source="", id="", seq=99)
    assert found([*events, rubbish]) == []


def test_other_conversations_do_not_count() -> None:
    events = history("completed")
    other = replace(events[0], subject=parse("task.submitted.d.content-qa"), seq=99, id="another-id")
    assert found([*events, other]) == []


def test_what_the_table_names_is_in_the_histories() -> None:
    kinds = {type(event.data) for name in RECORDED for event in history(name)}
    assert kinds >= {StepReady, StepClaimed, StepExecuted, StepExpired, VerifyPassed, Handled, LetterDead}
