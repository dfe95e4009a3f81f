"""Fences: what must still be so for a fact to be recorded. The server compares, and refuses what is stale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from motet_schemas import Subject
from motet_schemas.subjects import attempt_filter, conversation_filter

EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_FILTER: Final = "Nats-Expected-Last-Subject-Sequence-Subject"


@dataclass(frozen=True, slots=True)
class Fence:
    """The last sequence on `filter` must be `last`; 0 means that nothing is there yet.

    `filter` has no namespace; None stands for the fact's own subject.
    """

    last: int = 0
    filter: str | None = None


def conversation_fence(conversation: str, last: int) -> Fence:
    """Nothing was recorded in the conversation since the decision was made."""
    return Fence(last, conversation_filter(conversation))


def attempt_fence(subject: Subject, last: int) -> Fence:
    """The last event of the attempt (claim, renewal, outcome) is the one that is known."""
    return Fence(last, attempt_filter(subject.conversation, subject.step, subject.number))


def natural_fence(subject: Subject, cause: int | None = None) -> Fence:
    """Return the fence of a fact that is recorded once: its subject and its rivals must be empty.

    A plan answers its request, so there the last event must be the request: `cause`.
    """
    conversation, detail = subject.conversation, subject.detail
    match subject.kind:
        case "plan.created" | "plan.rejected":
            return Fence(cause or 0, f"plan.*.{conversation}.{detail[0]}")
        case "plan.requested":
            return Fence(0, f"plan.*.{conversation}.{detail[0]}")
        case "verify.passed" | "verify.failed":
            return Fence(0, f"verify.*.{conversation}.{detail[0]}.{detail[1]}")
        case "escalate.raised":
            return Fence(0, f"escalate.*.{conversation}.{detail[0]}")
        case "step.ready":
            return Fence(0, f"step.ready.{conversation}.{detail[0]}.{detail[1]}.*")
        case "step.claimed":
            return attempt_fence(subject, 0)
        case "task.submitted":
            return Fence(0, f"task.*.{conversation}.>")
        case _:
            return Fence(0)
