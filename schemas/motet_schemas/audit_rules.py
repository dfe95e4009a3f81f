"""The oracle's rules about a whole conversation: once, in order, complete, counted once, ended or asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from motet_schemas import standing
from motet_schemas.audit_history import ENDS, History, Violation, is_ours, is_readable, place_of
from motet_schemas.budget import Usage
from motet_schemas.envelope import Event
from motet_schemas.errors import InvalidInputError
from motet_schemas.events import (
    EscalateAnswered,
    EscalateRaised,
    EscalateTimedOut,
    Handled,
    LetterDead,
    Output,
    PlanCreated,
    PlanRejected,
    StepExecuted,
    VerifyFailed,
    VerifyPassed,
)
from motet_schemas.fold import ORCHESTRATOR
from motet_schemas.letters import LetterNotice
from motet_schemas.report import Report
from motet_schemas.subjects import parse

_DECIDED: Final = frozenset({"plan.requested", "step.ready", "escalate.raised", "escalate.timed_out", "timer.set"})


def facts_are_there_once(history: History) -> Iterator[Violation]:
    """No place holds two facts, and no fact stands in two places."""
    for place, standing_there in history.places().items():
        ours = [event for event in standing_there if is_ours(event)]
        if len(ours) > 1:
            words = f"{' and '.join(str(event.subject) for event in ours)}: there is room for one fact ({place[0]})"
            yield history.violation("recorded_twice", words, *ours)
    known: dict[str, Event] = {}
    for event in history.ours:
        if event.kind != "timer.fired" and event.id:
            first = known.setdefault(event.id, event)
            if first is not event:
                words = f"{first.subject} and {event.subject} are the same fact ({event.id})"
                yield history.violation("recorded_twice", words, first, event)


def plans_come_in_order(history: History) -> Iterator[Violation]:
    """Revisions are asked for one after the other, and answered after they were asked for."""
    asked: dict[int, Event] = {}
    for event in history.of_kind("plan.requested", "plan.created", "plan.rejected"):
        number = event.subject.number
        if event.kind == "plan.requested":
            if not history.strange and number != len(asked) + 1:
                words = f"{event.subject}: revision {len(asked) + 1} was due"
                yield history.violation("revision_out_of_order", words, event)
            asked.setdefault(number, event)
        elif number not in asked and not history.strange:
            words = f"{event.subject}: nobody had asked for this revision"
            yield history.violation("revision_out_of_order", words, event)


def questions_are_answered_once_and_allowed(history: History) -> Iterator[Violation]:
    """An answer follows its question and is one that was allowed; silence answers when the time has come."""
    raised: dict[int, Event] = {}
    for event in history.of_kind("escalate.raised", "escalate.answered", "escalate.timed_out"):
        number = event.subject.number
        if event.kind == "escalate.raised":
            raised.setdefault(number, event)
            continue
        question = raised.get(number)
        if question is None:
            if not history.strange:
                yield history.violation("answer_without_question", f"{event.subject}: nobody had asked", event)
        elif isinstance(question.data, EscalateRaised):
            yield from _answer(history, question, question.data, event)
    for number, event in raised.items():
        if not history.strange and number > len(raised):
            words = f"{event.subject}: a question of a lower number was never asked"
            yield history.violation("question_out_of_order", words, event)


def _answer(history: History, question: Event, raised: EscalateRaised, event: Event) -> Iterator[Violation]:
    if isinstance(event.data, EscalateAnswered) and event.data.decision not in raised.allowed_answers:
        words = f"{event.subject}: {event.data.decision} was not allowed"
        yield history.violation("answer_not_allowed", words, question, event)
    if isinstance(event.data, EscalateTimedOut) and event.time < raised.due_at:
        words = f"{event.subject}: silence was taken for an answer before {raised.due_at.isoformat()}"
        yield history.violation("timed_out_early", words, question, event)


def records_are_complete(history: History, *, settled: bool) -> Iterator[Violation]:
    """What a record lists was emitted, unless the record is void; what a void one lists was not."""
    by_id = {event.id: event for event in history.events if event.id}
    fired = {".".join(event.subject.detail) for event in history.events if event.kind == "timer.fired"}
    taken = history.places()
    listed: dict[str, Event] = {}
    for record, data, void in history.records():
        for output in data.outputs:
            emitted = by_id.get(output.id)
            if void:
                if emitted is not None:
                    words = f"{output.subject}: emitted although its decision was overtaken"
                    yield history.violation("void_decision_emitted", words, record, emitted)
            elif emitted is None and output.subject.partition(f"timer.set.{history.conversation}.")[2] in fired:
                continue  # Motet 0.1 kept a timer as a schedule, which is gone once it has fired
            elif emitted is None:
                yield from _not_emitted(history, record, output, taken, settled=settled)
            elif str(emitted.subject) != output.subject or emitted.seq < record.seq:
                words = f"{output.subject}: stands elsewhere than its record says, or before it"
                yield history.violation("emitted_otherwise", words, record, emitted)
            if not void and record.subject.verb == ORCHESTRATOR and not history.strange:
                first = listed.setdefault(output.subject, record)
                if first is not record:
                    yield history.violation("decided_twice", f"{output.subject}: decided twice", first, record)


def _not_emitted(
    history: History, record: Event, output: Output, places: dict[tuple[str, ...], list[Event]], *, settled: bool
) -> Iterator[Violation]:
    try:
        subject = parse(output.subject)
    except InvalidInputError:
        words = f"{record.subject}: lists {output.subject}, which is no subject"
        yield history.violation("emitted_otherwise", words, record)
        return
    if subject.conversation != history.conversation:
        return
    there = places.get(place_of(subject), [])
    if there:
        # Somebody got in first: an outcome before an expiry, a rival's fact, a stranger's rubbish.
        if record.subject.verb == ORCHESTRATOR and not history.strange and subject.kind != "step.expired":
            words = f"{output.subject}: somebody else's fact stands where this decision should"
            yield history.violation("emitted_otherwise", words, record, there[0])
    elif settled:
        yield history.violation("never_emitted", f"{output.subject}: was decided and never emitted", record)


def nothing_is_decided_after_the_end(history: History) -> Iterator[Violation]:
    """Behind the end there are only ticks, requests, and the words of agents that had not heard of it."""
    if history.end is None:
        return
    void = {record.seq for record, _, is_void in history.records() if is_void}
    for event in history.ours:
        if event.seq <= history.end.seq or event.seq in void:
            continue
        record = isinstance(event.data, Handled) and event.subject.verb == ORCHESTRATOR
        expiry = event.kind == "step.expired" and event.source.startswith("/agents/orchestrator/")
        if event.kind in _DECIDED or record or expiry:
            words = f"{event.subject}: was decided although the conversation had ended"
            yield history.violation("decided_after_the_end", words, history.end, event)


def everything_is_counted_once(history: History) -> Iterator[Violation]:
    """Attempts, tokens and dollars, added up from the facts, are what the fold and the report say."""
    if history.strange or history.archived:
        return
    until = history.end.seq if history.end is not None else history.state.last_seq + 1
    counted = [event for event in history.ours if event.seq < until]
    state = history.state
    decided = sum(1 for subject in state.pending if subject.startswith("step.ready."))
    attempts, used = _attempts(counted) + decided, _usage(counted)
    claims = [("the fold", standing.attempts_made(state), standing.usage(state))]
    if history.end is not None and isinstance(history.end.data, Report):
        total = history.end.data.usage
        if total.tokens != used.tokens:
            words = f"the report says {total.tokens} tokens, the facts say {used.tokens}"
            yield history.violation("miscounted", words, history.end)
        claims.append(("the report", total.attempts, used.evolve(cost_usd=total.cost_usd)))
    for who, made, spent in claims:
        if made != attempts:
            yield history.violation("miscounted", f"{who} says {made} attempts, the facts say {attempts}")
        if (spent.tokens, spent.cost_usd) != (used.tokens, used.cost_usd):
            words = f"{who} says {spent.tokens} tokens and {spent.cost_usd} USD, the facts say "
            yield history.violation("miscounted", f"{words}{used.tokens} and {used.cost_usd}")
    if attempts > standing.attempts_allowed(state):
        words = f"{attempts} attempts were made, {standing.attempts_allowed(state)} were allowed"
        yield history.violation("over_budget", words)


def _attempts(events: Sequence[Event]) -> int:
    """Count the attempts that were opened and not lost."""
    opened = {(event.subject.step, event.subject.number) for event in events if event.kind == "step.ready"}
    lost = {(event.subject.step, event.subject.number) for event in events if event.kind == "step.expired"}
    return len(opened - lost)


def _usage(events: Sequence[Event]) -> Usage:
    """Add up what every plan, refusal, record and verdict says that it used."""
    spenders = (PlanCreated, PlanRejected, StepExecuted, VerifyPassed, VerifyFailed)
    return standing.total_usage([event.data.usage for event in events if isinstance(event.data, spenders)])


def it_has_ended_or_asks_somebody(history: History) -> Iterator[Violation]:
    """A conversation at rest has ended, or a named human is asked, and silence will end the waiting."""
    state = history.state
    if history.end is not None or history.archived or not history.ours:
        return
    if not any(event.kind == "task.submitted" for event in history.events):
        yield history.violation("no_task", "there are facts, and no task that they belong to", history.ours[0])
        return
    waiting = standing.open_questions(state)
    if not waiting:
        last = history.events[-1]
        words = f"it has neither ended nor asked anybody; the last fact is {last.subject}"
        yield history.violation("hangs", words, last)
    for question in waiting:
        if question.raised is None or not question.raised.asked:
            yield history.violation("nobody_is_asked", f"question {question.number} names nobody who could answer")
        running = any(
            name.startswith(f"escalation.{question.number}.") and not alarm.fired
            for name, alarm in state.alarms.items()
        )
        if not running:
            yield history.violation("hangs", f"question {question.number}: no timer will end the waiting")


def no_claim_is_orphaned(history: History) -> Iterator[Violation]:
    """In a conversation at rest that goes on, every claim has ended in an outcome."""
    if history.end is not None:
        return
    for attempts in history.state.attempts.values():
        for attempt in attempts:
            if attempt.opened and attempt.claim is not None and not attempt.ended:
                words = (
                    f"{attempt.step}, attempt {attempt.number}: {attempt.claim.owner} has claimed it, no more is known"
                )
                yield history.violation("orphaned_claim", words)


def dead_letters_are_explained(
    history: History, letters: Sequence[LetterNotice], *, settled: bool
) -> Iterator[Violation]:
    """Each letter was told in its conversation; there it was acted on, asked about, or stands in the report."""
    told = {event.subject.letter: event for event in history.of_kind("letter.dead")}
    for letter in letters:
        if (key := f"{letter.consumer}-{letter.sequence}") not in told:
            yield history.violation("letter_untold", f"dead letter {key}: its conversation was not told of it")
    if not settled or history.archived:
        return
    for key, event in told.items():
        if not _is_explained(history, key, event):
            words = f"dead letter {key}: nobody was asked, nobody acted, and no report mentions it"
            yield history.violation("letter_unexplained", words, event)


def _is_explained(history: History, key: str, event: Event) -> bool:
    state = history.state
    letter = state.letters.get(key)
    if letter is not None and letter.status != "dead":
        return True
    if history.end is not None and event.seq > history.end.seq:
        return True  # what it was about had become moot: the end was told to everybody
    if history.end is not None and isinstance(history.end.data, Report):
        return any(key in concern for concern in history.end.data.concerns) or not isinstance(event.data, LetterDead)
    asked = {question.raised.letter for question in state.questions.values() if question.raised is not None}
    return key in asked or _is_settled_otherwise(history, event)


def _is_settled_otherwise(history: History, event: Event) -> bool:
    if not isinstance(event.data, LetterDead):
        return True
    sequence = event.data.message or event.data.sequence
    dead = next((one for one in history.events if one.seq == sequence), None)
    if dead is not None and (not is_ours(dead) or dead.kind == "timer.fired"):
        return True  # a stranger's rubbish, or a tick: nothing of the conversation is missing
    try:
        about = parse(event.data.subject)
    except InvalidInputError:
        return False
    step = history.state.plan.step(about.step) if about.family == "step" and history.state.plan is not None else None
    return step is not None and standing.is_done(history.state, step)


def causes_come_first(history: History) -> Iterator[Violation]:
    """Nothing is caused by what was recorded after it."""
    for event in history.ours:
        if event.cause is not None and event.cause >= event.seq:
            words = f"{event.subject}: says that {event.cause} caused it, which came later"
            yield history.violation("cause_after_effect", words, event)
        if event.kind in ENDS and not is_readable(event):
            yield history.violation("unreadable_end", f"{event.subject}: its report does not parse", event)
