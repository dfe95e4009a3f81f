"""Contracts: strict, closed, frozen, and the same after a trip over the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from motet_schemas import (
    EVENTS,
    Contract,
    EscalateAnswered,
    ExecutionRecord,
    Finding,
    HumanAnswer,
    PlanStep,
    Reference,
    Task,
    TaskSubmitted,
    VerificationResult,
)
from motet_schemas.work import GateResult
from tests.schemas import samples
from tests.schemas.rubbish import json_values
from tests.schemas.samples import SAMPLES, SHA


def test_there_is_a_sample_of_every_kind_of_event() -> None:
    assert {*SAMPLES, "handled"} == set(EVENTS)


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_is_written_is_read_back_as_it_was(kind: str) -> None:
    data = SAMPLES[kind][1]
    assert type(data).model_validate_json(data.to_json()) == data


@pytest.mark.parametrize("kind", SAMPLES)
def test_no_contract_can_be_changed_in_place(kind: str) -> None:
    data = SAMPLES[kind][1]
    with pytest.raises(ValidationError, match="frozen"):
        setattr(data, next(iter(type(data).model_fields)), None)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_field_that_is_not_ours_is_refused_when_we_write(kind: str) -> None:
    data = SAMPLES[kind][1]
    fields = json.loads(data.to_json()) | {"suprise": 1}
    with pytest.raises(ValidationError, match="suprise"):
        type(data).model_validate_json(json.dumps(fields))


def test_a_field_that_is_not_ours_is_refused_deep_inside_too() -> None:
    fields = json.loads(samples.plan(samples.RICH).to_json())
    fields["steps"][0]["manifest"]["tools_allowed"] = []
    with pytest.raises(ValidationError, match="tools_allowed"):
        EVENTS["plan.created"].model_validate_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("elapsed_ms", "10"),
        ("elapsed_ms", 10.5),
        ("elapsed_ms", True),
        ("confidence", "0.9"),
        ("notes", 7),
        ("status", "done"),
        ("evidence", "x"),
        ("elapsed_ms", -1),
        ("confidence", 1.01),
        ("confidence", -0.01),
        ("cost_usd", -0.01),
        ("tokens_in", -1),
        ("executor", ""),
    ],
)
def test_types_and_ranges_are_strict(field: str, value: object) -> None:
    fields = json.loads(samples.record().to_json()) | {field: value}
    with pytest.raises(ValidationError, match=field):
        ExecutionRecord.model_validate_json(json.dumps(fields))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        samples.record(confidence=value)
    with pytest.raises(ValidationError, match="finite"):
        samples.record(output={"deep": [value]})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ["confidence", "output"])
def test_numbers_that_are_not_finite_are_refused_from_the_wire_too(number: str, place: str) -> None:
    fields = json.loads(samples.record().to_json()) | {place: "HERE"}
    body = json.dumps(fields).replace('"HERE"', number)
    with pytest.raises(ValidationError):
        ExecutionRecord.model_validate_json(body)


def test_json_that_is_nested_too_deeply_to_be_handed_on_is_refused() -> None:
    fields = json.loads(samples.record().to_json()) | {"output": "HERE"}
    body = json.dumps(fields).replace('"HERE"', "[" * 197 + "]" * 197)
    with pytest.raises(ValidationError):
        ExecutionRecord.model_validate_json(body)


def test_evolve_returns_a_changed_copy_and_validates_it() -> None:
    before = samples.record()
    after = before.evolve(status="failed", output=[None])
    assert (before.status, after.status, after.output) == ("passed", "failed", [None])
    assert type(after) is type(before)
    with pytest.raises(ValidationError, match="confidence"):
        before.evolve(confidence=2.0)
    with pytest.raises(ValidationError, match="nope"):
        before.evolve(nope=1)


def test_null_inside_json_is_data_and_stays_while_unset_fields_are_left_out() -> None:
    task = Task(kind="k", input={"a": None, "b": {"c": None}, "d": [None, {"e": None}]}, checklist={"rules": None})
    body = json.loads(task.to_json())
    assert body["input"] == {"a": None, "b": {"c": None}, "d": [None, {"e": None}]}
    assert body["checklist"] == {"rules": None}
    assert "owner" not in body
    assert "due" not in body


@given(json_values)
def test_any_json_survives_the_wire_or_is_refused_at_once(value: Any) -> None:
    try:
        task = TaskSubmitted(kind="k", input={"x": value})
    except ValidationError:
        return
    assert TaskSubmitted.model_validate_json(task.to_json()) == task


def test_same_content_has_the_same_fingerprint_whatever_the_order() -> None:
    one = Task.model_validate_json(b'{"kind":"k","input":{"a":1,"b":[1,2]},"owner":"o"}')
    two = Task.model_validate_json(b'{"owner":"o","input":{"b":[1,2],"a":1},"kind":"k","constraints":[],"due":null}')
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        b'{"kind":"k2","input":{"a":1}}',
        b'{"kind":"k","input":{"a":2}}',
        b'{"kind":"k","input":{"a":null}}',
        b'{"kind":"k","input":{}}',
        b'{"kind":"k","input":{"a":1},"owner":"o"}',
        b'{"kind":"k","input":{"a":1},"budget":{"max_attempts":3}}',
    ],
)
def test_other_content_has_another_fingerprint(other: bytes) -> None:
    first = Task.model_validate_json(b'{"kind":"k","input":{"a":1}}')
    assert Task.model_validate_json(other).fingerprint() != first.fingerprint()


def test_a_submitted_task_has_the_fingerprint_of_the_task() -> None:
    assert Task(kind="k").fingerprint() == TaskSubmitted(kind="k").fingerprint()


@pytest.mark.parametrize("decision", ["revise", "take_over"])
def test_an_answer_says_all_that_its_decision_needs(decision: str) -> None:
    with pytest.raises(ValidationError, match=decision):
        HumanAnswer.model_validate({"decision": decision, "answered_by": "ann"})


@pytest.mark.parametrize("result", [[], 0, "", False, {}])
def test_taking_over_with_an_empty_result_is_allowed(result: Any) -> None:
    assert EscalateAnswered(decision="take_over", result=result, answered_by="ann").result == result


def test_a_verification_passes_only_when_every_gate_does() -> None:
    broken = GateResult(name="g", passed=False)
    with pytest.raises(ValidationError, match="verdict"):
        VerificationResult(verdict="passed", gates=(broken,), verifier="v")


@pytest.mark.parametrize(
    "place",
    [
        {"quote": "abc"},
        {"quote": "abc", "start": 1},
        {"start": 1, "end": 2},
        {"quote": "abc", "start": 1, "end": 5},
        {"quote": "abc", "start": 4, "end": 1},
        {"quote": "abc", "start": -1, "end": 2},
    ],
)
def test_a_finding_has_a_whole_place_or_none(place: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Finding(step="tone", rule="tone.banned", severity="error", message="no", **place)


@pytest.mark.parametrize("rule", ["tone", "Tone.banned", "tone..banned", ".tone", "tone.", "tone.ban ned"])
def test_a_rule_is_a_group_and_a_name(rule: str) -> None:
    with pytest.raises(ValidationError, match="rule"):
        Finding(step="tone", rule=rule, severity="error", message="no")


def test_an_object_is_named_by_its_hash() -> None:
    with pytest.raises(ValidationError):
        Reference(name="../etc/passwd", sha256=SHA, size_bytes=1)


@pytest.mark.parametrize("contract", [*EVENTS.values(), PlanStep])
def test_every_field_says_what_it_is(contract: type[Contract]) -> None:
    assert [name for name, field in contract.model_fields.items() if not field.description] == []
