"""What has happened in one conversation, as everybody reads it.

`Conversation` is what `fold` makes of the recorded events: frozen, and nothing but data.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Self

from motet_schemas.budget import Usage
from motet_schemas.events import (
    EscalateAnswered,
    EscalateRaised,
    EscalateTimedOut,
    LetterDead,
    Output,
    PlanCreated,
    PlanRequested,
    StepExecuted,
    StepExpired,
    StepReady,
    TaskCancel,
    TaskSubmitted,
)
from motet_schemas.letters import LetterAct
from motet_schemas.report import Report
from motet_schemas.work import VerificationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who works on an attempt, and until when that is believed (by the server's clock)."""

    owner: str
    nonce: str
    live_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one step. It was opened when `ready` is there; anything else without it is an outsider's."""

    step: str
    number: int
    capability: str = ""
    opened: bool = False
    ready: StepReady | None = None
    claim: Claim | None = None
    record: StepExecuted | None = None
    ended_at: datetime | None = None
    lost: StepExpired | None = None
    verification: VerificationResult | None = None
    letter: LetterDead | None = None
    retried: bool = False
    """Whether an operator had the handoff of this attempt, then the last at its step, handled again."""
    unreadable: str = ""
    """Why an outcome of this attempt did not parse; such an attempt has failed."""

    @property
    def ended(self) -> bool:
        """Whether no claim can be live any more."""
        return self.record is not None or self.lost is not None or bool(self.unreadable)

    @property
    def wanted_again(self) -> bool:
        """Whether an operator retried what broke for good: then another attempt is due."""
        return self.retried and self.record is not None and self.record.failure is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One plan revision: asked for, then created or refused."""

    requested: PlanRequested | None = None
    plan: PlanCreated | None = None
    refusal: str = ""
    refusal_usage: Usage | None = None
    letter: LetterDead | None = None

    @property
    def answered(self) -> bool:
        """Whether the planner, or whoever broke its answer, has spoken."""
        return self.plan is not None or bool(self.refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One escalation and what came of it."""

    number: int
    raised: EscalateRaised | None
    raised_at: datetime
    answer: EscalateAnswered | EscalateTimedOut | None = None
    answered_at: datetime | None = None
    broken: str = ""
    """Why its answer or the question itself does not count; it is closed, and must be asked anew."""

    @property
    def open(self) -> bool:
        """Whether somebody may still answer."""
        return self.raised is not None and self.answer is None and not self.broken

    @property
    def decision(self) -> str | None:
        """approve, revise, reject or take_over, once decided."""
        return self.answer.decision if self.answer is not None and not self.broken else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One timer: when, and whether it has fired."""

    at: datetime | None
    fired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter of the conversation and where it stands."""

    notice: LetterDead | None
    status: str = "dead"
    act: LetterAct | None = None
    """Who retried or discarded it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The one end: `completed`, `failed` or `cancelled`."""

    status: str
    report: Report
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that is recorded of one conversation, up to the stream sequence `last_seq`.

    `now` is the stored time of the newest event. `pending` holds what an orchestrator's record lists as decided and
    nobody has emitted yet, by subject; what is decided counts, emitted or not.
    """

    id: str
    last_seq: int = 0
    now: datetime | None = None
    task: TaskSubmitted | None = None
    submitted_at: datetime | None = None
    unreadable_task: str = ""
    revisions: dict[int, Revision] = field(default_factory=dict[int, Revision])
    attempts: dict[str, tuple[Attempt, ...]] = field(default_factory=dict[str, tuple[Attempt, ...]])
    questions: dict[int, Question] = field(default_factory=dict[int, Question])
    letters: dict[str, Letter] = field(default_factory=dict[str, Letter])
    alarms: dict[str, Alarm] = field(default_factory=dict[str, Alarm])
    cancel: TaskCancel | None = None
    ending: Ending | None = None
    pending: dict[str, tuple[Output, int]] = field(default_factory=dict[str, tuple[Output, int]])
    newer: dict[str, str] = field(default_factory=dict[str, str])
    """Facts in a major version that this Motet cannot read, by subject, and why: with any, it must decide nothing."""
    waited: timedelta = timedelta()
    waiting_since: datetime | None = None

    @property
    def plan(self) -> PlanCreated | None:
        """The newest plan that was created."""
        made = [number for number, revision in self.revisions.items() if revision.plan is not None]
        return self.revisions[max(made)].plan if made else None

    @property
    def plan_revision(self) -> int:
        """The number of the newest plan that was created; 0 without one."""
        return max((number for number, revision in self.revisions.items() if revision.plan is not None), default=0)

    def opened(self, step: str) -> tuple[Attempt, ...]:
        """Return the attempts at `step` that an orchestrator opened, oldest first."""
        return tuple(attempt for attempt in self.attempts.get(step, ()) if attempt.opened)

    def attempt(self, step: str, number: int) -> Attempt | None:
        """Return one attempt, or None."""
        return next((attempt for attempt in self.attempts.get(step, ()) if attempt.number == number), None)

    def next_attempt(self, step: str) -> int:
        """Return the number of the next attempt at `step`: the first that nobody, outsiders included, has used."""
        return _first_free({attempt.number for attempt in self.attempts.get(step, ())})

    def next_question(self) -> int:
        """Return the number of the next question: the first that nobody has used."""
        return _first_free(self.questions)

    def next_revision(self) -> int:
        """Return the number of the next revision of the plan: the first that nobody has used."""
        return _first_free(self.revisions)

    def evolve(self, **changes: object) -> Self:
        """Return a copy with `changes`."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _first_free(used: Container[int]) -> int:
    return next(number for number in count(1) if number not in used)
