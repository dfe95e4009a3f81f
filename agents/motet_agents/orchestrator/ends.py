"""The one end of a conversation, with a report that hides nothing."""

from __future__ import annotations

from motet_agents.orchestrator.report import make_report
from motet_schemas import Conversation, Fact, TaskCancelled, TaskCompleted, TaskFailed
from motet_schemas.subjects import build


def completed(state: Conversation) -> Fact:
    """The work was done and verified, whatever it says of its subject."""
    return Fact(
        build("task.completed", state.id, _kind(state)), TaskCompleted(**dict(make_report(state, ended="completed")))
    )


def failed(state: Conversation, reason: str) -> Fact:
    """The work could not be done, or a human refused it."""
    report = make_report(state, reason=reason, ended="failed")
    return Fact(build("task.failed", state.id, _kind(state)), TaskFailed(**dict(report)))


def cancelled(state: Conversation) -> Fact:
    """The work was stopped on request."""
    request = state.cancel
    by, why = (request.requested_by, request.reason) if request else ("unknown", "")
    report = make_report(state, reason=f"cancelled by {by}" + (f": {why}" if why else ""), ended="cancelled")
    return Fact(build("task.cancelled", state.id, _kind(state)), TaskCancelled(**dict(report)))


def _kind(state: Conversation) -> str:
    return state.task.kind if state.task else "unreadable"
