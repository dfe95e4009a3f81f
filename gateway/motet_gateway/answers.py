"""Says how to answer a question: the very command to type."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from motet_schemas.standing import open_questions

if TYPE_CHECKING:
    from motet_gateway.invocation import Invocation
    from motet_schemas import Conversation, Question

_FLAGS: Final = {
    "approve": "--approve",
    "revise": "--revise 'TEXT'",
    "reject": "--reject",
    "take_over": "--take-over FILE",
}


def how_to_answer(invocation: Invocation, state: Conversation) -> list[str]:
    """Return, for each open question of `state`, the command that answers it, with its alternatives."""
    questions = open_questions(state)
    return [line for question in questions for line in answer_lines(invocation, state.id, question, len(questions))]


def answer_lines(invocation: Invocation, conversation: str, question: Question, of: int) -> list[str]:
    """Return how to answer one question; `of` is how many are open in its conversation."""
    if question.raised is None:
        return []
    number = f" --number {question.number}" if of > 1 else ""
    first, *others = [_FLAGS[decision] for decision in question.raised.allowed_answers]
    lines = [f"answer with: motet answer {conversation}{number} {first} --wait{_place(invocation)}"]
    return [*lines, f"         or: {', '.join(others)}"] if others else lines


def _place(invocation: Invocation) -> str:
    """Return the flags by which the same bus is found again; environment and `motet.yaml` will hold then, too."""
    named = {"store": "--store", "namespace": "--namespace", "nats_url": "--nats-url"}
    given = {flag: invocation.flags.get(name) for name, flag in named.items()}
    return "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in given.items() if value)
