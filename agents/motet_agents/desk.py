"""The human desk: what waits for a person, and what a person answers."""

from __future__ import annotations

from dataclasses import dataclass

from motet_bus import Client
from motet_bus.fences import Fence
from motet_schemas import (
    ConflictError,
    Conversation,
    EscalateAnswered,
    EscalateTimedOut,
    Fact,
    HumanAnswer,
    InvalidInputError,
    Question,
    TaskSubmitted,
    fold_all,
)
from motet_schemas.standing import open_questions
from motet_schemas.subjects import build


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """One question that somebody should answer."""

    conversation: str
    question: Question
    task: TaskSubmitted | None


async def inbox(client: Client) -> list[OpenQuestion]:
    """Return all open questions, the most urgent first."""
    waiting: list[OpenQuestion] = []
    for summary in await client.conversations():
        if summary.questions:
            state = await client.load(summary.conversation)
            waiting += [
                OpenQuestion(conversation=state.id, question=question, task=state.task)
                for question in open_questions(state)
            ]
    return sorted(
        waiting, key=lambda one: one.question.raised.due_at if one.question.raised else one.question.raised_at
    )


async def answer(client: Client, conversation: str, number: int | None, given: HumanAnswer) -> Question:
    """Record a human's answer and return the question it answers. `client` must have the role `desk`.

    `number` may be None when only one question is open. Raises `InvalidInputError` when it must be named or the answer
    is not allowed, `ConflictError` when it is answered, timed out, or the conversation has ended.
    """
    state = await client.load(conversation)
    question = _chosen(state, number)
    raised = question.raised
    if raised is not None and given.decision not in raised.allowed_answers:
        raise InvalidInputError(
            f"decision: {given.decision} is no answer to question {question.number} ({raised.reason}); "
            f"allowed are {', '.join(raised.allowed_answers)}",
            field="decision",
            value=given.decision,
        )
    filter_ = f"escalate.*.{conversation}.{question.number}"
    heard = await client.journal.read_kind(filter_)
    if not heard or heard[-1].kind != "escalate.raised":
        raise ConflictError(f"question {question.number} of {conversation} is not open any more")
    last = heard[-1]
    subject = build("escalate.answered", conversation, question.number)
    fact = Fact(subject, EscalateAnswered(**dict(given)))
    try:
        seq = await client.journal.append(fact, fence=Fence(last.seq, filter_), cause=last.seq)
        events = await client.journal.read_conversation(conversation, at_least=seq)
        if isinstance(fold_all(conversation, events).questions[question.number].answer, EscalateTimedOut):
            raise ConflictError("it was decided before, and was about to be said")
    except ConflictError:
        raise ConflictError(
            f"question {question.number} of {conversation} was answered, or timed out, a moment ago; "
            f"look with `motet show {conversation}`"
        ) from None
    return question


def _chosen(state: Conversation, number: int | None) -> Question:
    if state.ending is not None:
        raise ConflictError(f"conversation {state.id} has ended: {state.ending.status}; nothing is asked any more")
    waiting = open_questions(state)
    if number is None:
        if len(waiting) == 1:
            return waiting[0]
        listed = "; ".join(f"{q.number}: {q.raised.question}" for q in waiting if q.raised)
        raise InvalidInputError(
            f"conversation {state.id}: {len(waiting)} questions are open, say which: {listed}"
            if waiting
            else f"conversation {state.id}: no question is open",
            field="number",
        )
    question = state.questions.get(number)
    if question is None:
        raise InvalidInputError(
            f"number: there is no question {number} in {state.id}; open are "
            f"{', '.join(str(q.number) for q in waiting) or 'none'}",
            field="number",
            value=number,
        )
    if not question.open:
        raise ConflictError(f"question {number} of {state.id} is closed: {question.decision or question.broken}")
    return question
