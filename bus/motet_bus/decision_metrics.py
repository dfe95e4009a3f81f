"""What the orchestrator counts when its decision was committed: conversations, questions to humans, budgets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, get_args

from motet_bus import instruments as names
from motet_bus.meter import counter, histogram, labels
from motet_bus.metrics import claim
from motet_schemas import (
    Conversation,
    EscalateAnswered,
    EscalateRaised,
    EscalateTimedOut,
    Fact,
    PlanRequested,
    Question,
    Report,
    StepExpired,
    Subject,
)
from motet_schemas.human import Reason
from motet_schemas.remaining import shares_left
from motet_schemas.report import Verdict

_REMEMBERED: Final = 10_000
_STATUSES: Final = ("completed", "failed", "cancelled")

_started = counter(names.CONVERSATIONS_STARTED)
_ended = counter(names.CONVERSATIONS_ENDED)
_duration = histogram(names.CONVERSATION_DURATION)
_escalations = counter(names.ESCALATIONS)
_response = histogram(names.RESPONSE_DURATION)
_budget_left = histogram(names.BUDGET_LEFT)


def zeros() -> None:
    """Show what has not happened yet as 0, so that a first time is seen as a rise."""
    _started.add(0, labels())
    for reason in get_args(Reason):
        _escalations.add(0, labels(("reason", reason)))
    for status in _STATUSES:
        for verdict in get_args(Verdict):
            _ended.add(0, labels(("status", status), ("verdict", verdict)))


def decided(state: Conversation, facts: Iterable[Fact]) -> None:
    """Count what was committed; `state` is what the decision was made from."""
    for fact in facts:
        match fact.data:
            case Report() as report:
                _end(state, fact.subject.verb, report)
            case EscalateRaised(reason=reason):
                _escalations.add(1, labels(("reason", reason)))
            case EscalateTimedOut():
                question = state.questions.get(fact.subject.number)
                if question is not None and state.now is not None:
                    _responded(question, state.now, "timed_out")
            case StepExpired():
                claim(_capability(state, fact.subject), "expired")
            case PlanRequested() if not state.revisions:
                _started.add(1, labels())
            case _:
                pass


def _end(state: Conversation, status: str, report: Report) -> None:
    _ended.add(1, labels(("status", status), ("verdict", report.verdict)))
    _duration.record(report.usage.elapsed_ms / 1_000, labels(("status", status)))
    for budget, share in shares_left(state).items():
        _budget_left.record(share, labels(("budget", budget)))


def _capability(state: Conversation, subject: Subject) -> str:
    attempt = state.attempt(subject.step, subject.number)
    return attempt.capability if attempt is not None else ""


def _responded(question: Question, at: datetime, decision: str) -> None:
    if question.raised is None:
        return
    waited_s = max(0.0, (at - question.raised_at).total_seconds())
    _response.record(waited_s, labels(("reason", question.raised.reason), ("decision", decision)))


class HumanWaits:
    """Counts each answer of a human once in this process, however often its event comes.

    When an orchestrator dies between handling an answer and its ack, another one counts it again.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()

    def answered(self, state: Conversation, number: int) -> None:
        """Count the answer to question `number`, if the conversation took it for one."""
        question = state.questions.get(number)
        if question is None or question.answered_at is None or (state.id, number) in self._seen:
            return
        if isinstance(question.answer, EscalateAnswered):
            self._seen[state.id, number] = None
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            _responded(question, question.answered_at, question.answer.decision)
