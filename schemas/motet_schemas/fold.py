"""`fold(state, event) -> state`: pure, total, and the same for everybody.

It keeps the first of any fact and ignores the rest. An outcome that does not parse is a failed one, so that rubbish
can neither block nor break a conversation. After the end nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from motet_schemas import fold_attempts as attempts
from motet_schemas import fold_newer as newer
from motet_schemas.budget import Usage
from motet_schemas.conversation import Alarm, Conversation, Ending, Letter, Question, Revision
from motet_schemas.envelope import Event, NewerVersion, Unreadable, decode_output
from motet_schemas.errors import InvalidInputError
from motet_schemas.events import (
    EscalateAnswered,
    EscalateRaised,
    EscalateTimedOut,
    EventData,
    Handled,
    LetterDead,
    LetterDiscarded,
    LetterRetried,
    PlanCreated,
    PlanRejected,
    PlanRequested,
    TaskCancel,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskSubmitted,
    TimerFired,
    TimerSet,
)
from motet_schemas.standing import open_questions
from motet_schemas.subjects import Subject, parse

ORCHESTRATOR: Final = "orchestrator"
"""The consumer whose records count as decided; any other's outputs count once they are emitted."""

Data = EventData | Unreadable


def fold_all(conversation: str, events: Iterable[Event]) -> Conversation:
    """Return what a conversation's events, in the order of the stream, amount to."""
    state = Conversation(id=conversation)
    for event in events:
        state = fold(state, event)
    return state


def fold(state: Conversation, event: Event) -> Conversation:
    """Return `state` after `event`. Events must come in the order of the stream; older ones are ignored."""
    if event.seq <= state.last_seq or event.subject.conversation != state.id:
        return state
    now = event.time if state.now is None else max(state.now, event.time)
    known_seq = state.last_seq
    state = state.evolve(last_seq=event.seq, now=now)
    key = str(event.subject)
    if event.kind == "timer.fired":  # a tick may overtake the fact that its timer is set
        key = key.replace("timer.fired.", "timer.set.", 1)
    taken = key in state.pending and isinstance(event.data, Unreadable) and event.kind != "timer.fired"
    if key in state.pending:
        state = state.evolve(pending={name: value for name, value in state.pending.items() if name != key})
    if state.ending is not None:  # the end itself may have been decided by a record, and emitted after it
        return state
    if event.subject.family == "handled":
        state = _record(state, event, now, known_seq)
    elif taken:
        state = _taken(state, event.subject)
    else:
        state = _apply(state, event.subject, event.data, now)
    return _count_waiting(state, now)


def _record(state: Conversation, event: Event, now: datetime, known_seq: int) -> Conversation:
    """Take over what was decided, unless something was said since the sequence that the record's subject names.

    A replicated stream may store such a decision: its leader compares a fence with what all replicas have, and another
    fact can be on its way to them. It is then void, for all readers, as if it had been refused.
    """
    if event.subject.verb != ORCHESTRATOR or known_seq > int(event.subject.detail[0]):
        return state
    if isinstance(event.data, NewerVersion):
        return state.evolve(newer={**state.newer, str(event.subject): event.data.reason})
    if not isinstance(event.data, Handled):
        return state
    for output in event.data.outputs:
        try:
            subject, data = decode_output(output)
        except InvalidInputError:
            continue
        if subject.family == "handled" or subject.conversation != state.id:
            continue
        if isinstance(data, NewerVersion):
            state = newer.noted(state, subject, data)
        if isinstance(data, Unreadable):
            continue
        if state.ending is not None:
            break
        before, state = state, _apply(state, subject, data, now)
        if state is not before:
            state = state.evolve(pending={**state.pending, output.subject: (output, event.seq)})
    return state


def _taken(state: Conversation, subject: Subject) -> Conversation:
    """Rubbish stands where a decided fact should: it is missing again, and will get another number."""
    why = "rubbish stands in its place"
    if subject.kind == "step.ready" and (attempt := state.attempt(subject.step, subject.number)) is not None:
        return attempts.with_attempt(state, replace(attempt, opened=False, ready=None, unreadable=why))
    if subject.kind == "plan.requested":
        return state.evolve(revisions={**state.revisions, subject.number: Revision(refusal=why)})
    if subject.kind == "escalate.raised" and (question := state.questions.get(subject.number)) is not None:
        return state.evolve(questions={**state.questions, subject.number: replace(question, broken=why)})
    if subject.kind == "timer.set" and (alarm := state.alarms.get(".".join(subject.detail))) is not None:
        return state.evolve(alarms={**state.alarms, ".".join(subject.detail): replace(alarm, fired=True)})
    return state


def _apply(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    rule = _RULES.get(subject.kind)
    if isinstance(data, NewerVersion):
        state = newer.noted(state, subject, data)
    return state if rule is None else rule(state, subject, data, now)


def _count_waiting(state: Conversation, now: datetime) -> Conversation:
    waiting = bool(open_questions(state))
    if waiting and state.waiting_since is None:
        return state.evolve(waiting_since=now)
    if not waiting and state.waiting_since is not None:
        return state.evolve(waiting_since=None, waited=state.waited + (now - state.waiting_since))
    return state


def _submitted(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    if state.task is not None or state.unreadable_task:
        return state
    if isinstance(data, TaskSubmitted) and data.kind == subject.detail[0]:
        return state.evolve(task=data, submitted_at=now)
    reason = data.reason if isinstance(data, Unreadable) else f"kind differs from its subject {subject}"
    return state.evolve(unreadable_task=reason, submitted_at=now)


def _cancel(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    if state.cancel is not None:
        return state
    request = data if isinstance(data, TaskCancel) else TaskCancel(requested_by=subject.detail[0])
    return state.evolve(cancel=request)


def _ended(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    if isinstance(data, NewerVersion):
        return state.evolve(ending=newer.ended(state, subject, data, now), pending={})
    if not isinstance(data, TaskCompleted | TaskFailed | TaskCancelled):
        return state
    return state.evolve(ending=Ending(status=subject.verb, report=data, at=now), pending={})


def _planned(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """A number that an outsider used is taken: ours are the first free one, so no other can be in turn."""
    revision = state.revisions.get(subject.number)
    if subject.kind == "plan.requested":
        if revision is not None:
            return state
        if isinstance(data, PlanRequested) and subject.number == state.next_revision():
            changed = Revision(requested=data)
        else:
            changed = Revision(refusal="its request does not parse, or is out of turn")
    elif revision is None:
        changed = Revision(refusal="nobody had asked for it")
    elif revision.answered:
        return state
    elif isinstance(data, PlanCreated) and _reused(state, data) is None:
        changed = replace(revision, plan=data, letter=None)
    else:
        refusal, usage = _refusal(state, data)
        changed = replace(revision, refusal=refusal, refusal_usage=usage, letter=None)
    return state.evolve(revisions={**state.revisions, subject.number: changed})


def _refusal(state: Conversation, data: Data) -> tuple[str, Usage | None]:
    if isinstance(data, PlanRejected):
        return data.reason, data.usage
    if isinstance(data, PlanCreated):
        return f"step id {_reused(state, data)} is used again for something else", data.usage
    return (data.reason if isinstance(data, Unreadable) else "unreadable"), None


def _reused(state: Conversation, plan: PlanCreated) -> str | None:
    for revision in state.revisions.values():
        if revision.plan is None:
            continue
        for step in revision.plan.steps:
            again = plan.step(step.id)
            if again is not None and again != step:
                return step.id
    return None


def _raised(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    if subject.number in state.questions:
        return state
    raised = data if isinstance(data, EscalateRaised) and subject.number == state.next_question() else None
    return _with_question(state, subject, raised, now, broken="" if raised else "it does not parse, or is out of turn")


def _with_question(
    state: Conversation, subject: Subject, raised: EscalateRaised | None, now: datetime, *, broken: str
) -> Conversation:
    question = Question(number=subject.number, raised=raised, raised_at=now, broken=broken)
    return state.evolve(questions={**state.questions, subject.number: question})


def _answered(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    question = state.questions.get(subject.number)
    if question is None:
        return _with_question(state, subject, None, now, broken="nobody had asked")
    if question.raised is None or not question.open:
        return state
    if isinstance(data, EscalateTimedOut) and data.decision == question.raised.on_timeout:
        answered = replace(question, answer=data, answered_at=now)
    elif not isinstance(data, EscalateAnswered):
        answered = replace(question, broken="the answer does not parse", answered_at=now)
    elif data.decision not in question.raised.allowed_answers:
        answered = replace(question, broken=f"{data.decision} is no allowed answer", answered_at=now)
    else:
        answered = replace(question, answer=data, answered_at=now)
    state = state.evolve(questions={**state.questions, subject.number: answered})
    return newer.carried_on(state, question.raised.letter) if answered.decision == "approve" else state


def _letter_dead(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    key = subject.letter
    if key in state.letters:
        return state
    notice = data if isinstance(data, LetterDead) else None
    state = state.evolve(letters={**state.letters, key: Letter(notice=notice)})
    if notice is None or (notice.consumer == ORCHESTRATOR and newer.is_newer(notice)):
        return state  # whoever reads the conversation as an orchestrator does, sees what that one could not
    return _mark(state, notice.subject, notice)


def _letter_act(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    """The first act counts. What does not parse is none: no consumer follows it either."""
    letter = state.letters.get(subject.letter)
    if letter is None or letter.status != "dead" or not isinstance(data, LetterRetried | LetterDiscarded):
        return state
    acted = replace(letter, status=subject.verb, act=data)
    state = state.evolve(letters={**state.letters, subject.letter: acted})
    if letter.notice is None or subject.verb == "discarded":  # what could not be handled is still not done
        return state
    others = [one.notice for one in state.letters.values() if one.status != "retried" and one.notice is not None]
    return _mark(state, letter.notice.subject, next(_about_the_same(letter.notice, others), None))


def _about_the_same(notice: LetterDead, others: list[LetterDead]) -> Iterator[LetterDead]:
    """Yield the letters, newest first, that keep the same attempt or revision from being done."""
    about = notice.subject.split(".")
    for other in reversed(others):
        known = other.subject.split(".")
        step = about[0] == known[0] == "step" and about[2:5] == known[2:5]
        if other.subject == notice.subject or step:
            yield other


def _mark(state: Conversation, message: str, mark: LetterDead | None) -> Conversation:
    """Note a dead letter, or its retry, at the attempt or plan revision whose message it is."""
    try:
        about = parse(message)
    except InvalidInputError:
        return state
    if about.conversation != state.id:
        return state
    if about.kind in ("step.ready", "step.executed"):
        attempt = state.attempt(about.step, about.number)
        if attempt is None or (about.kind == "step.executed" and attempt.record is None):
            return state
        again = mark is None and about.kind == "step.ready" and state.opened(about.step)[-1:] == (attempt,)
        return attempts.with_attempt(
            state, replace(attempt, letter=mark, retried=mark is None and (again or attempt.retried))
        )
    if about.kind == "plan.requested" and (revision := state.revisions.get(about.number)) is not None:
        return state.evolve(revisions={**state.revisions, about.number: replace(revision, letter=mark)})
    return state


def _timer(state: Conversation, subject: Subject, data: Data, now: datetime) -> Conversation:
    key = ".".join(subject.detail)
    known = state.alarms.get(key)
    fired = subject.verb == "fired"
    if known is not None and (known.fired or not fired):
        return state
    at = data.at if isinstance(data, TimerSet | TimerFired) else None
    # A schedule that does not parse will not fire, and its name is taken: it is spent.
    alarm = Alarm(at=at if known is None else known.at, fired=fired or at is None)
    return state.evolve(alarms={**state.alarms, key: alarm})


_RULES: Final[dict[str, Callable[[Conversation, Subject, Data, datetime], Conversation]]] = {
    "task.submitted": _submitted,
    "task.completed": _ended,
    "task.failed": _ended,
    "task.cancelled": _ended,
    "task.cancel": _cancel,
    "plan.requested": _planned,
    "plan.created": _planned,
    "plan.rejected": _planned,
    "step.ready": attempts.ready,
    "step.claimed": attempts.claimed,
    "step.renewed": attempts.renewed,
    "step.executed": attempts.executed,
    "step.expired": attempts.expired,
    "verify.passed": attempts.verified,
    "verify.failed": attempts.verified,
    "escalate.raised": _raised,
    "escalate.answered": _answered,
    "escalate.timed_out": _answered,
    "letter.dead": _letter_dead,
    "letter.retried": _letter_act,
    "letter.discarded": _letter_act,
    "timer.set": _timer,
    "timer.fired": _timer,
}
