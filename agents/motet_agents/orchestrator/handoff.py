"""Handoffs: everything that the next one needs, made from what is recorded."""

from __future__ import annotations

from motet_schemas import (
    Attempt,
    Conversation,
    EscalateAnswered,
    Fact,
    Failed,
    Found,
    PlanRequested,
    PlanStep,
    Remaining,
    StepReady,
)
from motet_schemas.remaining import remaining
from motet_schemas.standing import (
    Problem,
    accepted,
    answers,
    is_done,
    judge,
)
from motet_schemas.subjects import build

_NOTE = 2_000


def plan_request(
    state: Conversation, *, reason: str, failed: tuple[str, ...] = (), instructions: tuple[str, ...] = ()
) -> Fact:
    """Return the request for the next plan revision, with what is done and must stay."""
    plan = state.plan
    keep = tuple(step for step in plan.steps if is_done(state, step)) if plan else ()
    found = tuple(
        f"{step.id}: {attempt.record.notes}"[:_NOTE]
        for step in keep
        if (attempt := _last(state, step)) is not None and attempt.record is not None and attempt.record.notes
    )
    request = PlanRequested(
        reason=reason[:_NOTE],
        found=found,
        failed=failed,
        instructions=instructions,
        keep=keep,
    )
    return Fact(build("plan.requested", state.id, state.next_revision()), request)


def step_ready(state: Conversation, step: PlanStep, *, opening: int) -> Fact:
    """Return the handoff of the next attempt at `step`; `opening` attempts are opened together with it, before it."""
    attempts = state.opened(step.id)
    plan = state.plan
    ready = StepReady(
        step=step,
        plan_revision=state.plan_revision,
        asked=_asked(state),
        found=tuple(_found(state, name) for name in step.depends_on),
        failed=tuple(_failed(attempt, step) for attempt in attempts if judge(attempt, step) != "open"),
        instructions=_instructions(state, step),
        next_steps=tuple(other.id for other in plan.steps if step.id in other.depends_on) if plan else (),
        remaining=_remaining(state, opening),
        idempotency_key=_key(state, step, attempts),
    )
    return Fact(build("step.ready", state.id, step.id, state.next_attempt(step.id), step.capability), ready)


def _key(state: Conversation, step: PlanStep, attempts: tuple[Attempt, ...]) -> str:
    """A run that ended without an answer may have had its effect: the next one gets the same key."""
    answered = sum(1 for attempt in attempts if attempt.record is not None and attempt.record.failure is None)
    return f"{state.id}/{step.id}/{answered + 1}"


def _asked(state: Conversation) -> str:
    if state.task is None:
        return ""
    return f"{state.task.kind}" + (f" for {state.task.owner}" if state.task.owner else "")


def _last(state: Conversation, step: PlanStep) -> Attempt | None:
    attempts = state.opened(step.id)
    return attempts[-1] if attempts else None


def _found(state: Conversation, name: str) -> Found:
    question = accepted(state, name)
    answer = question.answer if question else None
    if isinstance(answer, EscalateAnswered) and answer.decision == "take_over":
        return Found(step=name, notes=f"made by {answer.answered_by}", output=answer.result)
    attempts = state.opened(name)
    record = attempts[-1].record if attempts else None
    if record is None:
        return Found(step=name)
    return Found(step=name, notes=record.notes, confidence=record.confidence, output=record.output)


def _failed(attempt: Attempt, step: PlanStep) -> Failed:
    verdict = judge(attempt, step)
    if not isinstance(verdict, Problem):
        return Failed(step=step.id, attempt=attempt.number, reason="a human asked for another attempt")
    evidence = tuple(text[:_NOTE] for text in verdict.evidence[:50])
    return Failed(step=step.id, attempt=attempt.number, reason=verdict.detail[:_NOTE], evidence=evidence)


def _instructions(state: Conversation, step: PlanStep) -> tuple[str, ...]:
    given = [question.answer for question in answers(state, step.id)]
    return tuple(
        answer.instructions for answer in given if isinstance(answer, EscalateAnswered) and answer.instructions
    )


def _remaining(state: Conversation, opening: int) -> Remaining:
    left = remaining(state)
    return left.evolve(attempts=max(0, left.attempts - opening - 1))
