"""Deciding never fails, whatever was recorded: what an orchestrator cannot decide on would be stuck for ever."""

from __future__ import annotations

from hypothesis import given

from motet_agents.orchestrator import decide, is_settled, make_report
from motet_schemas import Event, Fact, Handled, Unreadable, decode, encode, fold, fold_all
from motet_schemas.subjects import handled
from tests.agents.orchestrator.decisions import content
from tests.schemas.rubbish import any_events
from tests.schemas.samples import START


@given(any_events())
def test_any_history_can_be_decided_on_and_reported(events: list[Event]) -> None:
    state = fold_all("c", events)
    assert content(decide(state)) == content(decide(state))
    assert make_report(state).to_json()
    if state.ending is not None:
        assert is_settled(state)


@given(any_events())
def test_what_is_decided_can_be_written_and_read_again(events: list[Event]) -> None:
    facts = decide(fold_all("c", events)).facts
    for fact in facts:
        headers, body = encode(fact, source="/agents/orchestrator/1")
        read = decode(fact.subject, headers, body, seq=1, time=START)
        assert read.data == fact.data
    record = Handled(outputs=tuple(fact.to_output() for fact in facts))
    assert Handled.model_validate_json(record.to_json()) == record


@given(any_events())
def test_what_was_recorded_is_not_decided_again(events: list[Event]) -> None:
    state = fold_all("c", events)
    facts = decide(state).facts
    if not facts:
        return
    assert state.now is not None
    record = Fact(
        handled("orchestrator", "c", state.last_seq), Handled(outputs=tuple(fact.to_output() for fact in facts))
    )
    fact = facts[0] if len(facts) == 1 else record
    after = fold(state, Event(fact.subject, fact.data, state.last_seq + 1, state.now))
    again = {str(one.subject) for one in decide(after).facts}
    assert not isinstance(fact.data, Unreadable)
    assert again.isdisjoint(str(one.subject) for one in facts)
