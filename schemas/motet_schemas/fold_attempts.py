"""What the events of one attempt do to a conversation: the rules of `fold` for `step.…` and `verify.…`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from motet_schemas.conversation import Attempt, Claim, Conversation
from motet_schemas.envelope import NewerVersion, Unreadable
from motet_schemas.events import (
    EventData,
    StepClaimed,
    StepExecuted,
    StepExpired,
    StepReady,
    StepRenewed,
    VerifyFailed,
    VerifyPassed,
)
from motet_schemas.subjects import Subject

Data = EventData | Unreadable

_NEWER_CLAIM: Final = timedelta(seconds=60)
"""How long a claim lives whose own time cannot be read: twice as long as claims live by default."""
_DEAD: Final = timedelta()


def with_attempt(state: Conversation, attempt: Attempt) -> Conversation:
    """Return the conversation with `attempt` in its place, attempts in order of their number."""
    others = [old for old in state.attempts.get(attempt.step, ()) if old.number != attempt.number]
    ordered = tuple(sorted((*others, attempt), key=lambda one: one.number))
    return state.evolve(attempts={**state.attempts, attempt.step: ordered})


def _at(state: Conversation, subject: Subject) -> Attempt:
    known = state.attempt(subject.step, subject.number)
    return known or Attempt(step=subject.step, number=subject.number)


def ready(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """Only what comes in turn opens an attempt. Any other number is taken, and will never be opened."""
    if state.attempt(subject.step, subject.number) is not None:
        return state
    attempt = Attempt(step=subject.step, number=subject.number, capability=subject.detail[2])
    if isinstance(data, StepReady) and subject.number == state.next_attempt(subject.step):
        return with_attempt(state, replace(attempt, opened=True, ready=data))
    return with_attempt(state, replace(attempt, unreadable="its handoff does not parse, or is out of turn"))


def claimed(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """The first claim owns the attempt; one that does not parse owns nothing and is dead already."""
    attempt = _at(state, subject)
    if attempt.claim is not None or attempt.ended:
        return state
    if isinstance(data, StepClaimed):
        claim = Claim(owner=data.owner, nonce=data.nonce, live_until=now + timedelta(seconds=data.ttl_s))
    else:
        claim = Claim(owner="", nonce="", live_until=now + (_NEWER_CLAIM if isinstance(data, NewerVersion) else _DEAD))
    return with_attempt(state, replace(attempt, claim=claim))


def renewed(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """The owner lives on; anybody else renews nothing."""
    attempt = _at(state, subject)
    claim = attempt.claim
    if claim is not None and not attempt.ended and isinstance(data, NewerVersion) and not claim.nonce:
        return with_attempt(state, replace(attempt, claim=replace(claim, live_until=now + _NEWER_CLAIM)))
    if claim is None or attempt.ended or not isinstance(data, StepRenewed) or data.nonce != claim.nonce:
        return state
    renewed = replace(claim, live_until=now + timedelta(seconds=data.ttl_s))
    return with_attempt(state, replace(attempt, claim=renewed))


def executed(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """The first outcome counts; one that does not parse is a failed attempt."""
    attempt = _at(state, subject)
    if attempt.ended:
        return state
    if isinstance(data, StepExecuted):
        return with_attempt(state, replace(attempt, record=data, ended_at=now))
    reason = data.reason if isinstance(data, Unreadable) else "unreadable"
    return with_attempt(state, replace(attempt, unreadable=reason, ended_at=now))


def expired(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """The claim was lost, unless an outcome came first."""
    attempt = _at(state, subject)
    if attempt.ended:
        return state
    lost = data if isinstance(data, StepExpired) else StepExpired(reason="unreadable")
    return with_attempt(state, replace(attempt, lost=lost, ended_at=now))


def verified(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """The first verdict counts, from anybody but the executor; one that makes no sense is a failed attempt."""
    attempt = _at(state, subject)
    if attempt.verification is not None or attempt.lost is not None or attempt.unreadable:
        return state
    if attempt.record is None:
        reason = "it was verified before it was executed"
    elif isinstance(data, Unreadable):
        reason = data.reason
    elif not isinstance(data, VerifyPassed | VerifyFailed) or data.verdict != subject.verb:
        reason = f"the verdict differs from its subject {subject}"
    elif data.verifier == attempt.record.executor:
        reason = f"{data.verifier} verified its own work"
    else:
        return with_attempt(state, replace(attempt, verification=data))
    return with_attempt(state, replace(attempt, unreadable=reason, ended_at=now))
