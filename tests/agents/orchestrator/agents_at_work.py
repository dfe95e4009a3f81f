"""The agents that an orchestrator meets: planner, workers and verifier, human and operator, and an outsider."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from motet_bus.fences import Fence, attempt_fence
from motet_schemas import (
    Attempt,
    ConflictError,
    Event,
    EventData,
    Fact,
    Failure,
    LetterDead,
    LetterDiscarded,
    LetterRetried,
    PlanRejected,
    Policy,
    StepExecuted,
    StepExpired,
    StepReady,
    StepRenewed,
    TaskCancel,
    Unreadable,
    fold_all,
)
from motet_schemas.standing import open_questions
from motet_schemas.subjects import attempt_filter, build
from tests.agents.orchestrator.made_up import make_plan, rubbish
from tests.agents.orchestrator.memory_stream import MemoryStream, Stored
from tests.schemas.samples import answer, claim, passed, record, refused


@dataclass
class Run:
    """A worker at work on an attempt that it has claimed."""

    ready: Event
    nonce: str
    last_seq: int


class Agents:
    """Everybody but the orchestrator, with the queues from which the server delivers to them until they ack."""

    def __init__(self, stream: MemoryStream, policy: Policy, *, ttl_s: float = 30.0) -> None:
        self.stream = stream
        self.policy = policy
        self.ttl_s = ttl_s
        self.runs: list[Run] = []
        self.queues: dict[str, list[Event]] = {"planner": [], "worker": [], "verifier": []}
        self._nonces = 0
        stream.listeners.append(self._deliver)

    def _deliver(self, stored: Stored) -> None:
        event = stored.event
        if event.kind == "plan.requested":
            self.queues["planner"].append(event)
        elif event.kind == "step.ready" and event.subject.detail[2] == "qa":
            self.queues["worker"].append(event)
        elif event.kind == "step.executed":
            self.queues["verifier"].append(event)

    def _say(self, kind: str, *detail: str | int, data: EventData, by: str, **fences: Any) -> bool:
        try:
            self.stream.append(Fact(build(kind, self.stream.conversation, *detail), data), by=by, **fences)
        except ConflictError:
            return False
        return True

    def bury(self, event: Event, consumer: str, *, code: str = "unreadable") -> None:
        """Put a message to the dead letters and tell the conversation."""
        if event.subject.family == "letter":
            return
        failure = Failure(code=code, message="it cannot be handled")
        notice = LetterDead(
            consumer=consumer, subject=str(event.subject), sequence=event.seq, deliveries=1, failure=failure
        )
        self._say("letter.dead", consumer, event.seq, data=notice, by=consumer)

    def _take(self, queue: str, rng: Random) -> Event | None:
        waiting = self.queues[queue]
        return rng.choice(waiting[:3]) if waiting else None

    def _ack(self, queue: str, event: Event) -> None:
        if event in self.queues[queue]:
            self.queues[queue].remove(event)

    def plan(self, rng: Random, *, fair: bool = False) -> None:
        """Answer one request for a plan, perhaps with a refusal."""
        event = self._take("planner", rng)
        if event is None:
            return
        if isinstance(event.data, Unreadable):
            self.bury(event, "planner")
        elif not fair and rng.random() < 0.1:
            self.bury(event, "planner", code="exception")
        elif rng.random() < 0.2:
            refusal = PlanRejected(reason="no valid plan")
            self._say("plan.rejected", event.subject.number, data=refusal, by="planner", cause=event.seq)
        else:
            made = make_plan(self.stream, self.policy, event.subject.number, rng)
            self._say("plan.created", event.subject.number, data=made, by="planner", cause=event.seq)
        self._ack("planner", event)

    def work(self, rng: Random) -> None:
        """Take one step that was handed over: claim it, or deal with whoever has it."""
        event = self._take("worker", rng)
        if event is None:
            return
        if not isinstance(event.data, StepReady):
            self.bury(event, "step-qa")
            self._ack("worker", event)
            return
        if self.stream.load().ending is not None:
            self._ack("worker", event)
            return
        self._nonces += 1
        nonce = f"nonce-{self._nonces:06}"
        detail = event.subject.detail[:2]
        if self._say("step.claimed", *detail, data=claim(nonce, ttl_s=self.ttl_s), by="worker", cause=event.seq):
            last = self.stream.last(attempt_filter(self.stream.conversation, event.subject.step, event.subject.number))
            self.runs.append(Run(event, nonce, last))
        else:
            self._yield_to_owner(event)

    def _attempt_events(self, event: Event) -> list[Event]:
        return self.stream.read(attempt_filter(self.stream.conversation, event.subject.step, event.subject.number))

    def _yield_to_owner(self, event: Event) -> None:
        events = self._attempt_events(event)
        attempt = self._attempt(event)
        if attempt is not None and attempt.ended:
            self._ack("worker", event)
        elif events and (attempt is None or attempt.claim is None or attempt.claim.live_until <= self.stream.now):
            lost = StepExpired(owner="worker-1", reason="ttl")
            fence = attempt_fence(event.subject, events[-1].seq)
            if self._say("step.expired", *event.subject.detail[:2], data=lost, by="worker", fence=fence):
                self._ack("worker", event)

    def is_held(self, event: Event) -> bool:
        """Say whether somebody's claim on the step is live, as workers see it."""
        attempt = self._attempt(event)
        live = attempt is not None and attempt.claim is not None and attempt.claim.live_until > self.stream.now
        return live and attempt is not None and not attempt.ended

    def _attempt(self, event: Event) -> Attempt | None:
        events = self._attempt_events(event)
        return fold_all(self.stream.conversation, events).attempt(event.subject.step, event.subject.number)

    def _held(self, run: Run, kind: str, data: EventData) -> bool:
        """Append to the attempt that `run` holds, going on behind what outsiders wrote; False when it is over."""
        for _ in range(5):
            if self._say(
                kind,
                *run.ready.subject.detail[:2],
                data=data,
                by="worker",
                fence=attempt_fence(run.ready.subject, run.last_seq),
            ):
                run.last_seq = self._attempt_events(run.ready)[-1].seq
                return True
            events = self._attempt_events(run.ready)
            attempt = fold_all(self.stream.conversation, events).attempt(
                run.ready.subject.step, run.ready.subject.number
            )
            if attempt is None or attempt.ended or attempt.claim is None or attempt.claim.nonce != run.nonce:
                return False
            run.last_seq = events[-1].seq
        return False

    def renew(self, rng: Random) -> None:
        """Keep one claim alive; a run whose claim was taken stops."""
        if self.runs:
            run = rng.choice(self.runs)
            if not self._held(run, "step.renewed", StepRenewed(**dict(claim(run.nonce, ttl_s=self.ttl_s)))):
                self.runs.remove(run)

    def die(self, rng: Random) -> None:
        """One worker is killed, or gives its claim back."""
        if self.runs:
            run = rng.choice(self.runs)
            self.runs.remove(run)
            if rng.random() < 0.3:
                self._held(run, "step.expired", StepExpired(owner="worker-1", nonce=run.nonce, reason="released"))

    def finish(self, rng: Random, *, fair: bool = False) -> None:
        """One run ends with a record; it counts only when the claim still stands."""
        if not self.runs:
            return
        run = rng.choice(self.runs)
        self.runs.remove(run)
        data = record() if fair else self._outcome(rng)
        if data.failure is not None and not data.failure.retryable:
            self.bury(run.ready, "step-qa", code="permanent")
        self._held(run, "step.executed", data)
        self._ack("worker", run.ready)

    def _outcome(self, rng: Random) -> StepExecuted:
        usage = {"tokens_in": rng.choice([0, 500, None]), "cost_usd": rng.choice([0.0, 0.1, None])}
        status = rng.choice(["passed", "passed", "passed", "failed", "blocked"])
        broke = Failure(code="x", message="m", retryable=rng.random() < 0.7, retry_after_s=rng.choice([None, 5.0]))
        return record(
            status=status,
            confidence=rng.choice([None, 0.2, 0.9, 0.9]),
            next_action=rng.choice(["continue", "continue", "revise", "escalate"]),
            failure=broke if status == "failed" and rng.random() < 0.5 else None,
            **usage,
        )

    def verify(self, rng: Random, *, fair: bool = False) -> None:
        """Verify one record."""
        event = self._take("verifier", rng)
        if event is None:
            return
        data, detail = event.data, event.subject.detail
        attempt = self.stream.load().attempt(event.subject.step, event.subject.number)
        if isinstance(data, Unreadable):
            self.bury(event, "verifier")
        elif isinstance(data, StepExecuted) and data.status == "passed":
            if attempt is None or attempt.ready is None or (not fair and rng.random() < 0.05):
                self.bury(event, "verifier", code="permanent")
            elif fair or rng.random() < 0.8:
                self._say("verify.passed", *detail, data=passed(), by="verifier")
            else:
                self._say("verify.failed", *detail, data=refused("no"), by="verifier")
        self._ack("verifier", event)

    def answer(self, rng: Random) -> None:
        """A human answers one open question, in any way that is allowed."""
        waiting = open_questions(self.stream.load())
        if not waiting:
            return
        question = rng.choice(waiting)
        filter_ = f"escalate.*.{self.stream.conversation}.{question.number}"
        last = self.stream.last(filter_)
        if question.raised is None or last == 0 or self.stream.messages[last].event.kind != "escalate.raised":
            return
        decision = rng.choice(
            [one for one in question.raised.allowed_answers if one != "reject" or rng.random() < 0.3] or ["reject"]
        )
        self._say("escalate.answered", question.number, data=answer(decision), by="desk", fence=Fence(last, filter_))

    def cancel(self, rng: Random) -> None:
        """Somebody wants it to stop."""
        if rng.random() < 0.05:
            self._say("task.cancel", "ann", data=TaskCancel(requested_by="ann"), by="client")

    def operate(self, rng: Random) -> None:
        """An operator retries or discards a dead letter; a retried message is delivered again."""
        letters = [(key, one) for key, one in self.stream.load().letters.items() if one.notice and one.status == "dead"]
        if not letters:
            return
        key, letter = rng.choice(letters)
        detail = key.rpartition("-")[::2]
        if rng.random() < 0.5:
            self._say("letter.discarded", *detail, data=LetterDiscarded(by="ops"), by="operator")
        elif self._say("letter.retried", *detail, data=LetterRetried(by="ops"), by="operator") and letter.notice:
            queue = {"planner": "planner", "step-qa": "worker", "verifier": "verifier"}.get(letter.notice.consumer)
            stored = self.stream.messages.get(letter.notice.sequence)
            if queue and stored and not isinstance(stored.event.data, Unreadable):
                self.queues[queue].append(stored.event)

    def rubbish(self, rng: Random) -> None:
        """An outsider writes rubbish on any subject of the conversation."""
        plan = self.stream.load().plan
        self.stream.write(*rubbish(rng, [step.id for step in plan.steps] if plan else []))
