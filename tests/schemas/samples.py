"""Contracts to test with, and `Story`, which records them on the wire as the bus would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from motet_schemas import (
    Budget,
    Contract,
    Conversation,
    EscalateAnswered,
    EscalateRaised,
    EscalateTimedOut,
    Event,
    EventData,
    Evidence,
    Fact,
    Failure,
    Finding,
    GateResult,
    Handled,
    LetterDead,
    LetterDiscarded,
    LetterRetried,
    Manifest,
    PlanCreated,
    PlanRejected,
    PlanRequested,
    PlanStep,
    Policy,
    Reference,
    Remaining,
    StepClaimed,
    StepExecuted,
    StepExpired,
    StepReady,
    StepRenewed,
    TaskArchived,
    TaskCancel,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskSubmitted,
    TimerFired,
    TimerSet,
    TotalUsage,
    Usage,
    VerifyFailed,
    VerifyPassed,
    decode,
    encode,
    fold_all,
    subjects,
)
from motet_schemas.plan import CheckGate, CommandGate, JudgeGate, LexiconGate, SchemaGate

START: Final = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
SHA: Final = "ab" * 32


def step(name: str = "tone", *after: str, **fields: Any) -> PlanStep:
    """A step that waits for the steps `after`."""
    given: dict[str, Any] = {
        "capability": "qa",
        "goal": f"do {name}",
        "manifest": Manifest(objective=f"{name} is done"),
    }
    return PlanStep(id=name, depends_on=after, **(given | fields))


def plan(*steps: PlanStep, policy: dict[str, Any] | None = None, **budget: Any) -> PlanCreated:
    """A plan of these steps, with parts of policy and budget set; the sums of the steps must fit."""
    return PlanCreated(
        steps=steps or (step(),),
        budget=Budget(**({"max_attempts": 10, "time_budget_s": 900} | budget)),
        policy=Policy(**(policy or {})),
        model="rule-based",
    )


def ready(of: PlanStep, attempt: int = 1) -> StepReady:
    """A handoff of `of`."""
    left = Remaining(attempts=3, tokens=1_000, time_s=60.0)
    return StepReady(step=of, plan_revision=1, remaining=left, idempotency_key=f"c/{of.id}/{attempt}")


def record(**fields: Any) -> StepExecuted:
    """A passed record of a run that cost nothing."""
    given: dict[str, Any] = {
        "status": "passed",
        "confidence": 0.9,
        "notes": "done",
        "tokens_in": 0,
        "tokens_out": 0,
        "cost_usd": 0.0,
        "elapsed_ms": 10,
        "executor": "worker-1",
        "idempotency_key": "c/tone/1",
    }
    return StepExecuted(**(given | fields))


def claim(nonce: str = "nonce-1-of-run", *, owner: str = "worker-1", ttl_s: float = 30.0) -> StepClaimed:
    """A claim check."""
    return StepClaimed(owner=owner, nonce=nonce, ttl_s=ttl_s, attempt=1)


def passed(verifier: str = "verifier-1", **fields: Any) -> VerifyPassed:
    """A verification with one gate that holds."""
    return VerifyPassed(verdict="passed", gates=(GateResult(name="g", passed=True),), verifier=verifier, **fields)


def refused(*evidence: str, verifier: str = "verifier-1") -> VerifyFailed:
    """A verification with one gate that does not hold."""
    gate = GateResult(name="qa.quotes", passed=False, evidence=evidence)
    return VerifyFailed(verdict="failed", gates=(gate,), verifier=verifier)


def failure(**fields: Any) -> Failure:
    """An error that trying again may cure."""
    given: dict[str, Any] = {"code": "transient", "message": "it broke", "retryable": True}
    return Failure(**(given | fields))


def raised(reason: str = "low_confidence", **fields: Any) -> EscalateRaised:
    """A question about the first attempt at `tone`, due in an hour."""
    given: dict[str, Any] = {
        "reason": reason,
        "step": "tone",
        "attempt": 1,
        "question": "good enough?",
        "allowed_answers": ("approve", "revise", "reject", "take_over"),
        "due_at": START + timedelta(hours=1),
        "on_timeout": "reject",
    }
    return EscalateRaised(**(given | fields))


def answer(decision: str, **fields: Any) -> EscalateAnswered:
    """A human's answer."""
    extra: dict[str, Any] = {"revise": {"instructions": "be kinder"}, "take_over": {"result": {"by": "hand"}}}
    return EscalateAnswered(**({"decision": decision, "answered_by": "ann"} | extra.get(decision, {}) | fields))


def notice(subject: str, *, consumer: str = "learn", sequence: int = 5, code: str = "exception") -> LetterDead:
    """A dead letter's notice."""
    broken = Failure(code=code, message="it broke")
    return LetterDead(consumer=consumer, subject=subject, sequence=sequence, deliveries=5, failure=broken)


def report(kind: type[TaskCompleted] | type[TaskFailed] | type[TaskCancelled] = TaskCompleted) -> EventData:
    """An end."""
    usage = TotalUsage(tokens=None, cost_usd=None, attempts=1, elapsed_ms=5)
    return kind(verdict="approved", summary="fine", usage=usage)


def _rich_manifest() -> Manifest:
    return Manifest(
        objective="quotes stand where they are said to stand",
        inputs={"draft": "text", "nothing": None, "nested": {"also": None, "list": [None, 1, 1.5, True, "é"]}},
        references={"big": Reference(name=SHA, sha256=SHA, size_bytes=9_000, media_type="text/markdown")},
        allowed_paths=("drafts/a.md",),
        allowed_tools=("http",),
        constraints=("no network",),
        verification=(
            CommandGate(argv=("true",)),
            SchemaGate(output_schema={"type": "object", "default": None}),
            LexiconGate(required=("Terms apply",)),
            JudgeGate(rubric="kind?"),
            CheckGate(check="qa.quotes"),
        ),
        handoff_notes=("mind the gap",),
    )


def _rich_record() -> StepExecuted:
    place = Finding(step="tone", rule="tone.banned", severity="error", message="no", quote="wow", start=3, end=6)
    missing = Finding(step="tone", rule="compliance.required", severity="warning", message="missing")
    return record(
        evidence=(Evidence(type="quote", content="wow"),),
        findings=(place, missing),
        output={"links": [], "none": None, "deep": [{"x": None}]},
        files_changed=("a.md",),
        commands_run=("make",),
        risks=("it may rain",),
        failure=failure(retry_after_s=2.5),
        next_action="revise",
        model="rule-based",
        tokens_in=None,
        cost_usd=None,
    )


RICH: Final = step("tone", manifest=_rich_manifest(), max_attempts=3, min_confidence=0.5, time_budget_s=30)


def archived(first_seq: int = 1, last_seq: int = 9, **fields: Any) -> TaskArchived:
    """What says that these facts are kept elsewhere."""
    reference = Reference(name=SHA, sha256=SHA, size_bytes=100, media_type="application/gzip")
    return TaskArchived(by="ann", first_seq=first_seq, last_seq=last_seq, count=5, reference=reference, **fields)


SAMPLES: Final[dict[str, tuple[tuple[str | int, ...], EventData]]] = {
    "task.submitted": (
        ("content-qa",),
        TaskSubmitted(
            kind="content-qa",
            input={"text": "hi", "none": None, "deep": {"x": None}},
            checklist={"tone": None},
            due=START,
        ),
    ),
    "task.completed": (("content-qa",), report()),
    "task.failed": (("content-qa",), report(TaskFailed)),
    "task.cancelled": (("content-qa",), report(TaskCancelled)),
    "task.cancel": (("ann",), TaskCancel(reason="enough", requested_by="ann")),
    "task.archived": ((1,), archived()),
    "plan.requested": ((1,), PlanRequested(reason="a first plan", found=("x",), keep=(RICH,))),
    "plan.created": ((1,), plan(RICH, step("links", "tone"))),
    "plan.rejected": ((1,), PlanRejected(reason="unknown kind", usage=Usage(tokens_in=3))),
    "step.ready": (("tone", 1, "qa"), ready(RICH)),
    "step.claimed": (("tone", 1), claim()),
    "step.renewed": (("tone", 1), StepRenewed(**dict(claim()))),
    "step.executed": (("tone", 1), _rich_record()),
    "step.expired": (("tone", 1), StepExpired(owner="worker-1", nonce="nonce-1-of-run", reason="ttl")),
    "verify.passed": (("tone", 1), passed(usage=Usage())),
    "verify.failed": (("tone", 1), refused("no such quote")),
    "escalate.raised": ((1,), raised()),
    "escalate.answered": ((1,), answer("take_over", result={"none": None})),
    "escalate.timed_out": ((1,), EscalateTimedOut(decision="reject", due_at=START)),
    "letter.dead": (("learn", 5), notice("step.executed.c.tone.1")),
    "letter.retried": (
        ("learn", 5),
        LetterRetried(by="ann", reason="fixed", message=4, tries=5, first_failed_at=START),
    ),
    "letter.discarded": (("learn", 5), LetterDiscarded(by="ann")),
    "timer.set": (("backoff", "tone", 1), TimerSet(at=START, why="rest")),
    "timer.fired": (("backoff", "tone", 1), TimerFired(at=START)),
}
"""One rich example of every kind, with the details of its subject."""


class Story:
    """A conversation as it is recorded: every fact goes through the wire format, at a time of its own."""

    def __init__(self, conversation: str = "c", kind: str = "content-qa") -> None:
        self.conversation = conversation
        self.kind = kind
        self.now = START
        self.events: list[Event] = []

    @property
    def state(self) -> Conversation:
        """What the events amount to."""
        return fold_all(self.conversation, self.events)

    def add(self, kind: str, *detail: str | int, data: Contract | bytes, after_s: float = 1.0) -> Story:
        """Record one fact, `after_s` seconds after the one before."""
        return self.put(subjects.build(kind, self.conversation, *detail), data, after_s=after_s)

    def put(self, subject: subjects.Subject, data: Contract | bytes, *, after_s: float = 1.0) -> Story:
        """Record one fact on a subject that is built already."""
        self.now += timedelta(seconds=after_s)
        if isinstance(data, bytes):
            headers, body = dict[str, str](), data
        else:
            headers, body = encode(Fact(subject, data), source="/agents/test/1", time=self.now)  # type: ignore[arg-type]
        self.events.append(decode(subject, headers, body, seq=len(self.events) + 1, time=self.now))
        return self

    def decided(self, *facts: Fact, after_s: float = 1.0) -> Story:
        """Record facts as one decision of an orchestrator, without emitting them."""
        subject = subjects.handled("orchestrator", self.conversation, max(1, len(self.events)))
        return self.put(subject, Handled(outputs=tuple(fact.to_output() for fact in facts)), after_s=after_s)

    def submitted(self, **fields: Any) -> Story:
        """The task."""
        return self.add("task.submitted", self.kind, data=TaskSubmitted(kind=self.kind, **fields))

    def planned(self, made: PlanCreated, revision: int = 1) -> Story:
        """A plan that was asked for and made."""
        self.add("plan.requested", revision, data=PlanRequested(reason="why not"))
        return self.add("plan.created", revision, data=made)

    def opened(self, of: PlanStep, attempt: int = 1) -> Story:
        """An attempt that is handed over."""
        return self.add("step.ready", of.id, attempt, of.capability, data=ready(of, attempt))

    def claimed(self, of: PlanStep, attempt: int = 1, **fields: Any) -> Story:
        """A claim on it."""
        return self.add("step.claimed", of.id, attempt, data=claim(**fields))

    def executed(self, of: PlanStep, attempt: int = 1, after_s: float = 1.0, **fields: Any) -> Story:
        """Its record."""
        return self.add("step.executed", of.id, attempt, data=record(**fields), after_s=after_s)

    def lost(self, of: PlanStep, attempt: int = 1) -> Story:
        """Its claim was lost."""
        return self.add("step.expired", of.id, attempt, data=StepExpired(owner="worker-1", reason="ttl"))

    def verified(self, of: PlanStep, attempt: int = 1) -> Story:
        """Its record was verified."""
        return self.add("verify.passed", of.id, attempt, data=passed())

    def done(self, of: PlanStep, attempt: int = 1, **fields: Any) -> Story:
        """Opened, executed and verified."""
        return self.opened(of, attempt).executed(of, attempt, **fields).verified(of, attempt)
