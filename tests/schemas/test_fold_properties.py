"""The fold holds for any events in any order: rubbish, duplicates, gaps, facts of steps that nobody planned."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from motet_schemas import Event, Unreadable, decode_output, fold, fold_all
from motet_schemas.standing import (
    attempts_allowed,
    attempts_made,
    deadline,
    known_usage,
    open_questions,
    status,
    step_status,
    usage,
)
from tests.schemas.rubbish import any_event, any_events
from tests.schemas.samples import START


@given(any_events())
def test_any_events_can_be_folded_and_read(events: list[Event]) -> None:
    state = fold_all("c", events)
    assert state.last_seq == max((event.seq for event in events), default=0)
    assert status(state) in {"running", "waiting", "completed", "failed", "cancelled"}
    usage(state)
    known_usage(state)
    deadline(state)
    open_questions(state)
    assert attempts_made(state) >= 0
    assert attempts_allowed(state) >= 0
    for step in state.plan.steps if state.plan else ():
        step_status(state, step)


@given(any_events(), st.data())
def test_reading_events_again_changes_nothing(events: list[Event], data: st.DataObject) -> None:
    again = list(events)
    for _ in range(data.draw(st.integers(0, 5)) if events else 0):
        place = data.draw(st.integers(0, len(again) - 1))
        again.insert(data.draw(st.integers(place, len(again))), again[place])
    assert fold_all("c", again) == fold_all("c", events)


@given(any_events(), st.data())
def test_recording_a_fact_a_second_time_changes_only_place_and_time(events: list[Event], data: st.DataObject) -> None:
    if not events:
        return
    picked = data.draw(st.sampled_from(events))
    if picked.kind in ("step.renewed", "timer.fired", "letter.retried", "letter.discarded", "handled", "timer.set"):
        return
    state = fold_all("c", events)
    repeated = fold(state, replace(picked, seq=state.last_seq + 1))
    if _was_ignored(events, picked):
        return
    assert repeated.evolve(last_seq=0, pending={}) == state.evolve(last_seq=0, pending={})


def _was_ignored(events: list[Event], picked: Event) -> bool:
    """Whether the fact found nothing to be about when it came, as an answer before its question."""
    before = fold_all("c", [event for event in events if event.seq < picked.seq])
    after = fold(before, picked)
    return after.evolve(last_seq=0, now=None, pending={}) == before.evolve(last_seq=0, now=None, pending={})


@given(any_events(), st.data())
def test_nothing_changes_after_the_end(events: list[Event], data: st.DataObject) -> None:
    state = fold_all("c", events)
    if state.ending is None:
        return
    event = data.draw(any_event(state.last_seq + 1, START))
    after = fold(state, event)
    assert after.last_seq == event.seq
    assert after.evolve(last_seq=state.last_seq, now=state.now) == state


@given(any_events())
def test_the_first_fact_wins(events: list[Event]) -> None:
    states = [fold_all("c", events[:length]) for length in range(len(events) + 1)]
    for before, after in pairwise(states):
        if before.task is not None:
            assert after.task == before.task
        if before.ending is not None:
            assert after.ending == before.ending
        if before.cancel is not None:
            assert after.cancel == before.cancel
        assert after.waited >= before.waited
        for number, revision in before.revisions.items():
            now = after.revisions[number]
            assert revision.plan is None or now.plan == revision.plan
            assert not revision.refusal or now.refusal == revision.refusal
        for name, attempts in before.attempts.items():
            for attempt in attempts:
                known = after.attempt(name, attempt.number)
                assert known is not None
                assert attempt.record is None or known.record == attempt.record
                assert attempt.lost is None or known.lost == attempt.lost
                assert attempt.claim is None or (known.claim and known.claim.nonce == attempt.claim.nonce)
                assert not attempt.opened or known.opened or known.unreadable
                assert not attempt.unreadable or known.unreadable == attempt.unreadable
        for number, question in before.questions.items():
            assert question.answer is None or after.questions[number].answer == question.answer
            assert not question.broken or after.questions[number].broken == question.broken


@given(any_events())
def test_what_is_pending_is_decided_and_can_be_emitted(events: list[Event]) -> None:
    state = fold_all("c", events)
    for name, (output, seq) in state.pending.items():
        subject, data = decode_output(output)
        assert str(subject) == name == output.subject
        assert not isinstance(data, Unreadable), "what cannot be emitted would stay pending for ever"
        assert seq in {event.seq for event in events if event.kind == "handled"}
        emitted = fold(state, Event(subject, data, state.last_seq + 1, state.now or START))
        assert name not in emitted.pending
