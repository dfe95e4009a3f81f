"""`decide(state) -> facts`: given all that is recorded, what is missing?

Pure: no I/O and no clock. Whatever has a rival outside the orchestrator (an end, a time-out, an expired claim) is
decided alone, so that it is recorded as one fenced fact.
"""

from __future__ import annotations

from datetime import datetime
from itertools import count
from typing import Final

from motet_agents.orchestrator.ends import cancelled, completed, failed
from motet_agents.orchestrator.handoff import plan_request, step_ready
from motet_agents.orchestrator.questions import (
    Asked,
    budget_question,
    letter_questions,
    newer_questions,
    plan_question,
    raise_question,
    time_question,
)
from motet_agents.orchestrator.remedies import Ask, Replan, Retry, Wait, remedy, replanning, replans_left
from motet_agents.orchestrator.timers import budget_timer, question_timers, retry_timer
from motet_bus import Decision
from motet_schemas import Conversation, EscalateTimedOut, Fact, PlanStep, StepExpired, StepReady
from motet_schemas.standing import (
    attempts_allowed,
    attempts_made,
    is_done,
    judge,
    open_questions,
    policy_of,
)
from motet_schemas.subjects import build

NOTHING: Final = Decision()


def decide(state: Conversation) -> Decision:
    """Return the facts that are missing; none when the conversation has ended or must wait."""
    if state.ending is not None or state.now is None or (state.task is None and not state.unreadable_task):
        return NOTHING
    if state.newer:
        return _held(state)
    end = _end(state)
    if end is not None:
        return Decision((end,))
    alone = _timed_out(state, state.now) or _expired_claim(state, state.now)
    if alone is not None:
        return Decision((alone,), final=False)
    facts, asked = _seek_plan(state) if state.plan is None else _advance(state)
    asked += letter_questions(state)
    if all(question.reason != "time_exhausted" for question in asked):
        asked += time_question(state)
    free = (number for number in count(1) if number not in state.questions)
    raised = [raise_question(state, question, number) for question, number in zip(asked, free, strict=False)]
    timers = [*question_timers(state, raised), *budget_timer(state, asking=bool(raised))]
    return Decision((*facts, *raised, *timers), final=not _spends_the_last(state, facts))


def _held(state: Conversation) -> Decision:
    """Judge nothing, for a newer Motet wrote what cannot be read here: whoever can goes on, or a human is asked."""
    if state.cancel is not None:
        return Decision((cancelled(state),))
    if (rejection := _rejected(state)) is not None:
        return Decision((rejection,))
    if state.now is not None and (silence := _timed_out(state, state.now)) is not None:
        return Decision((silence,), final=False)
    raised = [raise_question(state, asked, state.next_question()) for asked in newer_questions(state)]
    why = next(iter(state.newer.values()))
    return Decision((*raised, *question_timers(state, raised)), final=False, held=why)


def _spends_the_last(state: Conversation, facts: list[Fact]) -> bool:
    """Say whether the last attempt of the budget is opened: what cannot be opened any more is asked about at once."""
    opened = sum(1 for fact in facts if isinstance(fact.data, StepReady))
    return opened > 0 and attempts_made(state) + opened >= attempts_allowed(state)


def is_settled(state: Conversation) -> bool:
    """Say whether nothing more will happen: the conversation has ended, or only a human (or time) can move it."""
    return state.ending is not None or (not decide(state).facts and not state.pending)


def _end(state: Conversation) -> Fact | None:
    if state.unreadable_task:
        return failed(state, f"the task does not parse: {state.unreadable_task}")
    if state.cancel is not None:
        return cancelled(state)
    if (rejection := _rejected(state)) is not None:
        return rejection
    plan = state.plan
    if plan is not None and not replanning(state) and all(is_done(state, step) for step in plan.steps):
        return completed(state)
    return None


def _rejected(state: Conversation) -> Fact | None:
    for number, question in sorted(state.questions.items()):
        if question.decision == "reject":
            return failed(state, _rejection(number, question.answer))
    return None


def _rejection(number: int, answer: object) -> str:
    if isinstance(answer, EscalateTimedOut):
        return f"nobody answered question {number} in time, which the policy takes for a no"
    by, note = getattr(answer, "answered_by", "a human"), getattr(answer, "note", "")
    return f"rejected by {by} (question {number})" + (f": {note}" if note else "")


def _timed_out(state: Conversation, now: datetime) -> Fact | None:
    for question in open_questions(state):
        raised = question.raised
        if raised is not None and now >= raised.due_at:
            silence = EscalateTimedOut(decision=raised.on_timeout, due_at=raised.due_at)
            return Fact(build("escalate.timed_out", state.id, question.number), silence)
    return None


def _expired_claim(state: Conversation, now: datetime) -> Fact | None:
    for step in state.plan.steps if state.plan else ():
        attempts = state.opened(step.id)
        last = attempts[-1] if attempts else None
        if last is None or last.claim is None or last.ended or last.claim.live_until > now:
            continue
        lost = StepExpired(
            owner=last.claim.owner, nonce=last.claim.nonce, reason="ttl: the owner fell silent, noticed by a tick"
        )
        return Fact(build("step.expired", state.id, step.id, last.number), lost)
    return None


def _seek_plan(state: Conversation) -> tuple[list[Fact], list[Asked]]:
    if all(revision.requested is None for revision in state.revisions.values()):
        return [plan_request(state, reason="a first plan")], []
    question = plan_question(state)
    if isinstance(question, str):
        return [plan_request(state, reason="a human asked for another plan", instructions=(question,))], []
    return [], [] if question is None else [question]


def _advance(state: Conversation) -> tuple[list[Fact], list[Asked]]:
    """Open what can be opened, ask what must be asked, and seek another plan where a step cannot be done."""
    plan = state.plan
    assert plan is not None  # noqa: S101 - the caller looked
    facts: list[Fact] = []
    asked: list[Asked] = []
    candidates: list[PlanStep] = []
    hopeless: list[Replan] = []
    running = 0
    for step in plan.steps:
        if is_done(state, step):
            continue
        attempts = state.opened(step.id)
        if not attempts:
            if _dependencies_done(state, step):
                candidates.append(step)
            continue
        verdict = judge(attempts[-1], step)
        if verdict == "open" or verdict == "done":
            running += 1
            continue
        match remedy(state, step, attempts, verdict):
            case Retry():
                candidates.append(step)
            case Ask(question):
                asked.append(question)
            case Replan() as replan:
                hopeless.append(replan)
            case Wait(until):
                facts += retry_timer(state, step.id, attempts[-1].number, until)
    if hopeless and replans_left(state):
        return [*facts, plan_request(state, reason=hopeless[0].reason, failed=hopeless[0].failed)], asked
    asked += [replan.otherwise for replan in hopeless]
    if candidates and not replanning(state):
        blocked = budget_question(state)
        if blocked is None:
            facts += _open(state, candidates, running)
        else:
            asked += blocked
    return facts, asked


def _dependencies_done(state: Conversation, step: PlanStep) -> bool:
    plan = state.plan
    needed = [plan.step(name) for name in step.depends_on] if plan else []
    return all(one is not None and is_done(state, one) for one in needed)


def _open(state: Conversation, candidates: list[PlanStep], running: int) -> list[Fact]:
    slots = policy_of(state).max_parallel - running
    affordable = attempts_allowed(state) - attempts_made(state)
    return [
        step_ready(state, step, opening=position)
        for position, step in enumerate(candidates[: max(0, min(slots, affordable))])
    ]
