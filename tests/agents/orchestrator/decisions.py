"""Reads decisions for tests: which facts are missing, by subject, and what comes of recording them."""

from __future__ import annotations

from typing import TypeVar

from motet_agents.orchestrator import decide
from motet_bus import Decision
from motet_schemas import Conversation, EscalateRaised, EventData, Fact, TimerSet
from tests.schemas.samples import Story

Data = TypeVar("Data", bound=EventData)


def missing(story: Story) -> list[str]:
    """The subjects of what is missing, without the conversation, and without timers."""
    return [_short(fact) for fact in decide(story.state).facts if not isinstance(fact.data, TimerSet)]


def timers(story: Story) -> list[str]:
    """The timers that are missing."""
    return [_short(fact) for fact in decide(story.state).facts if isinstance(fact.data, TimerSet)]


def the(kind: type[Data], story: Story) -> Data:
    """The only missing fact of a kind."""
    found = [fact.data for fact in decide(story.state).facts if isinstance(fact.data, kind)]
    assert len(found) == 1, [str(fact.subject) for fact in decide(story.state).facts]
    return found[0]


def questions(story: Story) -> list[str]:
    """Why humans are to be asked."""
    return [fact.data.reason for fact in decide(story.state).facts if isinstance(fact.data, EscalateRaised)]


def follow(story: Story, rounds: int = 10) -> Story:
    """Record what is missing, as an orchestrator does, until nothing is; the clock stands still."""
    for _ in range(rounds):
        facts = decide(story.state).facts
        if not facts:
            return story
        if len(facts) > 1:
            story.decided(*facts, after_s=0)
        for fact in facts:
            story.put(fact.subject, fact.data, after_s=0)
    raise AssertionError(f"after {rounds} decisions there is still something missing: {missing(story)} {timers(story)}")


def content(decision: Decision) -> list[tuple[str, EventData]]:
    """What a decision says, without the ids that are made up anew each time."""
    return [(str(fact.subject), fact.data) for fact in decision.facts]


def settled(state: Conversation) -> bool:
    """Whether nothing is missing."""
    return not decide(state).facts


def _short(fact: Fact) -> str:
    return ".".join((fact.subject.kind, *fact.subject.detail))
