"""Hand-made histories: facts as a real run records them, folded into conversations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from motet_agents.orchestrator import make_report
from motet_schemas import (
    Budget,
    Conversation,
    EscalateRaised,
    Event,
    EventData,
    Finding,
    GateResult,
    Handoff,
    Manifest,
    PlanCreated,
    PlanRequested,
    PlanStep,
    Remaining,
    StepClaimed,
    StepExecuted,
    StepReady,
    TaskCompleted,
    TaskSubmitted,
    VerifyPassed,
    fold_all,
)
from motet_schemas.human import Reason
from motet_schemas.subjects import Subject, build

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
DRAFT = "# Tea\n\nA risk-free offer.\n"
QUOTE = Finding(
    step="compliance",
    rule="compliance.forbidden",
    severity="error",
    message='"risk-free" is forbidden; take it out',
    quote="risk-free",
    start=DRAFT.index("risk-free"),
    end=DRAFT.index("risk-free") + len("risk-free"),
)
MISSING = Finding(
    step="compliance", rule="compliance.required", severity="error", message='"Terms apply" is required'
)  # fmt: skip
TONE = PlanStep(id="tone", capability="tone", goal="Check the tone", manifest=Manifest(objective="tone is checked"))
COMPLIANCE = PlanStep(
    id="compliance", capability="compliance", goal="Check phrases", manifest=Manifest(objective="phrases are checked")
)


class Recorded:
    """A conversation that grows fact by fact; every fact is stored a second after the one before."""

    def __init__(self, conversation: str = "launch") -> None:
        self.id = conversation
        self.events: list[Event] = []

    @property
    def state(self) -> Conversation:
        """What the facts amount to."""
        return fold_all(self.id, self.events)

    def record(self, kind: str, *detail: str | int, data: EventData, source: str = "/agents/test/1") -> Recorded:
        """Append one fact."""
        return self.store(build(kind, self.id, *detail), data, source)

    def store(self, subject: Subject, data: EventData, source: str = "/agents/test/1") -> Recorded:
        """Append one fact under a subject that is built already."""
        seq = len(self.events) + 1
        time = START + timedelta(seconds=seq)
        self.events.append(Event(subject, data, seq, time, f"id-{seq:08}", source, cause=seq - 1 or None))
        return self

    def submitted(self) -> Recorded:
        """A task was submitted."""
        task = TaskSubmitted(kind="content-qa", input={"draft": DRAFT, "media_type": "text/markdown"}, owner="brand")
        return self.record("task.submitted", "content-qa", data=task)

    def planned(self, *steps: PlanStep) -> Recorded:
        """A plan was asked for and made."""
        self.record("plan.requested", 1, data=PlanRequested(reason="a first plan"))
        plan = PlanCreated(steps=steps or (TONE, COMPLIANCE), budget=Budget(), planner="planner-1", model="rule-based")
        return self.record("plan.created", 1, data=plan)

    def ready(self, step: PlanStep, attempt: int = 1) -> Recorded:
        """An attempt was opened."""
        remaining = Remaining(attempts=4, tokens=6000, time_s=200.0)
        handoff = Handoff(step=step, plan_revision=1, remaining=remaining, idempotency_key=f"{self.id}/{step.id}/1")
        return self.record("step.ready", step.id, attempt, step.capability, data=StepReady(**dict(handoff)))

    def claimed(self, step: PlanStep, attempt: int = 1, owner: str = "executor-1") -> Recorded:
        """It was claimed."""
        claim = StepClaimed(owner=owner, nonce="n" * 16, ttl_s=30, attempt=attempt)
        return self.record("step.claimed", step.id, attempt, data=claim)

    def executed(
        self,
        step: PlanStep,
        attempt: int = 1,
        *,
        confidence: float | None = 0.99,
        findings: tuple[Finding, ...] = (),
        tokens: int | None = 0,
    ) -> Recorded:
        """It was executed."""
        record = StepExecuted(
            status="passed",
            confidence=confidence,
            notes="done",
            findings=findings,
            tokens_in=tokens,
            tokens_out=tokens,
            cost_usd=None if tokens is None else 0.0,
            elapsed_ms=120,
            model="rule-based",
            executor="executor-1",
            idempotency_key=f"{self.id}/{step.id}/1",
        )
        return self.record("step.executed", step.id, attempt, data=record)

    def verified(self, step: PlanStep, attempt: int = 1) -> Recorded:
        """It was verified."""
        result = VerifyPassed(verdict="passed", verifier="verifier-1", gates=(GateResult(name="g", passed=True),))
        return self.record("verify.passed", step.id, attempt, data=result)

    def done(self, step: PlanStep, **outcome: object) -> Recorded:
        """A step went through from end to end."""
        self.ready(step).claimed(step).executed(step, **outcome)  # type: ignore[arg-type]
        return self.verified(step)

    def asked(self, number: int = 1, step: str | None = "compliance", reason: Reason = "low_confidence") -> Recorded:
        """A human was asked."""
        raised = EscalateRaised(
            reason=reason,
            step=step,
            attempt=1 if step else None,
            question="Is it good enough?",
            proposal="approve: accept it as it is",
            allowed_answers=("approve", "revise", "reject", "take_over"),
            asked="brand",
            due_at=START + timedelta(days=1),
            on_timeout="reject",
        )
        return self.record("escalate.raised", number, data=raised)

    def completed(self) -> Recorded:
        """The end."""
        return self.record("task.completed", "content-qa", data=TaskCompleted(**dict(make_report(self.state))))


def clean() -> Recorded:
    """Everything passed, nothing was found."""
    return Recorded().submitted().planned().done(TONE).done(COMPLIANCE).completed()


def flawed() -> Recorded:
    """Everything passed, and two things were found."""
    return Recorded().submitted().planned().done(TONE).done(COMPLIANCE, findings=(MISSING, QUOTE)).completed()


def ambiguous() -> Recorded:
    """One step is not sure enough, and a human is asked."""
    return Recorded().submitted().planned().done(TONE).done(COMPLIANCE, confidence=0.6).asked()
