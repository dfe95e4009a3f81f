"""Questions to a human: why, what is proposed, what may be answered, and what silence means."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from motet_agents.orchestrator.transcript import transcript
from motet_schemas import Attempt, Conversation, EscalateRaised, Fact, InvalidInputError, LetterDead, PlanStep, Question
from motet_schemas.fold import ORCHESTRATOR
from motet_schemas.fold_newer import is_newer
from motet_schemas.human import Decision, Reason
from motet_schemas.standing import (
    BUDGET_REASONS,
    Problem,
    attempts_allowed,
    attempts_made,
    budget_of,
    deadline,
    granted,
    judge,
    known_usage,
    newest_request,
    open_questions,
    policy_of,
)
from motet_schemas.subjects import build, parse

_TEXT: Final = 20_000
_SHOWN: Final = 5
_GRANT: Final = "Grant the same once more, or stop?"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question before it has a number."""

    reason: Reason
    question: str
    step: str | None = None
    attempt: int | None = None
    letter: str | None = None
    allowed: tuple[Decision, ...] = ()


def raise_question(state: Conversation, asked: Asked, number: int) -> Fact:
    """Return the fact that asks; `number` is one that nobody has used."""
    policy = policy_of(state)
    allowed = asked.allowed or _ALLOWED[asked.reason]
    assert state.now is not None  # noqa: S101 - a conversation without events asks nothing
    due_at = state.now + timedelta(seconds=policy.human_sla_s)
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
        due_at=due_at.replace(microsecond=due_at.microsecond // 1000 * 1000),  # schedules know milliseconds
        on_timeout="approve" if policy.on_timeout == "approve" and "approve" in allowed else "reject",
    )
    return Fact(build("escalate.raised", state.id, number), raised)


def step_question(state: Conversation, step: PlanStep, attempt: Attempt, problem: Problem) -> Asked:
    """Ask about one attempt at a step."""
    letter = attempt.letter
    parts = [f"{step.id} ({step.goal}): {problem.detail}.", *problem.evidence[:_SHOWN], *_doubts(attempt)]
    return Asked(
        reason=problem.reason,
        step=step.id,
        attempt=attempt.number,
        letter=f"{letter.consumer}-{letter.sequence}" if letter else None,
        question=" ".join(parts),
    )


def _doubts(attempt: Attempt) -> list[str]:
    """Return what the attempt itself was not sure of, so that a human can judge without looking elsewhere."""
    findings = attempt.record.findings if attempt.record else ()
    doubtful = [finding for finding in findings if finding.severity == "warning"]
    shown = [f"{one.message}." if one.quote is None else f"{one.message} ({one.quote!r})." for one in doubtful[:_SHOWN]]
    return [*shown, f"And {len(doubtful) - _SHOWN} more doubts."] if len(doubtful) > _SHOWN else shown


def plan_question(state: Conversation) -> Asked | str | None:
    """Ask about a plan that could not be made; None while one is awaited; the instructions once a human gave them."""
    newest = newest_request(state)
    revision = state.revisions[newest]
    if not revision.refusal and revision.letter is None:
        return None
    about = [question for _, question in sorted(state.questions.items()) if _asks_for_plan(question, newest)]
    if not about:
        why = revision.refusal or (revision.letter.failure.message if revision.letter else "no answer")
        letter = revision.letter
        return Asked(
            reason="plan_rejected",
            attempt=newest,
            letter=f"{letter.consumer}-{letter.sequence}" if letter else None,
            question=f"no valid plan could be made: {why}. Revise with instructions, or reject?",
        )
    answer = about[-1].answer
    return getattr(answer, "instructions", None) if about[-1].decision == "revise" else None


def _asks_for_plan(question: Question, revision: int) -> bool:
    raised = question.raised
    if raised is None or question.broken:
        return False
    return (raised.reason, raised.attempt) == ("plan_rejected", revision)


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
        if kind == "plan.requested" or (kind in ("step.ready", "step.executed") and _is_about_work(state, notice)):
            continue
        if notice.failure.code == "unreadable":  # an outsider's rubbish; the report names it, nobody is bothered
            continue
        if notice.consumer == ORCHESTRATOR and is_newer(notice):  # an older one could not read it; we did
            continue
        questions.append(_letter_question(key, notice))
    return questions


def newer_questions(state: Conversation) -> list[Asked]:
    """Ask about a dead letter that a newer version wrote; about one at a time, for one upgrade mends them all."""
    letters = {
        key: letter.notice
        for key, letter in state.letters.items()
        if letter.status == "dead" and letter.notice is not None and is_newer(letter.notice)
    }
    if any(question.raised is not None and question.raised.letter in letters for question in open_questions(state)):
        return []
    asked = {question.raised.letter for question in state.questions.values() if question.raised is not None}
    return [_letter_question(key, notice) for key, notice in letters.items() if key not in asked][:1]


def _letter_question(key: str, notice: LetterDead) -> Asked:
    return Asked(
        reason="dead_letter",
        letter=key,
        question=f"{notice.consumer} could not handle {notice.subject}: {notice.failure.message}. "
        "Carry on without it, or stop?",
        allowed=("approve", "reject"),
    )


def _is_about_work(state: Conversation, notice: LetterDead) -> bool:
    """Say whether a letter keeps its step from being done, so that the step's own question speaks of it."""
    about = parse(notice.subject)
    step, attempts = state.plan.step(about.step) if state.plan else None, state.opened(about.step)
    if step is None or not attempts or attempts[-1].number != about.number:
        return True
    return judge(attempts[-1], step) != "done" or notice.consumer.startswith("step-")


def time_question(state: Conversation) -> list[Asked]:
    """Ask for more time when it is used up, unless that is asked already."""
    limit, budget = deadline(state), budget_of(state)
    if limit is None or state.now is None or state.now < limit or _is_asked(state, "time_exhausted"):
        return []
    text = f"the time budget of {budget.time_budget_s} s is used up"
    return [Asked(reason="time_exhausted", question=f"{text}. {_GRANT}")]


def budget_question(state: Conversation) -> list[Asked] | None:
    """Say which budget forbids another attempt: the questions to ask (none when asked already), None when none does."""
    reasons = _exhausted(state)
    if not reasons:
        return None
    return [
        Asked(reason=reason, question=f"{text}. {_GRANT}") for reason, text in reasons if not _is_asked(state, reason)
    ]


def _is_asked(state: Conversation, reason: Reason) -> bool:
    return any(question.raised is not None and question.raised.reason == reason for question in open_questions(state))


def _exhausted(state: Conversation) -> list[tuple[Reason, str]]:
    found: list[tuple[Reason, str]] = []
    budget, (tokens, cost_usd) = budget_of(state), known_usage(state)
    limit = deadline(state)
    if limit is not None and state.now is not None and state.now >= limit:
        found.append(("time_exhausted", f"the time budget of {budget.time_budget_s} s is used up"))
    if attempts_made(state) >= attempts_allowed(state):
        found.append(("attempts_exhausted", f"all {attempts_allowed(state)} attempts are used up"))
    allowed = budget.max_tokens * (1 + granted(state, "tokens_exhausted"))
    if tokens >= allowed:
        found.append(("tokens_exhausted", f"{tokens} of {allowed} tokens are used up"))
    grants = granted(state, "cost_exhausted")
    if budget.max_cost_usd is not None and not (grants and budget.max_cost_usd == 0):
        allowed_usd = budget.max_cost_usd * (1 + grants)
        if cost_usd > 0 and cost_usd >= allowed_usd:
            found.append(("cost_exhausted", f"{cost_usd:.4f} of {allowed_usd:.4f} USD are used up"))
    return found
