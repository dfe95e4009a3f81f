"""Between a record and its emits an outsider may put rubbish in an output's place: then it is missing again."""

from __future__ import annotations

from motet_agents.orchestrator import decide
from tests.agents.orchestrator.decisions import follow, missing, timers
from tests.schemas.samples import Story, plan, step

A, B = step("a", max_attempts=1), step("b", max_attempts=1)


def _recorded(story: Story, place: str) -> Story:
    """Record what is missing as decided, and put rubbish where `place` should be emitted."""
    facts = decide(story.state).facts
    story.decided(*facts)
    for fact in facts:
        story.put(fact.subject, b"rubbish" if str(fact.subject) == place else fact.data, after_s=0)
    assert story.state.pending == {}
    return story


def _planned() -> Story:
    return follow(Story().submitted()).add("plan.created", 1, data=plan(A, B, policy={"max_replans": 0}))


def test_a_handoff_is_made_again_and_costs_no_attempt() -> None:
    story = _recorded(_planned(), "step.ready.c.a.1.qa")
    assert missing(story) == ["step.ready.a.2.qa"]
    assert [one.number for one in story.state.opened("a")] == []


def test_a_question_is_asked_again() -> None:
    story = follow(_planned()).executed(A, status="blocked")
    assert missing(_recorded(story, "escalate.raised.c.1")) == ["escalate.raised.2"]


def test_a_timer_is_set_again() -> None:
    story = follow(_planned()).executed(A, status="blocked")
    assert timers(_recorded(story, "timer.set.c.escalation.1.1")) == ["timer.set.escalation.1.2"]


def test_a_plan_is_asked_for_again() -> None:
    story = _recorded(Story().submitted(), "plan.requested.c.1")
    assert missing(story) == ["plan.requested.2"]
