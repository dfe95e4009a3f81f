"""The oracle's rules about attempts: claims are fenced, results stand on them, verdicts are another's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from motet_schemas.audit_history import History, Violation, is_ours, is_readable
from motet_schemas.envelope import Event
from motet_schemas.events import (
    LetterDead,
    StepClaimed,
    StepExecuted,
    StepExpired,
    StepReady,
    StepRenewed,
    VerifyFailed,
    VerifyPassed,
)


def claims_are_fenced(history: History) -> Iterator[Violation]:
    """Every renewal and outcome stands directly behind what its writer knew, under the claim that it had."""
    handoffs = {(event.subject.step, event.subject.number): event for event in history.of_kind("step.ready")}
    for key, events in history.attempts().items():
        yield from _claim(history, handoffs.get(key), events)


def _claim(history: History, handoff: Event | None, events: list[Event]) -> Iterator[Violation]:
    walk = _Walk(history)
    for event in events:
        if is_ours(event):
            if isinstance(event.data, StepClaimed) and (handoff is None or handoff.seq > event.seq):
                yield history.violation("claim_without_handoff", f"{event.subject}: nobody had handed it out", event)
            yield from walk.check(event)
        walk.take(event)


class _Walk:
    """One attempt, read fact by fact."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._claim: Event | None = None
        self._live_until: datetime | None = None
        self._before: Event | None = None
        self._ended: Event | None = None

    def take(self, event: Event) -> None:
        """Go on behind `event`, whoever wrote it."""
        first = event.kind == "step.claimed" and self._claim is None
        if first:
            self._claim = event
        if isinstance(event.data, StepClaimed | StepRenewed) and (first or self._is_owners(event)):
            self._live_until = event.time + timedelta(seconds=event.data.ttl_s)
        if event.kind in ("step.executed", "step.expired") and self._ended is None:
            self._ended = event
        self._before = event

    def check(self, event: Event) -> Iterator[Violation]:
        """Yield what is wrong with `event` standing here."""
        if event.kind == "step.claimed":
            return
        if self._ended is not None:
            words = f"{event.subject}: recorded although the attempt had ended"
            yield self._history.violation("behind_the_end_of_its_attempt", words, self._ended, event)
        elif isinstance(event.data, StepExpired):
            yield from self._check_expiry(event, event.data)
        elif self._claim is None:
            yield self._history.violation("without_a_claim", f"{event.subject}: nobody had claimed the attempt", event)
        elif is_readable(event) and not self._is_owners(event):
            words = f"{event.subject}: it is not by the owner of the claim"
            yield self._history.violation("not_the_owner", words, self._claim, event)
        elif self._before is not None and event.cause not in (None, self._before.seq):
            words = f"{event.subject}: its writer did not know what stands before it, so no fence held"
            yield self._history.violation("fence_did_not_hold", words, self._before, event)

    def _check_expiry(self, event: Event, lost: StepExpired) -> Iterator[Violation]:
        claim = self._claim.data if self._claim is not None else None
        if not isinstance(claim, StepClaimed):
            if self._before is None:
                words = f"{event.subject}: there was no claim to lose"
                yield self._history.violation("without_a_claim", words, event)
            return
        assert self._claim is not None  # noqa: S101 - it brought the claim
        if lost.nonce not in ("", claim.nonce):
            words = f"{event.subject}: speaks of another claim than the one that stands"
            yield self._history.violation("not_the_owner", words, self._claim, event)
        released = _instance(event) == claim.owner
        if not released and self._live_until is not None and event.time < self._live_until:
            words = f"{event.subject}: the claim was taken while it was live, by the server's own clock"
            yield self._history.violation("live_claim_taken", words, self._claim, event)

    def _is_owners(self, event: Event) -> bool:
        claim = self._claim.data if self._claim is not None else None
        if not isinstance(claim, StepClaimed):
            return False
        if isinstance(event.data, StepRenewed):
            return (event.data.owner, event.data.nonce) == (claim.owner, claim.nonce)
        return isinstance(event.data, StepExecuted) and event.data.executor == claim.owner


def _instance(event: Event) -> str:
    return event.source.rpartition("/")[2]


def attempts_come_in_order(history: History) -> Iterator[Violation]:
    """Attempts at a step are numbered without gaps, one after the other, each of the plan that was in force."""
    opened: dict[str, Event] = {}
    outcomes = {
        (event.subject.step, event.subject.number): event for event in history.of_kind("step.executed", "step.expired")
    }
    buried = {event.data.subject for event in history.ours if isinstance(event.data, LetterDead)}
    for event in history.of_kind("step.ready"):
        step, number = event.subject.step, event.subject.number
        before = opened.get(step)
        if not history.strange and number != (before.subject.number if before else 0) + 1:
            yield history.violation("attempt_out_of_order", f"{event.subject}: is not the next attempt", event)
        if before is not None and str(before.subject) not in buried:
            outcome = outcomes.get((step, before.subject.number))
            if not history.strange and (outcome is None or outcome.seq > event.seq):
                words = f"{event.subject}: was opened while the attempt before it was still open"
                yield history.violation("attempt_out_of_order", words, before, event)
        yield from _plan_in_force(history, event)
        opened[step] = event


def _plan_in_force(history: History, event: Event) -> Iterator[Violation]:
    if not isinstance(event.data, StepReady):
        return
    made = [
        one.subject.number
        for one in history.of_kind("plan.created")
        if one.seq < event.seq
        and (revision := history.state.revisions.get(one.subject.number)) is not None
        and revision.plan is not None
    ]
    if event.data.plan_revision != max(made, default=0):
        words = (
            f"{event.subject}: handed out under plan {event.data.plan_revision}, in force was {max(made, default=0)}"
        )
        yield history.violation("plan_not_in_force", words, event)


def verdicts_are_anothers(history: History) -> Iterator[Violation]:
    """A verdict follows the record that it is about, and is never by the one who did the work."""
    records = {(event.subject.step, event.subject.number): event for event in history.of_kind("step.executed")}
    for event in history.of_kind("verify.passed", "verify.failed"):
        if not isinstance(event.data, VerifyPassed | VerifyFailed):
            continue
        record = records.get((event.subject.step, event.subject.number))
        if record is None or record.seq > event.seq:
            if not history.strange:
                yield history.violation("verdict_without_record", f"{event.subject}: there was no record yet", event)
        elif isinstance(record.data, StepExecuted) and record.data.executor == event.data.verifier:
            words = f"{event.subject}: {event.data.verifier} verified its own work"
            yield history.violation("own_work_verified", words, record, event)
