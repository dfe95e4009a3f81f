"""The schedules that a conversation needs, each set once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from motet_schemas import Conversation, EscalateRaised, Fact, TimerSet
from motet_schemas.standing import deadline, open_questions
from motet_schemas.subjects import build


def question_timers(state: Conversation, raised: Iterable[Fact]) -> list[Fact]:
    """Return a timer for every open or new question that has none."""
    due = [(question.number, question.raised.due_at) for question in open_questions(state) if question.raised]
    due += [(fact.subject.number, fact.data.due_at) for fact in raised if isinstance(fact.data, EscalateRaised)]
    return [
        _timer(state, ("escalation", str(number)), at, "a human's answer is due")
        for number, at in due
        if f"escalation.{number}" not in state.alarms
    ]


def budget_timer(state: Conversation, *, asking: bool) -> list[Fact]:
    """Return the next timer of the time budget, unless one is running or a human is asked (which stops the clock)."""
    if asking or state.waiting_since is not None or state.now is None:
        return []
    known = [alarm for name, alarm in state.alarms.items() if name.startswith("budget.")]
    at = deadline(state)
    if at is None or any(not alarm.fired for alarm in known):
        return []
    at = max(at, state.now + timedelta(seconds=1))
    return [_timer(state, ("budget", str(len(known) + 1)), at, "the time budget runs out")]


def retry_timer(state: Conversation, step: str, attempt: int, until: datetime | None) -> list[Fact]:
    """Return the timer that ends an attempt's backoff, unless it is set."""
    if until is None or f"backoff.{step}.{attempt}" in state.alarms:
        return []
    return [_timer(state, ("backoff", step, str(attempt)), until, "another attempt may start")]


def _timer(state: Conversation, name: tuple[str, ...], at: datetime, why: str) -> Fact:
    return Fact(build("timer.set", state.id, *name), TimerSet(at=at, why=why))
