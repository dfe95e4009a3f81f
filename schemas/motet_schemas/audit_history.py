"""What the oracle reads: one conversation's facts in order, who wrote them, and the sentence it passes on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from motet_schemas.conversation import Conversation
from motet_schemas.envelope import Event, Unreadable
from motet_schemas.events import Handled
from motet_schemas.fold import ORCHESTRATOR, fold_all
from motet_schemas.subjects import Subject

ENDS: Final = frozenset({"task.completed", "task.failed", "task.cancelled"})
_ATTEMPT: Final = frozenset({"step.claimed", "step.renewed", "step.executed", "step.expired"})
_REPEATED: Final = frozenset({"step.renewed", "timer.fired"})
_RIVALS: Final = {
    **dict.fromkeys(ENDS, "end"),
    "task.submitted": "task",
    "plan.created": "plan",
    "plan.rejected": "plan",
    "step.ready": "handoff",
    "step.executed": "outcome",
    "step.expired": "outcome",
    "verify.passed": "verdict",
    "verify.failed": "verdict",
    "escalate.answered": "answer",
    "escalate.timed_out": "answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken promise: which rule, where (stream sequences), and what is wrong in plain words."""

    conversation: str
    rule: str
    words: str
    seqs: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = f" (sequence {', '.join(map(str, self.seqs))})" if self.seqs else ""
        return f"{self.conversation}: {self.rule}: {self.words}{where}"


@dataclass(frozen=True)
class History:
    """The facts of one conversation, oldest first.

    What bears no `/agents/…` source is a stranger's: it may stand anywhere and proves nothing against the agents.
    """

    conversation: str
    events: tuple[Event, ...]
    strange: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "strange", any(not is_ours(event) for event in self.events))

    @classmethod
    def of(cls, conversation: str, events: Iterable[Event]) -> History:
        """Return the history that `events` make: those of this conversation, in the order of the stream."""
        own = (event for event in events if event.subject.conversation == conversation)
        return cls(conversation, tuple(sorted(own, key=lambda event: event.seq)))

    @cached_property
    def ours(self) -> tuple[Event, ...]:
        """What agents, clients and humans recorded."""
        return tuple(event for event in self.events if is_ours(event))

    @cached_property
    def state(self) -> Conversation:
        """What it all amounts to."""
        return fold_all(self.conversation, self.events)

    @cached_property
    def end(self) -> Event | None:
        """The fact that ended the conversation."""
        return next((event for event in self.ours if event.kind in ENDS and is_readable(event)), None)

    @cached_property
    def archived(self) -> bool:
        """Whether most of it has left the stream: only the facts of the task are here."""
        kinds = {event.subject.family for event in self.events}
        return kinds == {"task"} and any(event.kind == "task.archived" for event in self.events)

    def of_kind(self, *kinds: str) -> list[Event]:
        """Return our facts of these kinds."""
        return [event for event in self.ours if event.kind in kinds]

    def attempts(self) -> dict[tuple[str, int], list[Event]]:
        """Return the claim, renewals and outcome of each attempt, strangers' words among them."""
        found: dict[tuple[str, int], list[Event]] = {}
        for event in self.events:
            if event.kind in _ATTEMPT:
                found.setdefault((event.subject.step, event.subject.number), []).append(event)
        return found

    def places(self) -> dict[tuple[str, ...], list[Event]]:
        """Return what stands in each place that has room for one fact: a subject with its rivals."""
        found: dict[tuple[str, ...], list[Event]] = {}
        for event in self.events:
            if event.kind not in _REPEATED:
                found.setdefault(place_of(event.subject), []).append(event)
        return found

    def records(self) -> Iterator[tuple[Event, Handled, bool]]:
        """Yield each record of a run with its outputs, and whether it is void: an orchestrator's, overtaken."""
        before = 0
        for event in self.events:
            if is_ours(event) and isinstance(event.data, Handled):
                decided = event.subject.verb == ORCHESTRATOR
                yield event, event.data, decided and before > int(event.subject.detail[0])
            before = event.seq

    def violation(self, rule: str, words: str, *events: Event) -> Violation:
        """Return a violation at these facts."""
        return Violation(
            conversation=self.conversation, rule=rule, words=words, seqs=tuple(event.seq for event in events)
        )


def place_of(subject: Subject) -> tuple[str, ...]:
    """Return the place that a fact takes: the same for all facts that exclude each other."""
    rivals = _RIVALS.get(subject.kind)
    if rivals is None:
        return (str(subject),)
    if rivals in ("task", "end"):
        return (rivals,)
    return (rivals, *subject.detail[: 2 if subject.family in ("step", "verify") else 1])


def is_ours(event: Event) -> bool:
    """Say whether a process of ours recorded it; the server's ticks count as ours."""
    return event.source.startswith("/agents/") or event.kind == "timer.fired"


def is_readable(event: Event) -> bool:
    """Say whether its body keeps its contract."""
    return not isinstance(event.data, Unreadable)
