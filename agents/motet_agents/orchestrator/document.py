"""How a conversation stands, as one JSON document: a pure function of what is recorded."""

from __future__ import annotations

import json
from typing import Any, Final

from motet_agents.orchestrator.decide import is_settled
from motet_agents.orchestrator.report import make_report
from motet_bus import trace_id
from motet_schemas import Conversation, EscalateAnswered, Question, Report
from motet_schemas.standing import in_progress, open_questions

_STEP_KEYS: Final = (
    "id",
    "capability",
    "status",
    "attempts",
    "confidence",
    "min_confidence",
    "verdict",
    "elapsed_ms",
    "tokens",
    "model",
)
_FINDING_KEYS: Final = ("step", "rule", "severity", "message", "quote", "start", "end")


def is_waiting(state: Conversation) -> bool:
    """Say whether a human is asked and nothing else goes on: only an answer, or silence, moves the conversation."""
    if not open_questions(state) or in_progress(state) or not is_settled(state):
        return False
    return all(alarm.fired for key, alarm in state.alarms.items() if key.startswith("backoff."))


def is_over(state: Conversation) -> bool:
    """Say whether there is nothing to wait for: the conversation has ended, or waits for a human."""
    return state.ending is not None or is_waiting(state)


def conversation_status(state: Conversation) -> str:
    """Return completed, failed, cancelled, waiting or running."""
    if state.ending is not None:
        return state.ending.status
    return "waiting" if is_waiting(state) else "running"


def report_of(state: Conversation) -> Report:
    """Return the conversation's report: the recorded one, or how things stand when it has not ended."""
    if state.ending is not None:
        return state.ending.report
    report = make_report(state)
    return report.evolve(verdict="needs_human") if open_questions(state) else report


def run_document(state: Conversation) -> dict[str, Any]:
    """Return what `motet run --json` prints. Unknown is null."""
    report = report_of(state)
    return {
        "conversation_id": state.id,
        "status": conversation_status(state),
        "trace_id": trace_id(state.id),
        "brain": report.brain,
        "report": {
            "verdict": report.verdict,
            "summary": report.summary,
            "findings": [_picked(finding, _FINDING_KEYS) for finding in report.findings],
            "concerns": list(report.concerns),
        },
        "steps": [_picked(step, _STEP_KEYS) for step in report.steps],
        "usage": _picked(report.usage, ("tokens", "cost_usd", "attempts", "elapsed_ms")),
        "escalations": [question_document(state, question) for _, question in sorted(state.questions.items())],
    }


def question_document(state: Conversation, question: Question) -> dict[str, Any]:
    """Return one question and what came of it. `status` is open, answered, timed_out, broken or moot."""
    raised, answer = question.raised, question.answer
    answered = answer if isinstance(answer, EscalateAnswered) else None
    if question.broken:
        status = "broken"
    elif answer is None:
        status = "open" if any(one.number == question.number for one in open_questions(state)) else "moot"
    else:
        status = "answered" if answered else "timed_out"
    asked: dict[str, Any] = {} if raised is None else json.loads(raised.model_dump_json())
    return {
        "number": question.number,
        "status": status,
        **{name: asked.get(name) for name in ("reason", "step", "attempt", "letter", "question", "proposal")},
        "allowed_answers": asked.get("allowed_answers", []),
        **{name: asked.get(name) for name in ("asked", "due_at", "on_timeout")},
        "raised_at": question.raised_at.isoformat(),
        "decision": question.decision,
        "answered_by": answered.answered_by if answered else None,
        "answered_at": question.answered_at.isoformat() if question.answered_at else None,
        "note": answered.note if answered else None,
        "instructions": answered.instructions if answered else None,
    }


def _picked(contract: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(contract, name) for name in names}
