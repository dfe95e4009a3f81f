"""Claims: one owner for each attempt, fenced so that a zombie that wakes later cannot record anything."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta

import structlog

from motet_bus import metrics
from motet_bus.consumer import HandBackError
from motet_bus.fences import attempt_fence
from motet_bus.journal import Journal
from motet_schemas import (
    Attempt,
    BusUnavailableError,
    ConflictError,
    Event,
    Fact,
    StepClaimed,
    StepExecuted,
    StepExpired,
    StepRenewed,
    Subject,
    fold_all,
)
from motet_schemas.subjects import build

log = structlog.get_logger(__name__)

DEFAULT_TTL_S = 30.0
_RECORD_TRIES = 5
_SHORTLY_S = 0.25


class ClaimLostError(ConflictError):
    """Somebody declared the claim dead, or recorded an outcome: what this run did does not count."""

    code = "claim_lost"


class HeldClaim:
    """A claim on one attempt. Take it with `take`, keep it alive with `keep`, end it with `record` or `release`."""

    def __init__(self, journal: Journal, subject: Subject, *, nonce: str, ttl_s: float, last_seq: int) -> None:
        self._journal = journal
        self._subject = subject
        self._nonce = nonce
        self._ttl_s = ttl_s
        self._last_seq = last_seq

    @classmethod
    async def take(cls, journal: Journal, ready: Event, *, ttl_s: float = DEFAULT_TTL_S) -> HeldClaim:
        """Claim the attempt that `ready` offers. Raises `ConflictError` when it is taken already."""
        conversation, step, number = ready.subject.conversation, ready.subject.step, ready.subject.number
        subject = build("step.claimed", conversation, step, number)
        nonce = secrets.token_hex(12)
        claim = StepClaimed(owner=journal.instance, nonce=nonce, ttl_s=ttl_s, attempt=number)
        fact, last = Fact(subject, claim, id=nonce), 0
        for _ in range(_RECORD_TRIES):
            try:
                seq = await journal.append(fact, fence=attempt_fence(subject, last), cause=ready.seq)
            except ConflictError as refusal:
                # A renewal of no claim is an outsider's: it owns nothing and keeps nobody out.
                events = await journal.read_attempt(subject, at_least=refusal.last_sequence or 0)
                if not events or attempt_of(subject, events) is not None:
                    raise
                last = events[-1].seq
            else:
                return cls(journal, subject, nonce=nonce, ttl_s=ttl_s, last_seq=seq)
        raise ConflictError(f"{subject}: others keep writing to this attempt")

    async def keep(self) -> None:
        """Renew at half the claim's life, for ever; returns when the claim was lost."""
        while True:
            await asyncio.sleep(self._ttl_s / 2)
            renewal = StepRenewed(
                owner=self._journal.instance, nonce=self._nonce, ttl_s=self._ttl_s, attempt=self._subject.number
            )
            try:
                await self._append(Fact(self._sibling("step.renewed"), renewal), patience_s=self._ttl_s)
            except ClaimLostError as error:
                log.warning("claim.lost", subject=str(self._subject), error=error.message)
                return
            except BusUnavailableError as error:
                log.warning("claim.not_renewed", subject=str(self._subject), error=error.message)

    async def record(self, outcome: StepExecuted) -> int:
        """Record the outcome and return its sequence. Raises `ClaimLostError` when the claim no longer stands."""
        return await self._append(Fact(self._sibling("step.executed"), outcome))

    async def release(self, reason: str) -> None:
        """Give the claim back, so that the next attempt can start at once. Raises like `record`."""
        lost = StepExpired(owner=self._journal.instance, nonce=self._nonce, reason=reason)
        await self._append(Fact(self._sibling("step.expired"), lost), patience_s=5.0)

    async def _append(self, fact: Fact, *, patience_s: float = 60.0) -> int:
        for _ in range(_RECORD_TRIES):
            fence = attempt_fence(self._subject, self._last_seq)
            try:
                self._last_seq = await self._journal.append(
                    fact, fence=fence, cause=self._last_seq, patience_s=patience_s
                )
            except ConflictError as refusal:
                await self._still_mine(refusal.last_sequence or 0)
            else:
                return self._last_seq
        raise BusUnavailableError(f"{fact.subject}: others keep writing to this attempt; try again")

    async def _still_mine(self, at_least: int) -> None:
        """Read the attempt again: go on behind what outsiders wrote, raise `ClaimLostError` when it is over."""
        events = await self._journal.read_attempt(self._subject, at_least=at_least)
        attempt = attempt_of(self._subject, events)
        if attempt is None or attempt.ended or attempt.claim is None or attempt.claim.nonce != self._nonce:
            raise ClaimLostError(f"{self._subject}: the claim was taken away, its work does not count")
        self._last_seq = events[-1].seq

    def _sibling(self, kind: str) -> Subject:
        return build(kind, self._subject.conversation, *self._subject.detail)


def attempt_of(subject: Subject, events: list[Event]) -> Attempt | None:
    """Return what an attempt's events (claim, renewals, outcome) amount to, None when there are none."""
    return fold_all(subject.conversation, events).attempt(subject.step, subject.number)


async def yield_to_owner(journal: Journal, ready: Event) -> None:
    """Deal with a step that somebody else has claimed.

    Returns when nothing is left to do: it was done, or the claim was dead and is recorded as expired. Raises
    `HandBackError` while the claim is live, by the server's clock.
    """
    events = await journal.read_attempt(ready.subject)
    attempt = attempt_of(ready.subject, events)
    if not events:
        raise HandBackError(_SHORTLY_S)
    if attempt is not None and attempt.ended:
        return
    now = await journal.server_time()
    claim = attempt.claim if attempt is not None else None  # None: an outsider's rubbish holds the place
    if claim is not None and claim.live_until > now:
        raise HandBackError((claim.live_until - now + timedelta(seconds=_SHORTLY_S)).total_seconds())
    lost = StepExpired(
        owner=claim.owner if claim else "", nonce=claim.nonce if claim else "", reason="ttl: the owner fell silent"
    )
    subject = build("step.expired", ready.subject.conversation, ready.subject.step, ready.subject.number)
    try:
        await journal.append(Fact(subject, lost), fence=attempt_fence(subject, events[-1].seq), cause=ready.seq)
    except ConflictError:
        raise HandBackError(_SHORTLY_S) from None
    metrics.claim(ready.subject.detail[-1], "expired")
    log.warning("claim.expired", subject=str(subject), owner=lost.owner)
