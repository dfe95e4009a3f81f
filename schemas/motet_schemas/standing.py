"""Where a conversation stands: pure readings of `Conversation` that deciders, reports and pages share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from motet_schemas.budget import Budget, Policy, Usage
from motet_schemas.conversation import Attempt, Conversation, Question
from motet_schemas.human import Reason
from motet_schemas.plan import PlanStep
from motet_schemas.report import StepStatus

_MOST_TOKENS: Final = 10**12
_MOST_USD: Final = 1e9
BUDGET_REASONS: Final = ("attempts_exhausted", "tokens_exhausted", "cost_exhausted", "time_exhausted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an attempt does not count as done."""

    reason: Reason
    detail: str
    evidence: tuple[str, ...] = ()
    may_retry: bool = True
    """Whether another attempt is worth its price before anybody is asked."""
    may_replan: bool = True
    """Whether another plan could help."""


def judge(attempt: Attempt, step: PlanStep) -> Problem | Literal["open", "done"]:
    """Say whether an attempt is still open, done, or what is wrong with it."""
    verdict = _judge_facts(attempt, step)
    broke = attempt.record is not None and attempt.record.failure is not None
    if attempt.letter is not None and (verdict == "open" or (verdict != "done" and broke)):
        return Problem(reason="dead_letter", detail=attempt.letter.failure.message, may_retry=False, may_replan=False)
    return verdict


def _judge_facts(attempt: Attempt, step: PlanStep) -> Problem | Literal["open", "done"]:
    if attempt.lost is not None:
        return Problem(reason="claims_lost", detail=f"the claim was lost: {attempt.lost.reason}", may_replan=False)
    if attempt.unreadable:
        return Problem(reason="step_failed", detail=f"the outcome does not parse: {attempt.unreadable}")
    record = attempt.record
    if record is None:
        return "open"
    if record.status != "passed":
        return _unsuccessful(attempt)
    if attempt.verification is None:
        return "open"
    if attempt.verification.verdict == "failed":
        broken = [gate for gate in attempt.verification.gates if not gate.passed]
        return Problem(
            reason="verification_failed",
            detail="gates failed: " + (", ".join(gate.name for gate in broken) or "no gate was named"),
            evidence=tuple(f"{gate.name}: {text}" for gate in broken for text in gate.evidence),
        )
    if step.min_confidence > 0 and (record.confidence is None or record.confidence < step.min_confidence):
        shown = "unknown" if record.confidence is None else f"{record.confidence:.2f}"
        return Problem(
            reason="low_confidence",
            detail=f"confidence {shown} is under the threshold of {step.min_confidence:.2f}",
            evidence=(record.notes,) if record.notes else (),
            may_retry=record.next_action == "revise",
            may_replan=False,
        )
    return "done"


def _unsuccessful(attempt: Attempt) -> Problem:
    record = attempt.record
    assert record is not None  # noqa: S101 - the caller looked
    evidence = tuple(item.content for item in record.evidence)
    if record.status == "blocked":
        return Problem(reason="step_blocked", detail=record.notes or "blocked", evidence=evidence, may_retry=False)
    hopeless = record.failure is not None and not record.failure.retryable
    return Problem(
        reason="step_failed",
        detail=record.notes or (record.failure.message if record.failure else "failed"),
        evidence=evidence,
        may_retry=record.next_action != "escalate" and not hopeless,
    )


def newest_request(state: Conversation) -> int:
    """Return the number of the newest plan revision that was asked for; 0 when none was."""
    return max((number for number, revision in state.revisions.items() if revision.requested is not None), default=0)


def answers(state: Conversation, step: str, attempt: int | None = None) -> list[Question]:
    """Return the decided questions about a step (or one attempt at it), oldest first."""
    return [
        question
        for _, question in sorted(state.questions.items())
        if question.decision is not None
        and question.raised is not None
        and question.raised.step == step
        and (attempt is None or question.raised.attempt == attempt)
    ]


def open_questions(state: Conversation) -> list[Question]:
    """Return the questions that somebody may still answer, oldest first; none after the end.

    A question is moot, and neither waits nor times out, when what it is about was settled in another way.
    """
    if state.ending is not None:
        return []
    asked = [question for _, question in sorted(state.questions.items()) if question.open]
    return [question for question in asked if not _is_moot(state, question)]


def _is_moot(state: Conversation, question: Question) -> bool:
    raised, plan = question.raised, state.plan
    if raised is None:
        return False
    if raised.reason == "plan_rejected":
        return plan is not None or is_awaited(state)
    if raised.step is None:
        letter = state.letters.get(raised.letter) if raised.letter is not None else None
        return letter is not None and letter.status != "dead"
    step = plan.step(raised.step) if plan is not None else None
    if step is None or is_done(state, step):
        return plan is not None
    attempt = state.attempt(step.id, raised.attempt) if raised.attempt is not None else None
    return attempt is not None and (attempt.wanted_again or judge(attempt, step) == "open")


def is_awaited(state: Conversation) -> bool:
    """Say whether the newest plan that was asked for is still being made."""
    revision = state.revisions.get(newest_request(state))
    return revision is not None and not revision.answered and revision.letter is None


def accepted(state: Conversation, step: str) -> Question | None:
    """Return the question by whose answer a human accepted or made the step's result, or None."""
    return next((q for q in reversed(answers(state, step)) if q.decision in ("approve", "take_over")), None)


def is_done(state: Conversation, step: PlanStep) -> bool:
    """Say whether a step counts as done: by its last attempt, or by a human's word."""
    if accepted(state, step.id) is not None:
        return True
    attempts = state.opened(step.id)
    return bool(attempts) and judge(attempts[-1], step) == "done"


def step_status(state: Conversation, step: PlanStep) -> StepStatus:
    """Return one word for where a step stands, for people."""
    if is_done(state, step):
        return "done"
    attempts = state.opened(step.id)
    if not attempts:
        return "pending" if state.ending is None else "void"
    last = attempts[-1]
    verdict = judge(last, step)
    if isinstance(verdict, Problem):
        waiting = any(q.raised is not None and q.raised.step == step.id for q in open_questions(state))
        return "waiting" if waiting else "failed"
    if last.record is not None:
        return "executed"
    return "ready" if last.claim is None else "claimed"


def attempts_made(state: Conversation, steps: Iterable[str] | None = None) -> int:
    """Count the attempts of these steps, or of all; a lost claim is no attempt."""
    names = state.attempts if steps is None else steps
    return sum(1 for name in names for attempt in state.opened(name) if attempt.lost is None)


def usage(state: Conversation) -> Usage:
    """Add up what plans, attempts and verifications used. Unknown makes the sum unknown."""
    return total_usage(_usages(state))


def total_usage(parts: list[Usage]) -> Usage:
    """Add up usages. Unknown makes the sum unknown."""
    tokens_in = [part.tokens_in for part in parts]
    tokens_out = [part.tokens_out for part in parts]
    costs = [part.cost_usd for part in parts]
    return Usage(
        tokens_in=None if None in tokens_in else min(_MOST_TOKENS, _sum(tokens_in)),
        tokens_out=None if None in tokens_out else min(_MOST_TOKENS, _sum(tokens_out)),
        cost_usd=None if None in costs else _dollars(costs),
    )


def known_usage(state: Conversation) -> tuple[int, float]:
    """Add up the tokens and US dollars that are known, for budgets: what is unknown cannot be held against one."""
    parts = _usages(state)
    tokens = sum((part.tokens_in or 0) + (part.tokens_out or 0) for part in parts)
    return min(_MOST_TOKENS, tokens), _dollars([part.cost_usd for part in parts])


def _usages(state: Conversation) -> list[Usage]:
    parts: list[Usage] = []
    for revision in state.revisions.values():
        parts += [revision.plan.usage] if revision.plan else []
        parts += [revision.refusal_usage] if revision.refusal_usage else []
    for attempts in state.attempts.values():
        for attempt in attempts:
            parts += [attempt.record.usage] if attempt.record else []
            parts += [attempt.verification.usage] if attempt.verification else []
    return parts


def _sum(numbers: list[int | None]) -> int:
    return sum(number for number in numbers if number is not None)


def _dollars(costs: list[float | None]) -> float:
    return min(_MOST_USD, round(sum(cost for cost in costs if cost is not None), 9))


def budget_of(state: Conversation) -> Budget:
    """Return the conversation's budget as planned, before any human extended it."""
    if (plan := state.plan) is not None:
        return plan.budget
    return Budget().overridden(state.task.budget if state.task else None)


def policy_of(state: Conversation) -> Policy:
    """Return the conversation's policy."""
    if (plan := state.plan) is not None:
        return plan.policy
    return Policy().overridden(state.task.policy if state.task else None)


def granted(state: Conversation, reason: str) -> int:
    """Count how often a human, or silence, extended the budget that ran out for `reason`."""
    return sum(
        1
        for question in state.questions.values()
        if question.decision == "approve" and question.raised is not None and question.raised.reason == reason
    )


def revisions_granted(state: Conversation, step: str | None = None) -> int:
    """Count the attempts that humans asked for, of one step or of all: with `revise`, or by retrying a dead letter."""
    revised = sum(
        1
        for question in state.questions.values()
        if question.decision == "revise"
        and question.raised is not None
        and question.raised.step is not None
        and (step is None or question.raised.step == step)
    )
    names = state.attempts if step is None else (step,)
    return revised + sum(1 for name in names for attempt in state.opened(name) if attempt.wanted_again)


def attempts_allowed(state: Conversation) -> int:
    """Return how many attempts all steps together may make, human grants included."""
    return budget_of(state).max_attempts * (1 + granted(state, "attempts_exhausted")) + revisions_granted(state)


def deadline(state: Conversation) -> datetime | None:
    """Return when the time budget runs out if nobody waits for a human from now on; None before submission."""
    if state.submitted_at is None:
        return None
    spent_waiting = state.waited
    if state.waiting_since is not None and state.now is not None:
        spent_waiting += state.now - state.waiting_since
    seconds = budget_of(state).time_budget_s * (1 + granted(state, "time_exhausted"))
    return state.submitted_at + timedelta(seconds=seconds) + spent_waiting


def status(state: Conversation) -> str:
    """Return `completed`, `failed`, `cancelled`, `waiting` (a human is asked) or `running`."""
    if state.ending is not None:
        return state.ending.status
    return "waiting" if open_questions(state) and not in_progress(state) else "running"


def in_progress(state: Conversation) -> bool:
    """Say whether any agent still has something to do without a human's word."""
    if any(
        revision.requested and not revision.answered and not revision.letter for revision in state.revisions.values()
    ):
        return True
    plan = state.plan
    if plan is None:
        return state.task is not None and not state.revisions and not state.questions
    return any(
        (attempts := state.opened(step.id)) and not is_done(state, step) and judge(attempts[-1], step) == "open"
        for step in plan.steps
    )
