"""What to do about an attempt that is not good enough: try again, wait, plan anew, or ask."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from motet_agents.orchestrator.questions import Asked, step_question
from motet_schemas import Attempt, Conversation, PlanStep
from motet_schemas.standing import (
    Problem,
    answers,
    attempts_made,
    is_awaited,
    newest_request,
    open_questions,
    policy_of,
    revisions_granted,
)

MAX_LOST_CLAIMS: Final = 3
_BACKOFF_FIRST_S: Final = 1.0
_BACKOFF_MOST_S: Final = 30.0
_HINT_MOST_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Open another attempt."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now; `until` when time alone will change that, None when an answer is awaited."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a human."""

    question: Asked


@dataclass(frozen=True, slots=True)
class Replan:
    """Another plan may help; `otherwise` is what to ask when no re-plan is left."""

    reason: str
    failed: tuple[str, ...]
    otherwise: Asked


def remedy(
    state: Conversation, step: PlanStep, attempts: tuple[Attempt, ...], problem: Problem
) -> Retry | Wait | Ask | Replan:
    """Return what to do about the step's last attempt."""
    last = attempts[-1]
    if last.wanted_again:
        return Retry()
    decided = answers(state, step.id, last.number)
    if decided and decided[-1].decision == "revise":
        return Retry()
    if _is_asked(state, step.id, last.number):
        return Wait()
    question = step_question(state, step, last, problem)
    if problem.reason == "claims_lost":
        lost = sum(1 for attempt in attempts if attempt.lost is not None)
        return Retry() if lost <= MAX_LOST_CLAIMS else Ask(question)
    made = attempts_made(state, [step.id])
    if problem.may_retry and made < step.max_attempts + revisions_granted(state, step.id):
        until = _backoff_until(state, last)
        return Retry() if until is None else Wait(until)
    if problem.may_replan:
        if replanning(state):
            return Wait()
        reason = f"step {step.id} cannot be done: {problem.detail}"[:2_000]
        return Replan(reason, tuple(text[:2_000] for text in (problem.detail, *problem.evidence)), question)
    return Ask(question)


def replanning(state: Conversation) -> bool:
    """Say whether a re-plan was requested and the planner has not answered."""
    return newest_request(state) > state.plan_revision and is_awaited(state)


def replans_left(state: Conversation) -> bool:
    """Say whether the policy allows another re-plan."""
    planned = min((number for number, revision in state.revisions.items() if revision.plan is not None), default=0)
    used = sum(1 for number, one in state.revisions.items() if one.requested is not None and number > planned)
    return used < policy_of(state).max_replans


def _is_asked(state: Conversation, step: str, attempt: int) -> bool:
    return any(
        question.raised is not None and (question.raised.step, question.raised.attempt) == (step, attempt)
        for question in open_questions(state)
    )


def _backoff_until(state: Conversation, last: Attempt) -> datetime | None:
    """Return until when an attempt that broke must rest, None when another may start now."""
    record = last.record
    if record is None or record.failure is None or last.ended_at is None or state.now is None:
        return None
    own_s = min(_BACKOFF_FIRST_S * 2.0 ** min(last.number - 1, 30), _BACKOFF_MOST_S)
    pause_s = own_s if record.failure.retry_after_s is None else min(record.failure.retry_after_s, _HINT_MOST_S)
    until = last.ended_at + timedelta(seconds=pause_s)
    return None if state.now >= until else until
