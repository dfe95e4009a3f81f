"""The envelope: CloudEvents both ways, and a reader that nothing can break."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet_schemas import Fact, Handled, Output, TaskCancel, Unreadable, decode, decode_output, encode, event_type
from motet_schemas.errors import InvalidInputError
from motet_schemas.subjects import build, handled
from tests.schemas.rubbish import any_body, any_subject
from tests.schemas.samples import SAMPLES, START, plan, step


def _fact(kind: str) -> Fact:
    detail, data = SAMPLES[kind]
    return Fact(build(kind, "c", *detail), data)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_fact_survives_the_wire(kind: str) -> None:
    fact = _fact(kind)
    headers, body = encode(fact, source="/agents/planner/p-1", cause=7, time=START, trace={"traceparent": "00-1-2-01"})
    event = decode(fact.subject, headers, body, seq=9, time=START)
    assert (event.subject, event.data, event.seq, event.time) == (fact.subject, fact.data, 9, START)
    assert (event.id, event.source, event.cause, event.kind) == (fact.id, "/agents/planner/p-1", 7, kind)
    assert event.headers["traceparent"] == "00-1-2-01"


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_listed_output_says_the_same_as_the_fact(kind: str) -> None:
    fact = _fact(kind)
    record = Handled.model_validate_json(Handled(outputs=(fact.to_output(),)).to_json())
    assert decode_output(record.outputs[0]) == (fact.subject, fact.data)
    assert record.outputs[0].id == fact.id


def test_headers_are_those_of_cloudevents() -> None:
    offset = timezone(timedelta(hours=2))
    headers, body = encode(
        _fact("plan.created"), source="/agents/planner/p-1", time=datetime(2026, 3, 1, 11, tzinfo=offset)
    )
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-type"] == "motet.plan.created.v1"
    assert headers["ce-source"] == "/agents/planner/p-1"
    assert headers["ce-subject"] == "plan.created.c.1"
    assert datetime.fromisoformat(headers["ce-time"]) == START
    assert headers["content-type"] == "application/json"
    assert "motet-cause" not in headers
    assert json.loads(body)["steps"][0]["id"] == "tone"


def test_every_fact_has_an_id_of_its_own() -> None:
    assert _fact("task.cancel").id != _fact("task.cancel").id


def test_a_field_of_a_newer_minor_version_is_ignored_when_we_read() -> None:
    body = json.loads(plan(step("a")).to_json())
    body["mood"] = "good"
    body["steps"][0]["manifest"]["colour"] = "red"
    event = decode(
        build("plan.created", "c", 1),
        {"ce-type": event_type("plan.created")},
        json.dumps(body).encode(),
        seq=1,
        time=START,
    )
    assert event.data == plan(step("a"))
    output = Output(subject="plan.created.c.1", id="01234567", data=body)
    assert decode_output(output)[1] == plan(step("a"))


@pytest.mark.parametrize("version", ["2", "17", "9999", "99999", "123456789"])
def test_a_newer_major_version_is_not_guessed_at(version: str) -> None:
    data = decode(
        build("task.cancel", "c", "ann"),
        {"ce-type": f"motet.task.cancel.v{version}"},
        b'{"requested_by":"ann"}',
        seq=1,
        time=START,
    ).data
    assert isinstance(data, Unreadable)
    assert version in data.reason
    assert "upgrade" in data.reason


@pytest.mark.parametrize("header", ["", "motet.task.cancel.v1", "com.example.thing", "motet.task.cancel.vx"])
def test_a_body_counts_whatever_an_older_or_foreign_type_says(header: str) -> None:
    event = decode(build("task.cancel", "c", "ann"), {"ce-type": header}, b'{"requested_by":"ann"}', seq=1, time=START)
    assert event.data == TaskCancel(requested_by="ann")


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"null", b"[]", b"{", b'"x"', b'{"requested_by": 7}', b"[" * 100_000]
)
def test_a_body_that_does_not_parse_is_unreadable_and_says_why(body: bytes) -> None:
    data = decode(build("task.cancel", "c", "ann"), {}, body, seq=1, time=START).data
    assert isinstance(data, Unreadable)
    assert data.reason.startswith("task.cancel: ")


def test_the_reason_names_the_field() -> None:
    data = decode(
        build("step.executed", "c", "a", 1), {}, b'{"status":"passed","elapsed_ms":"soon"}', seq=1, time=START
    ).data
    assert isinstance(data, Unreadable)
    assert "elapsed_ms" in data.reason
    assert "in all" in data.reason


def test_budgets_beyond_the_default_ranges_are_read_from_what_is_recorded() -> None:
    body = json.loads(plan(step("a")).to_json())
    body["budget"]["max_attempts"] = 40
    event = decode(build("plan.created", "c", 1), {}, json.dumps(body).encode(), seq=1, time=START)
    assert not isinstance(event.data, Unreadable)


@pytest.mark.parametrize("cause", ["", "x", "-1", "1.5", "٣", " 1", "9" * 40])
def test_a_cause_that_is_no_sequence_is_unknown(cause: str) -> None:
    event = decode(build("task.cancel", "c", "ann"), {"motet-cause": cause}, b"{}", seq=1, time=START)
    assert event.cause is None


@given(st.data())
def test_reading_never_raises(data: st.DataObject) -> None:
    subject = data.draw(any_subject())
    headers = data.draw(
        st.dictionaries(
            st.sampled_from(["ce-id", "ce-type", "ce-source", "motet-cause", "x"]), st.text(max_size=30), max_size=5
        )
    )
    body = data.draw(any_body(subject))
    event = decode(subject, headers, body, seq=1, time=datetime.now(UTC))
    if not isinstance(event.data, Unreadable):
        again = decode(subject, {}, event.data.to_json(), seq=1, time=START)
        assert again.data == event.data


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=5), st.none() | st.integers(), max_size=3))
def test_a_listed_output_is_read_or_its_subject_refused(subject: str, data: dict[str, Any]) -> None:
    try:
        decode_output(Output(subject=subject, id="01234567", data=data))
    except InvalidInputError:
        return


def test_an_output_that_does_not_parse_is_unreadable() -> None:
    subject, data = decode_output(Output(subject="step.expired.c.a.1", id="01234567", data={}))
    assert subject == build("step.expired", "c", "a", 1)
    assert isinstance(data, Unreadable)


def test_a_record_has_a_type_too() -> None:
    headers, _ = encode(Fact(handled("planner", "c", 3), Handled()), source="/agents/planner/p-1")
    assert headers["ce-type"] == "motet.handled.v1"
    assert headers["ce-subject"] == "handled.planner.c.3"
