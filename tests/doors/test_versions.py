"""Old and new side by side: a minor version is read, a major one is nobody's to judge but a newer process's."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from motet_agents.orchestrator import agent as orchestrator
from motet_agents.orchestrator import decide
from motet_agents.planner import agent as planner
from motet_agents.verifier import agent as verifier
from motet_bus import Agent, Bus, Client, Context, RunOptions
from motet_schemas import (
    Event,
    Fact,
    Failure,
    Handled,
    LetterDead,
    LetterRetried,
    Namespace,
    NewerVersion,
    StepExecuted,
    Task,
    TaskCancel,
    decode,
    decode_output,
    encode,
    fold,
    subjects,
)
from motet_schemas.standing import open_questions
from motet_schemas.subjects import Subject, build
from tests.bus.support import bus_as, dead_letters, eventually, kinds, last_of, running
from tests.doors.measured import ROOT
from tests.schemas.samples import SAMPLES, Story, answer, plan, ready, record, step

STEP = step("tone")


def _newer(story: Story, kind: str, *detail: str | int, data: Any = None) -> Story:
    """Record a fact as a Motet of the next major version writes it: with a body that this one cannot know."""
    story.now += timedelta(seconds=1)
    subject = subjects.handled("orchestrator", "c", int(detail[0])) if kind == "handled" else build(kind, "c", *detail)
    headers = {"ce-type": f"motet.{kind}.v2"}
    body = b'{"from": "the future"}' if data is None else data
    story.events.append(decode(subject, headers, body, seq=len(story.events) + 1, time=story.now))
    return story


def _begun() -> Story:
    return Story().submitted().planned(plan(STEP)).opened(STEP).claimed(STEP)


def _letter(subject: str, consumer: str = "orchestrator", sequence: int = 6) -> LetterDead:
    failure = Failure(code="newer_version", message="written by a newer Motet: upgrade this agent")
    return LetterDead(consumer=consumer, subject=subject, sequence=sequence, deliveries=5, failure=failure)


# What is read


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_minor_version_adds_fields_and_is_read_without_them(kind: str) -> None:
    detail, data = SAMPLES[kind]
    subject = build(kind, "c", *detail)
    body = json.loads(data.to_json()) | {"added-in-1.9": [{"x": None}]}
    headers, _ = encode(Fact(subject, data), source="/agents/x/y")
    headers["motet-added-in"] = "1.9"
    event = decode(subject, headers, json.dumps(body).encode(), seq=1, time=datetime.now(UTC))
    assert event.data == data


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_major_version_is_not_read_and_says_what_to_do(kind: str) -> None:
    detail, data = SAMPLES[kind]
    headers = {"ce-type": f"motet.{kind}.v2"}
    event = decode(build(kind, "c", *detail), headers, data.to_json(), seq=1, time=datetime.now(UTC))
    assert isinstance(event.data, NewerVersion)
    assert event.data.version == 2
    assert "upgrade this agent, then `motet dead retry`" in event.data.reason


def test_what_a_record_lists_has_a_version_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fact = Fact(build("step.executed", "c", "tone", 1), record())
    assert fact.to_output().version is None
    with monkeypatch.context() as upgraded:
        upgraded.setattr(StepExecuted, "schema_version", 2)
        output = fact.to_output()
        assert decode_output(output)[1] == record()
    assert isinstance(decode_output(output)[1], NewerVersion)


# What is made of it


@pytest.mark.parametrize(
    ("story", "kind", "detail"),
    [
        (Story(), "task.submitted", ("content-qa",)),
        (Story().submitted(), "plan.requested", (1,)),
        (Story().submitted().planned(plan(STEP)), "step.ready", ("tone", 1, "qa")),
        (Story().submitted().planned(plan(STEP)), "handled", (3,)),
        (_begun(), "step.executed", ("tone", 1)),
        (_begun().executed(STEP), "verify.passed", ("tone", 1)),
        (_begun().executed(STEP), "verify.failed", ("tone", 1)),
        (_begun(), "escalate.raised", (1,)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_old_orchestrator_decides_nothing_on_what_it_cannot_read(
    story: Story, kind: str, detail: tuple[Any, ...]
) -> None:
    _newer(story, kind, *detail)
    decision = decide(story.state)
    assert decision.facts == ()
    assert "upgrade" in decision.held
    assert story.add("task.cancel", "ann", data=TaskCancel(requested_by="ann")).state.newer
    assert [fact.subject.kind for fact in decide(story.state).facts] == ["task.cancelled"]


def test_a_human_is_asked_once_and_an_upgrade_takes_the_question_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _newer(_begun(), "step.executed", "tone", 1, data=record().to_json())
    for sequence in (5, 6):
        notice = _letter("step.executed.c.tone.1", sequence=sequence)
        told.add("letter.dead", "orchestrator", sequence, data=notice)
    first = decide(told.state)
    asked = [fact for fact in first.facts if fact.subject.kind == "escalate.raised"]
    assert len(asked) == 1
    assert "upgrade this agent" in getattr(asked[0].data, "question", "")
    told.decided(*first.facts)
    assert decide(told.state).facts == ()
    with monkeypatch.context() as upgraded:
        upgraded.setattr(StepExecuted, "schema_version", 2)
        events = [_read_again(event) for event in told.events]
        told.events = events
        assert told.state.newer == {}
        assert told.verified(STEP).state.opened("tone")[-1].verification is not None
        assert [fact.subject.kind for fact in decide(told.state).facts] == ["task.completed"]


def _read_again(event: Event) -> Event:
    if not isinstance(event.data, NewerVersion):
        return event
    return decode(event.subject, event.headers, record().to_json(), seq=event.seq, time=event.time)


def test_carrying_on_makes_rubbish_of_it_and_stopping_stops() -> None:
    story = _newer(_begun(), "step.executed", "tone", 1)
    story.add("letter.dead", "orchestrator", 6, data=_letter("step.executed.c.tone.1"))
    for fact in (facts := decide(story.state).facts):
        story.put(fact.subject, fact.data)
    assert facts
    stopped = Story()
    stopped.events, stopped.now = list(story.events), story.now
    stopped.add("escalate.answered", 1, data=answer("reject"))
    assert [fact.subject.kind for fact in decide(stopped.state).facts] == ["task.failed"]
    story.add("escalate.answered", 1, data=answer("approve"))
    assert story.state.newer == {}
    assert "step.ready.c.tone.2.qa" in [str(fact.subject) for fact in decide(story.state).facts]


def test_what_a_newer_version_wrote_out_of_turn_holds_nobody_up() -> None:
    story = _begun()
    for kind, detail in (
        ("step.executed", ("nobody", 7)),
        ("verify.passed", ("tone", 9)),
        ("escalate.answered", (4,)),
        ("step.ready", ("tone", 5, "qa")),
        ("timer.fired", ("budget", 1)),
        ("letter.dead", ("x", 4)),
    ):
        _newer(story, kind, *detail)
    assert story.state.newer == {}


def test_a_claim_of_a_newer_version_lives_for_a_while() -> None:
    story = _newer(Story().submitted().planned(plan(STEP)).opened(STEP), "step.claimed", "tone", 1)
    claim = story.state.opened("tone")[0].claim
    assert claim is not None
    assert claim.live_until == story.now + timedelta(seconds=60)
    assert story.state.newer == {}
    _newer(story, "step.renewed", "tone", 1)
    renewed = story.state.opened("tone")[0].claim
    assert renewed is not None
    assert renewed.live_until > claim.live_until


def test_an_end_of_a_newer_version_is_an_end() -> None:
    story = _newer(_begun(), "task.completed", "content-qa")
    ending = story.state.ending
    assert ending is not None
    assert (ending.status, ending.report.verdict) == ("completed", "needs_human")
    assert "upgrade" in ending.report.summary
    assert decide(story.state).facts == ()
    assert fold(story.state, story.events[-1]) == story.state


def test_a_decision_that_lists_a_newer_fact_is_held_too(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story().submitted().planned(plan(STEP))
    with monkeypatch.context() as upgraded:
        fact = Fact(build("step.ready", "c", "tone", 1, "qa"), ready(STEP))
        upgraded.setattr(type(fact.data), "schema_version", 2)
        listed = Handled(outputs=(fact.to_output(),))
    story.put(subjects.handled("orchestrator", "c", 3), listed)
    assert "step.ready.c.tone.1.qa" in story.state.newer
    assert decide(story.state).held


# On a real server


@pytest.fixture
async def bus(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "executor") as opened:
        yield opened


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr("motet_bus.consumer._RETRY_FIRST_S", 0.01)


async def _executed_by_a_newer_agent(bus: Bus, handed: Subject) -> None:
    """Record what the next major version of an executor would: today's body, and more, under another version."""
    done = record(executor="executor-next", idempotency_key="x", confidence=0.99).to_json()
    body = done[:-1] + b',"meaning":"changed"}'
    headers = {"ce-type": "motet.step.executed.v2", "ce-id": "from-the-future"}
    wire = bus.namespace.wire(f"step.executed.{handed.conversation}.{handed.step}.{handed.number}")
    await bus.link.publish_stored(wire, body, headers)


@pytest.mark.usefixtures("at_once")
async def test_old_agents_hand_over_to_a_human_and_upgraded_ones_go_on(
    bus: Bus, nats_url: str, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(bus)
    task = Task(kind="content-qa", input={"draft": "Terms apply."}, checklist={"tone": {}})
    old = (orchestrator, planner, verifier)
    async with AsyncExitStack() as stack, bus_as(nats_url, namespace, "client") as guest:
        agents = [await stack.enter_async_context(running(one, nats_url, namespace)) for one in old]
        await Client(guest).submit(task, "mixed")
        await eventually(lambda: bus.journal.read_last("step.ready.mixed.>"))
        handed = (await last_of(bus, "step.ready.mixed.>")).subject
        await _executed_by_a_newer_agent(bus, handed)
        await eventually(lambda: bus.journal.read_last("escalate.raised.mixed.>"))
        state = await client.load("mixed")
        assert state.newer
        assert [len(state.opened(name)) for name in state.attempts] == [1], "no attempt was spent on it"
        raised = state.questions[1].raised
        assert raised is not None
        assert "upgrade this agent, then `motet dead retry`" in raised.question
        letters = await eventually(lambda: _letters_of_all(bus, namespace, {"orchestrator", "verifier"}))
        for agent in agents:
            await agent.end()
    assert {letter.failure.code for letter in letters} == {"newer_version"}
    assert all(letter.deliveries > 1 for letter in letters), "first it was handed to whoever might be newer"

    monkeypatch.setattr(StepExecuted, "schema_version", 2)
    async with AsyncExitStack() as stack, bus_as(nats_url, namespace, "operator") as operator:
        for one in old:
            await stack.enter_async_context(running(one, nats_url, namespace))
        for consumer, sequence in {(letter.consumer, letter.sequence) for letter in letters}:
            retry = Fact(build("letter.retried", "mixed", consumer, sequence), LetterRetried(by="ann"))
            await operator.journal.append(retry)
        # The record was made up here, so its gates do not hold: it is judged, and another attempt is opened.
        await eventually(lambda: bus.journal.read_last("step.ready.mixed.tone.2.tone"))
        went_on = await kinds(operator, "mixed")
        assert not open_questions(await Client(operator).load("mixed"))
    assert went_on.count("verify.failed") == 1


async def _letters_of_all(bus: Bus, namespace: Namespace, consumers: set[str]) -> Any:
    found = await dead_letters(bus.link, namespace)
    return found if consumers <= {letter.consumer for letter in found} else None


@pytest.mark.usefixtures("at_once")
async def test_where_a_newer_agent_runs_beside_an_old_one_it_gets_the_event(
    bus: Bus, nats_url: str, namespace: Namespace
) -> None:
    old = Agent("listener")
    seen: list[str] = []

    @old.on("step.executed", name="listener")
    async def listen(event: StepExecuted, context: Context) -> None:
        seen.append(context.conversation)

    conversations = [f"c{number}" for number in range(4)]
    async with _newer_listener(nats_url, namespace), running(old, nats_url, namespace, RunOptions()):
        for conversation in conversations:
            await _executed_by_a_newer_agent(bus, build("step.ready", conversation, "a", 1, "qa"))
        await eventually(lambda: _settled(bus, namespace, conversations))
    assert seen == []
    assert await bus.journal.read_kind("task.cancel.*.newer")


async def _settled(bus: Bus, namespace: Namespace, conversations: list[str]) -> bool:
    """Say whether each event was read by the newer agent, or buried after the old one had got it five times."""
    read = {event.subject.conversation for event in await bus.journal.read_kind("task.cancel.*.newer")}
    buried = {letter.subject.split(".")[2] for letter in await dead_letters(bus.link, namespace)}
    return read | buried == set(conversations)


@asynccontextmanager
async def _newer_listener(url: str, namespace: Namespace) -> AsyncGenerator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "motet_gateway.agent_process",
        "tests.doors.newer_listener:agent",
        cwd=ROOT,
        env={**os.environ, "MOTET_NATS_URL": url, "MOTET_NAMESPACE": namespace.name},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert b"ready" in await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.communicate()
