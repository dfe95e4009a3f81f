"""The doctor's look at the work: who plays the roles, whose claims nobody holds, who was asked and never answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from motet_bus import AgentCard
from motet_gateway.doctor_finding import Finding
from motet_schemas import Conversation
from motet_schemas.conversation import Attempt
from motet_schemas.standing import open_questions

GRACE: Final = timedelta(seconds=30)
"""How long something may be overdue before somebody is missing: a tick, a look and a commit take their time."""
_ROLES: Final = ("orchestrator", "planner", "executor", "verifier")
_NAMED: Final = 3


def roles_finding(cards: Sequence[AgentCard]) -> Finding:
    """Judge whether every built-in role is played by somebody."""
    missing = [role for role in _ROLES if all(card.role != role for card in cards)]
    found = f"{len(cards)} agents answer"
    if missing:
        advice = f"start what is missing: `motet up`, or `motet agent motet_agents.{missing[0]}:agent`"
        return Finding(name="agents", status="fail", found=f"{found}; none is {', '.join(missing)}", advice=advice)
    return Finding(name="agents", status="ok", found=found)


def claims_finding(conversations: Sequence[Conversation], now: datetime, cards: Sequence[AgentCard]) -> Finding:
    """Judge the claims of conversations that have not ended, by the server's clock `now`.

    One that is out of date nobody took over; one that is live belongs to somebody who answers the roll call.
    """
    instances = {card.instance for card in cards}
    live, lost, orphaned = 0, list[str](), list[str]()
    for conversation in conversations:
        for attempt in _claimed(conversation):
            claim = attempt.claim
            assert claim is not None  # noqa: S101 - only claimed attempts are returned
            shown = f"{conversation.id} {attempt.step}.{attempt.number} of {claim.owner}"
            if claim.live_until + GRACE < now:
                lost.append(shown)
            elif claim.live_until >= now and claim.owner not in instances:
                orphaned.append(shown)
            else:
                live += 1
    found = f"{live} held, {len(orphaned)} without an owner, {len(lost)} out of date ({len(conversations)} open)"
    if lost:
        advice = "their owners are gone and nobody took over: see that an orchestrator and executors run (`motet up`)"
        return Finding(name="claims", status="warn", found=f"{found}: {_some(lost)}", advice=advice)
    if orphaned:
        advice = "the owner does not answer; when its claim ends, another executor takes over, without your doing"
        return Finding(name="claims", status="warn", found=f"{found}: {_some(orphaned)}", advice=advice)
    return Finding(name="claims", status="ok", found=found)


def _claimed(conversation: Conversation) -> list[Attempt]:
    every = (attempt for attempts in conversation.attempts.values() for attempt in attempts)
    return [attempt for attempt in every if attempt.claim is not None and not attempt.ended]


def questions_finding(conversations: Sequence[Conversation], now: datetime) -> Finding:
    """Judge the questions to humans, by the server's clock `now`: one past its due time should have been decided."""
    questions = [(one.id, question) for one in conversations for question in open_questions(one)]
    overdue = [
        f"{conversation} question {question.number}"
        for conversation, question in questions
        if question.raised is not None and question.raised.due_at + GRACE < now
    ]
    found = f"{len(questions)} open"
    if overdue:
        advice = (
            "answer them (`motet inbox`); an orchestrator would have applied the policy: see that one runs (`motet up`)"
        )
        found = f"{found}, {len(overdue)} past the due time: {_some(overdue)}"
        return Finding(name="questions", status="warn", found=found, advice=advice)
    return Finding(name="questions", status="ok", found=f"{found}, none overdue")


def letters_finding(open_letters: int) -> Finding:
    """Tell of messages that could not be handled and that nobody has retried or discarded."""
    if not open_letters:
        return Finding(name="dead letters", status="ok", found="none is open")
    shown = f"{open_letters:,} open: message{'s' if open_letters != 1 else ''} that could not be handled"
    advice = "`motet dead list` shows them; then `motet dead retry` once the cause is mended, or `motet dead discard`"
    return Finding(name="dead letters", status="warn", found=shown, advice=advice)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
