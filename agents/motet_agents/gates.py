"""The verifier's gates: each looks at a record with its own eyes, and fails closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import structlog
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from motet_agents.qa.verification import CHECKS
from motet_schemas import (
    CheckGate,
    CommandGate,
    ExecutionRecord,
    Gate,
    GateResult,
    Json,
    JudgeGate,
    LexiconGate,
    Manifest,
    PlanStep,
    SchemaGate,
)

log = structlog.get_logger(__name__)

_EVIDENCE: Final = 20
_TEXT: Final = 1_000


async def run_gates(step: PlanStep, manifest: Manifest, record: ExecutionRecord) -> tuple[GateResult, ...]:
    """Return the verdict of every gate of the step, and of one that all records must pass."""

    def run_all() -> tuple[GateResult, ...]:
        return (_own_findings(step, record), *(_run(gate, manifest, record) for gate in manifest.verification))

    # The gates read whole documents: beside the event loop, so that heartbeats go on.
    return await asyncio.to_thread(run_all)


def _run(gate: Gate, manifest: Manifest, record: ExecutionRecord) -> GateResult:
    name = gate.check if isinstance(gate, CheckGate) else gate.kind
    try:
        return result(name, _problems(gate, manifest, record))
    except Exception as error:
        log.exception("gate.broke", gate=name)
        return result(name, [f"the gate broke: {type(error).__name__}: {error}"])


def _problems(gate: Gate, manifest: Manifest, record: ExecutionRecord) -> list[str]:
    match gate:
        case SchemaGate():
            return _schema(gate, record)
        case LexiconGate():
            return _lexicon(gate, record)
        case CheckGate():
            check = CHECKS.get(gate.check)
            return [f"this verifier knows no check {gate.check!r}"] if check is None else check(manifest, record)
        case CommandGate() | JudgeGate():
            return [f"this verifier cannot run a {gate.kind} gate"]


def result(name: str, problems: Sequence[str]) -> GateResult:
    """Return a gate's verdict: it passes when there are no problems."""
    shown = [problem[:_TEXT] for problem in problems[:_EVIDENCE]]
    if len(problems) > _EVIDENCE:
        shown.append(f"and {len(problems) - _EVIDENCE} more")
    return GateResult(name=name, passed=not problems, evidence=tuple(shown))


def _own_findings(step: PlanStep, record: ExecutionRecord) -> GateResult:
    strangers = sorted({finding.step for finding in record.findings} - {step.id})
    return result("record", [f"a finding names the step {name}, the record is of {step.id}" for name in strangers])


def _schema(gate: SchemaGate, record: ExecutionRecord) -> list[str]:
    try:
        Draft202012Validator.check_schema(gate.output_schema)
        # An empty registry: no schema can make the verifier fetch anything.
        validator: Any = Draft202012Validator(gate.output_schema, registry=Registry[Any]())
        found: Iterable[ValidationError] = validator.iter_errors(record.output)
        problems = [f"{problem.json_path}: {problem.message}" for problem in found]
    except SchemaError as error:
        return [f"the gate's own schema is invalid: {error.message}"]
    except (Unresolvable, RecursionError) as error:
        return [f"the gate's own schema cannot be followed: {error}"]
    return sorted(problems)


def _lexicon(gate: LexiconGate, record: ExecutionRecord) -> list[str]:
    said = "\n".join(_folded(text) for text in (record.notes, *_texts(record.output)))
    problems = [f"{phrase!r} is missing" for phrase in gate.required if _folded(phrase) not in said]
    return problems + [f"{phrase!r} is there" for phrase in gate.forbidden if _folded(phrase) in said]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _texts(value: Json) -> Iterator[str]:
    """Yield every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


Check = Callable[[Manifest, ExecutionRecord], list[str]]
