"""The schedules that a conversation needs. A tick is a reason to look: one that came too early is set anew."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from motet_schemas import Conversation, EscalateRaised, Fact, TimerSet
from motet_schemas.standing import deadline, open_questions
from motet_schemas.subjects import build


def question_timers(state: Conversation, raised: Iterable[Fact]) -> list[Fact]:
    """Return a timer for every open or new question that has none running."""
    due = [(question.number, question.raised.due_at) for question in open_questions(state) if question.raised]
    due += [(fact.subject.number, fact.data.due_at) for fact in raised if isinstance(fact.data, EscalateRaised)]
    facts: list[Fact] = []
    for number, at in due:
        facts += _timer(state, ("escalation", str(number)), at, "a human's answer is due")
    return facts


def budget_timer(state: Conversation, *, asking: bool) -> list[Fact]:
    """Return the timer of the time budget, unless one runs or a human is asked (which stops the clock)."""
    at = deadline(state)
    if asking or state.waiting_since is not None or at is None:
        return []
    return _timer(state, ("budget",), at, "the time budget runs out")


def retry_timer(state: Conversation, step: str, attempt: int, until: datetime | None) -> list[Fact]:
    """Return the timer that ends an attempt's backoff, unless it runs."""
    return [] if until is None else _timer(state, ("backoff", step, str(attempt)), until, "another attempt may start")


def _timer(state: Conversation, name: tuple[str, ...], at: datetime, why: str) -> list[Fact]:
    """Return the next schedule of that name, numbered from 1, unless one of them has not fired yet."""
    prefix = ".".join(name) + "."
    known = {alarm: spent.fired for alarm, spent in state.alarms.items() if alarm.startswith(prefix)}
    if not all(known.values()):
        return []
    number = next(count for count in range(1, len(known) + 2) if f"{prefix}{count}" not in known)
    at = at if state.now is None else max(at, state.now + timedelta(milliseconds=100))
    return [Fact(build("timer.set", state.id, *name, number), TimerSet(at=at, why=why))]
