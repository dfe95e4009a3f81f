"""Every event by its subject's kind: `step.claimed` is `StepClaimed`, and its body is that contract's JSON."""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import Field

from motet_schemas.archive import Archive
from motet_schemas.base import Contract, Json
from motet_schemas.human import Escalation, HumanAnswer, Silence
from motet_schemas.letters import LetterAct, LetterNotice, LetterRetry
from motet_schemas.plan import Plan, PlanRefusal, PlanRequest
from motet_schemas.report import Report
from motet_schemas.task import CancelRequest, Task
from motet_schemas.timers import Timer
from motet_schemas.work import ClaimCheck, ExecutionRecord, Handoff, LostClaim, VerificationResult


class TaskSubmitted(Task):
    """A task was submitted."""

    KIND: ClassVar[str] = "task.submitted"


class TaskCompleted(Report):
    """The work was done and verified, whatever it says of its subject."""

    KIND: ClassVar[str] = "task.completed"


class TaskFailed(Report):
    """The work could not be done, or a human refused it."""

    KIND: ClassVar[str] = "task.failed"


class TaskCancelled(Report):
    """The work was stopped on request."""

    KIND: ClassVar[str] = "task.cancelled"


class TaskCancel(CancelRequest):
    """A request to stop."""

    KIND: ClassVar[str] = "task.cancel"


class TaskArchived(Archive):
    """What had been recorded of an ended conversation left the stream; the `task.…` facts stay."""

    KIND: ClassVar[str] = "task.archived"


class PlanRequested(PlanRequest):
    """A plan is wanted."""

    KIND: ClassVar[str] = "plan.requested"


class PlanCreated(Plan):
    """A plan was made."""

    KIND: ClassVar[str] = "plan.created"


class PlanRejected(PlanRefusal):
    """No valid plan could be made."""

    KIND: ClassVar[str] = "plan.rejected"


class StepReady(Handoff):
    """A step waits for somebody who can do it."""

    KIND: ClassVar[str] = "step.ready"


class StepClaimed(ClaimCheck):
    """Somebody works on the attempt, and nobody else does."""

    KIND: ClassVar[str] = "step.claimed"


class StepRenewed(ClaimCheck):
    """The owner is alive and still at it."""

    KIND: ClassVar[str] = "step.renewed"


class StepExecuted(ExecutionRecord):
    """The attempt ended with a record."""

    KIND: ClassVar[str] = "step.executed"


class StepExpired(LostClaim):
    """The attempt ended without one."""

    KIND: ClassVar[str] = "step.expired"


class VerifyPassed(VerificationResult):
    """Every gate holds."""

    KIND: ClassVar[str] = "verify.passed"


class VerifyFailed(VerificationResult):
    """A gate does not hold."""

    KIND: ClassVar[str] = "verify.failed"


class EscalateRaised(Escalation):
    """A human is asked."""

    KIND: ClassVar[str] = "escalate.raised"


class EscalateAnswered(HumanAnswer):
    """A human answered."""

    KIND: ClassVar[str] = "escalate.answered"


class EscalateTimedOut(Silence):
    """Nobody answered in time."""

    KIND: ClassVar[str] = "escalate.timed_out"


class LetterDead(LetterNotice):
    """A message of this conversation could not be handled."""

    KIND: ClassVar[str] = "letter.dead"


class LetterRetried(LetterRetry):
    """A dead letter goes to the consumer that had failed, and to no other."""

    KIND: ClassVar[str] = "letter.retried"


class LetterDiscarded(LetterAct):
    """A dead letter was given up."""

    KIND: ClassVar[str] = "letter.discarded"


class TimerSet(Timer):
    """A schedule."""

    KIND: ClassVar[str] = "timer.set"


class TimerFired(Timer):
    """Its tick."""

    KIND: ClassVar[str] = "timer.fired"


class Output(Contract):
    """One fact that a run decided to record."""

    subject: str = Field(max_length=500, description="Its subject, without namespace.")
    id: str = Field(pattern=r"^[!-~]{8,64}$", description="Its `ce-id`, fixed here, so that it is known again.")
    data: dict[str, Json] = Field(description="Its body.")
    version: int | None = Field(default=None, ge=1, description="The major version of its body; null is 1.")


class Handled(Contract):
    """What one run of a consumer decided, committed as one fact before any of it is emitted."""

    KIND: ClassVar[str] = "handled"

    outputs: tuple[Output, ...] = Field(
        default=(), max_length=2_000, description="In the order in which they are emitted."
    )


EventData = (
    TaskSubmitted
    | TaskCompleted
    | TaskFailed
    | TaskCancelled
    | TaskCancel
    | TaskArchived
    | PlanRequested
    | PlanCreated
    | PlanRejected
    | StepReady
    | StepClaimed
    | StepRenewed
    | StepExecuted
    | StepExpired
    | VerifyPassed
    | VerifyFailed
    | EscalateRaised
    | EscalateAnswered
    | EscalateTimedOut
    | LetterDead
    | LetterRetried
    | LetterDiscarded
    | TimerSet
    | TimerFired
    | Handled
)

EVENTS: Final[dict[str, type[EventData]]] = {
    event.KIND: event
    for event in (
        TaskSubmitted,
        TaskCompleted,
        TaskFailed,
        TaskCancelled,
        TaskCancel,
        TaskArchived,
        PlanRequested,
        PlanCreated,
        PlanRejected,
        StepReady,
        StepClaimed,
        StepRenewed,
        StepExecuted,
        StepExpired,
        VerifyPassed,
        VerifyFailed,
        EscalateRaised,
        EscalateAnswered,
        EscalateTimedOut,
        LetterDead,
        LetterRetried,
        LetterDiscarded,
        TimerSet,
        TimerFired,
        Handled,
    )
}
"""The contract of each kind of event."""
