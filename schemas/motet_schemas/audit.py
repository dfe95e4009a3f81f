"""The oracle: reads what was recorded of a conversation, and lists every promise of Motet that it breaks.

Pure. It knows the facts alone, not how they came about, so it judges any history: a live one, a crash test's, an
archived one. The promises are those of docs/exactly-once.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from motet_schemas import audit_attempts as attempts
from motet_schemas import audit_rules as rules
from motet_schemas.audit_history import History, Violation
from motet_schemas.envelope import Event
from motet_schemas.letters import LetterNotice

__all__ = ["Violation", "audit"]


def audit(
    conversation: str, events: Iterable[Event], *, letters: Iterable[LetterNotice] = (), settled: bool = True
) -> list[Violation]:
    """Return what is wrong with one conversation, given all its events and the dead letters about it.

    `settled` says that nobody is at work any more: then it must have ended or ask a named human, everything decided
    must have been emitted, no claim may be left over, and every dead letter must be explained. What strangers wrote
    (no `/agents/…` source) is not held against the agents, and where they wrote, usage is not recounted.
    """
    history = History.of(conversation, events)
    found = [
        *rules.facts_are_there_once(history),
        *rules.causes_come_first(history),
        *rules.plans_come_in_order(history),
        *attempts.attempts_come_in_order(history),
        *attempts.claims_are_fenced(history),
        *attempts.verdicts_are_anothers(history),
        *rules.questions_are_answered_once_and_allowed(history),
        *rules.records_are_complete(history, settled=settled),
        *rules.nothing_is_decided_after_the_end(history),
        *rules.everything_is_counted_once(history),
        *rules.dead_letters_are_explained(history, list(letters), settled=settled),
    ]
    if settled:
        found += [*rules.it_has_ended_or_asks_somebody(history), *rules.no_claim_is_orphaned(history)]
    return found
