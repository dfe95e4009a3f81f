"""What the fold makes of a fact in a major version that this Motet cannot read: no rubbish, and not to be judged."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from motet_schemas.conversation import Conversation, Ending
from motet_schemas.envelope import NewerVersion
from motet_schemas.errors import NewerVersionError
from motet_schemas.letters import LetterNotice
from motet_schemas.report import Report, TotalUsage
from motet_schemas.subjects import Subject

CODE: Final = NewerVersionError.code
"""The code of the failure with which such a fact goes to the dead letters."""


def noted(state: Conversation, subject: Subject, data: NewerVersion) -> Conversation:
    """Return the conversation with the fact among what nobody here may judge, if somebody may find it decisive."""
    if not _weighs(state, subject):
        return state
    return state.evolve(newer={**state.newer, str(subject): data.reason})


def ended(state: Conversation, subject: Subject, data: NewerVersion, now: datetime) -> Ending:
    """Return an end whose report cannot be read: that it is one, and which, its subject says."""
    started = state.submitted_at or now
    elapsed_ms = max(0, round((now - started).total_seconds() * 1000))
    report = Report(
        verdict="needs_human",
        summary=f"The conversation has ended ({subject.verb}), but its report cannot be read here: {data.reason}.",
        reason=data.reason,
        usage=TotalUsage(attempts=0, elapsed_ms=elapsed_ms),
    )
    return Ending(status=subject.verb, report=report, at=now)


def carried_on(state: Conversation, letter: str | None) -> Conversation:
    """Return the conversation after a human accepted a dead letter: what cannot be read counts as rubbish then."""
    known = state.letters.get(letter) if letter is not None else None
    if known is None or known.notice is None or not is_newer(known.notice):
        return state
    return state.evolve(newer={})


def is_newer(notice: LetterNotice) -> bool:
    """Say whether a message went to the dead letters because of its version."""
    return notice.failure.code == CODE


def _weighs(state: Conversation, subject: Subject) -> bool:
    """Say whether the fact is in turn. Claims, lost claims, cancellations and timers say enough by their subjects."""
    if subject.kind == "task.submitted":
        return state.task is None and not state.unreadable_task
    if subject.kind == "step.ready":
        return subject.number == state.next_attempt(subject.step)
    if subject.kind in ("step.executed", "verify.passed", "verify.failed"):
        attempt = state.attempt(subject.step, subject.number)
        if attempt is None or not attempt.opened:
            return False
        return not attempt.ended if subject.family == "step" else attempt.verification is None
    if subject.kind == "plan.requested":
        return subject.number == state.next_revision()
    if subject.family == "plan":
        revision = state.revisions.get(subject.number)
        return revision is not None and not revision.answered
    if subject.kind == "escalate.raised":
        return subject.number == state.next_question()
    if subject.family == "escalate":
        question = state.questions.get(subject.number)
        return question is not None and question.open
    return False
