"""`run --json` and its kin have exactly the keys that others rely on, and say unknown where something is unknown."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta

import pytest

from motet_gateway.documents import conversation_status, event_documents, is_over, is_waiting, run_document
from motet_schemas import (
    CancelRequest,
    Conversation,
    EscalateAnswered,
    EscalateTimedOut,
    Event,
    TaskCancel,
    TimerSet,
    Unreadable,
)
from motet_schemas.subjects import build
from tests.gateway.recorded import COMPLIANCE, START, TONE, Recorded, ambiguous, clean, flawed


def _timed(recorded: Recorded) -> Recorded:
    """Record the schedules that an orchestrator would still want, so that nothing is left to decide."""
    for _ in range(5):
        from motet_agents.orchestrator import decide

        facts = decide(recorded.state).facts
        if not facts:
            return recorded
        for fact in facts:
            recorded.store(fact.subject, fact.data)
    return recorded


def test_a_run_document_has_exactly_the_promised_keys() -> None:
    document = run_document(flawed().state)
    assert list(document) == [
        "conversation_id",
        "status",
        "trace_id",
        "brain",
        "report",
        "steps",
        "usage",
        "escalations",
    ]
    assert set(document["report"]) == {"verdict", "summary", "findings", "concerns"}
    assert set(document["report"]["findings"][0]) == {"step", "rule", "severity", "message", "quote", "start", "end"}
    assert set(document["steps"][0]) == {
        "id", "capability", "status", "attempts", "confidence", "min_confidence", "verdict", "elapsed_ms", "tokens",
        "model",
    }  # fmt: skip
    assert set(document["usage"]) == {"tokens", "cost_usd", "attempts", "elapsed_ms"}
    assert json.loads(json.dumps(document)) == document


def test_the_trace_id_follows_from_the_conversation() -> None:
    assert run_document(clean().state)["trace_id"] == hashlib.sha256(b"launch").hexdigest()[:32]


def test_a_clean_run_is_completed_and_approved() -> None:
    document = run_document(clean().state)
    assert (document["status"], document["report"]["verdict"]) == ("completed", "approved")
    assert document["usage"]["attempts"] == 2
    assert document["escalations"] == []
    assert [step["status"] for step in document["steps"]] == ["done", "done"]


def test_a_missing_phrase_has_no_place_and_says_so_with_null() -> None:
    missing, quoted = run_document(flawed().state)["report"]["findings"]
    assert (missing["quote"], missing["start"], missing["end"]) == (None, None, None)
    assert quoted["quote"] == "risk-free"


def test_a_question_makes_the_run_wait_for_a_human() -> None:
    state = _timed(ambiguous()).state
    document = run_document(state)
    assert (document["status"], document["report"]["verdict"]) == ("waiting", "needs_human")
    assert is_waiting(state)
    assert is_over(state)
    [question] = document["escalations"]
    assert question["status"] == "open"
    assert question["allowed_answers"] == ["approve", "revise", "reject", "take_over"]
    assert datetime.fromisoformat(question["due_at"]) == START + timedelta(days=1)


def test_what_is_undecided_or_under_way_is_no_waiting() -> None:
    undecided = ambiguous().state
    assert not is_waiting(undecided)
    busy = Recorded().submitted().planned().ready(TONE).claimed(TONE)
    busy.ready(COMPLIANCE).claimed(COMPLIANCE).executed(COMPLIANCE, confidence=0.6).verified(COMPLIANCE).asked()
    assert not is_waiting(_timed(busy).state)
    assert conversation_status(busy.state) == "running"


def test_a_retry_that_is_scheduled_is_no_waiting() -> None:
    state = _timed(ambiguous()).record("timer.set", "backoff", "tone", "1", data=TimerSet(at=START)).state
    assert not is_waiting(state)


@pytest.mark.parametrize("tokens", [None, 0])
def test_unknown_tokens_and_costs_are_null_not_zero(tokens: int | None) -> None:
    document = run_document(Recorded().submitted().planned(TONE).done(TONE, tokens=tokens).completed().state)
    assert document["usage"]["tokens"] == tokens
    assert document["steps"][0]["tokens"] == tokens
    assert document["usage"]["cost_usd"] == (None if tokens is None else 0.0)


def test_an_answer_and_a_time_out_are_shown() -> None:
    answered = ambiguous().record(
        "escalate.answered", 1, data=EscalateAnswered(decision="approve", answered_by="ada", note="fine")
    )
    [question] = run_document(answered.state)["escalations"]
    assert (question["status"], question["decision"], question["answered_by"]) == ("answered", "approve", "ada")
    silent = ambiguous().record("escalate.timed_out", 1, data=EscalateTimedOut(decision="reject", due_at=START))
    [question] = run_document(silent.state)["escalations"]
    assert (question["status"], question["decision"], question["answered_by"]) == ("timed_out", "reject", None)


def test_a_question_that_was_overtaken_is_moot() -> None:
    [question] = run_document(ambiguous().completed().state)["escalations"]
    assert question["status"] == "moot"


def test_events_are_shown_in_order_with_cause_and_source() -> None:
    documents = event_documents(clean().events)
    assert [document["seq"] for document in documents] == list(range(1, len(documents) + 1))
    first = documents[0]
    assert set(first) == {"seq", "subject", "time", "type", "cause", "source", "data"}
    assert first["subject"] == "task.submitted.launch.content-qa"
    assert first["type"] == "motet.task.submitted.v1"
    assert first["data"]["kind"] == "content-qa"
    assert documents[1]["cause"] == 1


def test_an_event_that_does_not_parse_is_shown_with_the_reason() -> None:
    broken = Event(build("plan.created", "launch", 1), Unreadable("steps: is required"), 1, START)
    [document] = event_documents([broken])
    assert document["data"] is None
    assert document["unreadable"] == "steps: is required"


def test_a_conversation_that_was_cancelled_before_a_plan_can_be_shown() -> None:
    recorded = Recorded().submitted()
    recorded.record("task.cancel", "ada", data=TaskCancel(**dict(CancelRequest(requested_by="ada"))))
    document = run_document(recorded.state)
    assert document["steps"] == []
    assert document["status"] == "running"
    assert run_document(Conversation(id="empty"))["usage"]["attempts"] == 0
