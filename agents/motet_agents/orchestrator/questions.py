"""Questions to a human: why, what is proposed, what may be answered, and what silence means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from motet_agents.orchestrator.transcript import transcript
from motet_schemas import Attempt, Conversation, EscalateRaised, Fact, InvalidInputError, PlanStep
from motet_schemas.human import Decision, Reason
from motet_schemas.standing import (
    BUDGET_REASONS,
    Problem,
    attempts_allowed,
    attempts_made,
    budget_of,
    deadline,
    granted,
    policy_of,
    tokens_known,
    usage,
)
from motet_schemas.subjects import build, parse

_TEXT: Final = 20_000
_MEANING: Final[dict[Decision, str]] = {
    "approve": "accept it as it is",
    "revise": "have it done again with your instructions",
    "reject": "stop here: the task fails",
    "take_over": "give the result yourself",
}
_ALLOWED: Final[dict[Reason, tuple[Decision, ...]]] = {
    "low_confidence": ("approve", "revise", "reject", "take_over"),
    "verification_failed": ("approve", "revise", "reject", "take_over"),
    "step_failed": ("revise", "reject", "take_over"),
    "step_blocked": ("revise", "reject", "take_over"),
    "claims_lost": ("revise", "reject", "take_over"),
    "dead_letter": ("revise", "reject", "take_over"),
    "plan_rejected": ("revise", "reject"),
    "attempts_exhausted": ("approve", "reject"),
    "tokens_exhausted": ("approve", "reject"),
    "cost_exhausted": ("approve", "reject"),
    "time_exhausted": ("approve", "reject"),
}
_TAKEN_FOR_FAILED: Final = frozenset(
    {"step.executed", "plan.created", "plan.rejected", "verify.passed", "verify.failed", "escalate.answered"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question before it has a number."""

    reason: Reason
    question: str
    step: str | None = None
    attempt: int | None = None
    letter: str | None = None
    allowed: tuple[Decision, ...] = ()


def raise_question(state: Conversation, asked: Asked, offset: int) -> Fact:
    """Return the fact that asks; `offset` counts the questions that are raised together."""
    policy = policy_of(state)
    allowed = asked.allowed or _ALLOWED[asked.reason]
    assert state.now is not None  # noqa: S101 - a conversation without events asks nothing
    extend = asked.reason in BUDGET_REASONS
    proposal = "; ".join(
        f"{decision}: {'grant the same budget once more' if extend and decision == 'approve' else _MEANING[decision]}"
        for decision in allowed
    )
    raised = EscalateRaised(
        reason=asked.reason,
        step=asked.step,
        attempt=asked.attempt,
        letter=asked.letter,
        question=asked.question[:_TEXT],
        transcript=transcript(state, asked.step),
        proposal=proposal,
        allowed_answers=allowed,
        asked=(state.task.owner if state.task and state.task.owner else "operator"),
        due_at=state.now + timedelta(seconds=policy.human_sla_s),
        on_timeout="approve" if policy.on_timeout == "approve" and "approve" in allowed else "reject",
    )
    number = max(state.questions, default=0) + 1 + offset
    return Fact(build("escalate.raised", state.id, number), raised)


def step_question(state: Conversation, step: PlanStep, attempt: Attempt, problem: Problem) -> Asked:
    """Ask about one attempt at a step."""
    shown = f" ({'; '.join(problem.evidence[:3])})" if problem.evidence else ""
    letter = attempt.letter
    return Asked(
        reason=problem.reason,
        step=step.id,
        attempt=attempt.number,
        letter=f"{letter.consumer}-{letter.sequence}" if letter else None,
        question=f"{step.id} ({step.goal}): {problem.detail}{shown}. Is its result good enough, or what shall be done?",
    )


def plan_question(state: Conversation) -> Asked | str | None:
    """Ask about a plan that could not be made; None while one is awaited; the instructions once a human gave them."""
    refused = [number for number, revision in state.revisions.items() if revision.refusal or revision.letter]
    if max(state.revisions) not in refused:
        return None
    about = [question for _, question in sorted(state.questions.items()) if question.raised and not question.broken]
    about = [question for question in about if question.raised and question.raised.reason == "plan_rejected"]
    if len(about) < len(refused):
        revision = state.revisions[max(refused)]
        why = revision.refusal or (revision.letter.failure.message if revision.letter else "no answer")
        letter = revision.letter
        return Asked(
            reason="plan_rejected",
            letter=f"{letter.consumer}-{letter.sequence}" if letter else None,
            question=f"no valid plan could be made: {why}. Revise with instructions, or reject?",
        )
    answer = about[-1].answer
    return getattr(answer, "instructions", None) if about[-1].decision == "revise" else None


def letter_questions(state: Conversation) -> list[Asked]:
    """Ask about each dead letter that is not about a step or a plan (those are asked about there)."""
    raised = {
        question.raised.letter for question in state.questions.values() if question.raised and not question.broken
    }
    questions: list[Asked] = []
    for key, letter in state.letters.items():
        notice = letter.notice
        if letter.status != "dead" or notice is None or key in raised:
            continue
        try:
            kind = parse(notice.subject).kind
        except InvalidInputError:
            kind = ""
        if kind in ("step.ready", "step.executed", "plan.requested"):
            continue
        if notice.failure.code == "unreadable" and kind in _TAKEN_FOR_FAILED:
            continue
        questions.append(
            Asked(
                reason="dead_letter",
                letter=key,
                question=f"{notice.consumer} could not handle {notice.subject}: {notice.failure.message}. "
                "Carry on without it, or stop?",
                allowed=("approve", "reject"),
            )
        )
    return questions


def budget_question(state: Conversation, candidates: Sequence[PlanStep]) -> list[Asked] | None:
    """Say which budget has run out: the questions to ask (none when they are asked already), or None when none has."""
    reasons = list(_exhausted(state, candidates))
    if not reasons:
        return None
    asked = {q.raised.reason for q in state.questions.values() if q.open and q.raised}
    return [
        Asked(reason=reason, question=f"{text}. Grant the same once more, or stop?")
        for reason, text in reasons
        if reason not in asked
    ]


def _exhausted(state: Conversation, candidates: Sequence[PlanStep]) -> list[tuple[Reason, str]]:
    found: list[tuple[Reason, str]] = []
    budget, spent = budget_of(state), usage(state)
    limit = deadline(state)
    if limit is not None and state.now is not None and state.now >= limit:
        found.append(("time_exhausted", f"the time budget of {budget.time_budget_s} s is used up"))
    if not candidates:
        return found
    if attempts_made(state) >= attempts_allowed(state):
        found.append(("attempts_exhausted", f"all {attempts_allowed(state)} attempts are used up"))
    tokens, allowed = tokens_known(state), budget.max_tokens * (1 + granted(state, "tokens_exhausted"))
    if tokens >= allowed:
        found.append(("tokens_exhausted", f"{tokens} of {allowed} tokens are used up"))
    if budget.max_cost_usd is not None and spent.cost_usd is not None:
        limit_usd = budget.max_cost_usd * (1 + granted(state, "cost_exhausted"))
        if spent.cost_usd >= limit_usd and spent.cost_usd > 0:
            found.append(("cost_exhausted", f"{spent.cost_usd:.4f} of {limit_usd:.4f} USD are used up"))
    return found
