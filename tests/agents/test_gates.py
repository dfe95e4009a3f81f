"""The verifier's gates: each says what does not hold, and fails closed when it cannot tell."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet_agents.gates import result, run_gates
from motet_agents.qa.verification import CHECKS
from motet_schemas import (
    CheckGate,
    CommandGate,
    ExecutionRecord,
    Finding,
    Gate,
    GateResult,
    Json,
    JudgeGate,
    LexiconGate,
    Manifest,
    PlanStep,
    SchemaGate,
)

DRAFT = "A risk-free tea. See [there](http://example.com)."


def manifest(*gates: Gate, **inputs: Json) -> Manifest:
    return Manifest(objective="x", verification=gates, inputs={"draft": DRAFT, **inputs})


def record(**changes: object) -> ExecutionRecord:
    made = ExecutionRecord(status="passed", confidence=0.9, elapsed_ms=1, executor="me", idempotency_key="k")
    return made.evolve(**changes)


async def verdicts(given_manifest: Manifest, given_record: ExecutionRecord) -> list[GateResult]:
    """Return the verdicts of the step's own gates, without the one that all records must pass."""
    step = PlanStep(id="s1", capability="work", goal="x", manifest=given_manifest)
    return list(await run_gates(step, given_manifest, given_record))[1:]


async def holds(gate: Gate, given_record: ExecutionRecord) -> bool:
    [verdict] = await verdicts(manifest(gate), given_record)
    assert verdict.passed or verdict.evidence
    return verdict.passed


async def test_a_step_without_gates_has_one_that_all_records_must_pass() -> None:
    step = PlanStep(id="s1", capability="work", goal="x", manifest=manifest())
    [verdict] = await run_gates(step, step.manifest, record())
    assert (verdict.name, verdict.passed) == ("record", True)


async def test_a_finding_that_names_another_step_does_not_pass() -> None:
    step = PlanStep(id="s1", capability="work", goal="x", manifest=manifest())
    stray = Finding(step="s2", rule="tone.banned", severity="error", message="m")
    [verdict] = await run_gates(step, step.manifest, record(findings=(stray,)))
    assert not verdict.passed
    assert "s2" in verdict.evidence[0]


# Schema

OBJECT: dict[str, Json] = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("output", "passes"), [({"n": 1}, True), ({"n": "1"}, False), ({}, False), (None, False), ([], False)]
)
async def test_the_output_must_fit_the_schema(output: Json, passes: bool) -> None:
    assert await holds(SchemaGate(output_schema=OBJECT), record(output=output)) is passes


async def test_what_does_not_fit_is_shown_with_its_place() -> None:
    [verdict] = await verdicts(manifest(SchemaGate(output_schema=OBJECT)), record(output={"n": "one"}))
    assert verdict.evidence == ("$.n: 'one' is not of type 'integer'",)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 3},
        {"$ref": "#/nowhere"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"pattern": "("},
        {"$ref": "#"},
    ],
)
async def test_a_schema_that_is_itself_wrong_passes_nothing_and_fetches_nothing(schema: dict[str, Json]) -> None:
    assert not await holds(SchemaGate(output_schema=schema), record(output="x"))


# Lexicon


@pytest.mark.parametrize(
    ("gate", "output", "passes"),
    [
        (LexiconGate(required=("Terms apply",)), {"text": "… terms APPLY here"}, True),
        (LexiconGate(required=("Terms apply",)), {"text": "Terms\n  apply"}, True),
        (LexiconGate(required=("Terms apply",)), {"text": "none"}, False),
        (LexiconGate(required=("Terms apply",)), None, False),
        (LexiconGate(forbidden=("can't lose",)), {"text": 'you can\'t lose "ever"'}, False),
        (LexiconGate(forbidden=('say "x"',)), ['it\'s: say "x"'], False),
        (LexiconGate(forbidden=("back\\slash",)), {"deep": [{"er": "back\\slash"}]}, False),
        (LexiconGate(forbidden=("straße",)), {"text": "STRASSE"}, False),
        (LexiconGate(forbidden=("lose",)), {"text": "win"}, True),
    ],
)
async def test_phrases_are_looked_for_in_all_that_the_output_says(
    gate: LexiconGate, output: Json, passes: bool
) -> None:
    assert await holds(gate, record(output=output)) is passes


async def test_notes_count_too() -> None:
    assert not await holds(LexiconGate(forbidden=("secret",)), record(notes="a SECRET", output={}))


# What cannot be run


@pytest.mark.parametrize(
    "gate", [CommandGate(argv=("true",)), JudgeGate(rubric="is it good?"), CheckGate(check="qa.unheard-of")]
)
async def test_a_gate_that_this_verifier_cannot_run_fails_and_says_so(gate: Gate) -> None:
    [verdict] = await verdicts(manifest(gate), record(output={}))
    assert not verdict.passed
    assert "this verifier" in verdict.evidence[0]


async def test_a_check_that_breaks_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: Manifest, __: ExecutionRecord) -> list[str]:
        raise ZeroDivisionError("what a day")

    monkeypatch.setitem(CHECKS, "qa.shape", breaks)
    [verdict] = await verdicts(manifest(CheckGate(check="qa.shape")), record(output={}))
    assert not verdict.passed
    assert "what a day" in verdict.evidence[0]


def test_evidence_is_kept_short() -> None:
    verdict = result("x", [f"{number} " + "y" * 5_000 for number in range(100)])
    assert len(verdict.evidence) == 21
    assert verdict.evidence[-1] == "and 80 more"
    assert all(len(text) <= 1_000 for text in verdict.evidence)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["links", "url", "status", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(output=json, rules=json)
def test_no_output_that_an_executor_can_record_breaks_a_check(output: Json, rules: Json) -> None:
    for check in CHECKS.values():
        assert isinstance(check(manifest(rules=rules), record(output=output)), list)


async def test_a_step_without_a_draft_passes_no_check_of_drafts() -> None:
    bare = Manifest(objective="x", verification=tuple(CheckGate(check=name) for name in CHECKS))
    lengthy = Finding(step="s1", rule="tone.banned", severity="error", message="m", quote="x", start=3, end=4)
    found = {verdict.name: verdict.passed for verdict in await verdicts(bare, record(output={}, findings=(lengthy,)))}
    assert not found["qa.links"]
    assert not found["qa.quotes"]
    assert not found["qa.shape"]
