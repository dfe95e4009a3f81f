"""What each role may say. The journal refuses the rest here; credentials enforce the same on the server."""

from __future__ import annotations

from typing import Final, Literal

from motet_schemas import NotAllowedError, Subject

Role = Literal[
    "orchestrator", "planner", "executor", "verifier", "desk", "client", "outsider", "specialist", "operator"
]

_WORK: Final = frozenset({"step.claimed", "step.renewed", "step.executed", "step.expired"})
_EVERY_AGENT: Final = frozenset({"letter.dead", "handled"})
_ASKING: Final = frozenset({"task.submitted", "task.cancel"})

GRANTS: Final[dict[Role, frozenset[str]]] = {
    "orchestrator": _EVERY_AGENT
    | {"plan.requested", "step.ready", "step.expired", "escalate.raised", "escalate.timed_out", "timer.set"}
    | {"task.completed", "task.failed", "task.cancelled"},
    "planner": _EVERY_AGENT | {"plan.created", "plan.rejected"},
    "executor": _EVERY_AGENT | _WORK,
    "verifier": _EVERY_AGENT | {"verify.passed", "verify.failed"},
    "specialist": _EVERY_AGENT | _WORK | _ASKING,
    "desk": frozenset({"escalate.answered"}),
    "client": _ASKING,
    "outsider": _ASKING,
    "operator": frozenset({"letter.retried", "letter.discarded", "task.cancel", "task.archived"}),
}
"""The kinds of events that each role may record."""


def check_grant(role: Role, subject: Subject) -> None:
    """Raise `NotAllowedError` when `role` may not record on `subject`."""
    if subject.kind not in GRANTS[role]:
        raise NotAllowedError(
            f"the role {role} may not record {subject.kind}; it may record {', '.join(sorted(GRANTS[role]))}"
        )
    if subject.kind == "handled" and subject.verb == "orchestrator" and role != "orchestrator":
        raise NotAllowedError(f"the role {role} may not record for the consumer orchestrator")
