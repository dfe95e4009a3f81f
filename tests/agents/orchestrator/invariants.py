"""What must hold whatever happens: of a state, of a decision, and of all that was recorded."""

from __future__ import annotations

from collections import Counter

from motet_agents.orchestrator import decide
from motet_bus import Decision
from motet_schemas import Attempt, Conversation, Event, Fact, Handled, PlanStep, StepReady, fold, fold_all
from motet_schemas.standing import attempts_allowed, attempts_made, judge, policy_of, revisions_granted
from motet_schemas.subjects import handled
from tests.agents.orchestrator.memory_stream import MemoryStream

ENDS = ("task.completed", "task.failed", "task.cancelled")
_REPEATED = ("step.renewed", "timer.fired")


def check_state(state: Conversation) -> None:
    """No more attempts than allowed, no more in progress than allowed, no step before its dependencies."""
    plan = state.plan
    if plan is None:
        return
    opened = [(step, attempt) for step in plan.steps for attempt in state.opened(step.id)]
    if not any(letter.status == "retried" for letter in state.letters.values()):
        running = [attempt for step, attempt in opened if attempt.ready and judge(attempt, step) == "open"]
        assert len(running) <= policy_of(state).max_parallel, "too many steps are in progress"
    for step in plan.steps:
        attempts = [attempt for attempt in state.opened(step.id) if attempt.ready]
        made = sum(1 for attempt in attempts if attempt.lost is None)
        assert made <= step.max_attempts + revisions_granted(state, step.id), f"too many attempts at {step.id}"
        lost = sum(1 for attempt in attempts if attempt.lost is not None)
        assert lost <= 4 + revisions_granted(state, step.id), f"too many lost claims at {step.id}"


def check_decision(state: Conversation, decision: Decision) -> None:
    """A decision is pure, keeps the budget and the order of the plan, and leaves nothing to decide."""
    again = decide(state)
    assert [(fact.subject, fact.data) for fact in again.facts] == [(fact.subject, fact.data) for fact in decision.facts]
    assert again.final == decision.final
    ready = [fact.data for fact in decision.facts if isinstance(fact.data, StepReady)]
    assert not ready or attempts_made(state) + len(ready) <= attempts_allowed(state), "over the budget of attempts"
    for one in ready:
        assert state.plan is not None
        before = [state.plan.step(name) for name in one.step.depends_on]
        assert all(step is not None and _done(state, step) for step in before), f"{one.step.id} came too early"
    ends = [fact for fact in decision.facts if fact.subject.kind in ENDS]
    assert not ends or len(decision.facts) == 1, "an end is decided alone"
    if decision.facts and decision.final:
        assert decide(_recorded(state, decision)).facts == (), "the same state asks for more"


def _done(state: Conversation, step: PlanStep) -> bool:
    """Done as the architecture says it: passed, verified and sure enough; or a human said so."""
    said = [one for one in state.questions.values() if one.raised and one.raised.step == step.id and not one.broken]
    if any(one.answer and one.answer.decision in ("approve", "take_over") for one in said):
        return True
    attempts = state.opened(step.id)
    return bool(attempts) and _passed(attempts[-1], step)


def _passed(attempt: Attempt, step: PlanStep) -> bool:
    record, verification = attempt.record, attempt.verification
    if record is None or verification is None or attempt.unreadable or record.status != "passed":
        return False
    return verification.verdict == "passed" and (record.confidence or 0.0) >= step.min_confidence


def _recorded(state: Conversation, decision: Decision) -> Conversation:
    """The state after the decision was committed and nothing else happened."""
    fact = decision.facts[0]
    if len(decision.facts) > 1:
        listed = tuple(one.to_output() for one in decision.facts)
        fact = Fact(handled("orchestrator", state.id, state.last_seq), Handled(outputs=listed))
    assert state.now is not None
    return fold(state, Event(fact.subject, fact.data, state.last_seq + 1, state.now))


def check_stream(stream: MemoryStream) -> None:
    """Every fact of ours is there once, there is one end, and everybody reads the same."""
    ours = [stored.event for stored in stream.messages.values() if stored.by not in ("outsider", "server")]
    counts = Counter(str(event.subject) for event in ours if event.kind not in _REPEATED)
    assert [subject for subject, count in counts.items() if count > 1] == [], "a fact was recorded twice"
    assert sum(1 for event in ours if event.kind in ENDS) <= 1, "it ended twice"
    outcomes = Counter(
        (event.subject.step, event.subject.number) for event in ours if event.kind in ("step.executed", "step.expired")
    )
    assert all(count == 1 for count in outcomes.values()), "an attempt has two outcomes"
    owners = Counter((event.subject.step, event.subject.number) for event in ours if event.kind == "step.claimed")
    assert all(count == 1 for count in owners.values()), "an attempt has two owners"
    ready = Counter((event.subject.step, event.subject.number) for event in ours if event.kind == "step.ready")
    assert all(count == 1 for count in ready.values()), "an attempt was handed over twice"
    fresh = fold_all(stream.conversation, [stored.event for stored in stream.messages.values()])
    cached = stream.load()
    assert (fresh.attempts, fresh.questions, fresh.ending) == (cached.attempts, cached.questions, cached.ending)
