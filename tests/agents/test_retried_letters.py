"""Dead letters in whole conversations: a human is asked, a retry clears the question, a discard hangs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from motet_agents import desk
from motet_agents.orchestrator import agent as orchestrator
from motet_agents.planner import agent as planner
from motet_agents.verifier import agent as verifier
from motet_bus import Agent, Bus, Client, ConnectOptions, Context, Outcome, RunOptions, Step, open_client
from motet_bus.letter_acts import discard, retry
from motet_bus.letters import DeadLetters, KeptLetter, LetterFilter
from motet_schemas import Conversation, EventData, HumanAnswer, Namespace, PermanentError, Task
from motet_schemas.audit import audit
from motet_schemas.budget import PolicyOverride
from motet_schemas.standing import open_questions
from tests.bus.support import bus_as, eventually, running

RUN = RunOptions()
PLAYBOOK = """
name: one-step
capabilities: [work]
budget: {max_attempts: 1, time_budget_s: 60}
policy: {max_replans: 0}
plan:
  - id: a
    capability: work
    goal: do it
    max_attempts: 1
    manifest: {objective: done, verification: [{kind: schema, output_schema: {type: string}}]}
"""


class Fault:
    """What breaks handlers for as long as `there`; then a handler takes `pause_s`."""

    def __init__(self) -> None:
        self.there = True
        self.pause_s = 0.0

    async def strike(self) -> None:
        if self.there:
            raise PermanentError("the database is shut")
        await asyncio.sleep(self.pause_s)


def worker(fault: Fault) -> Agent:
    agent = Agent("worker", role="executor")

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        await fault.strike()
        return Outcome.passed(confidence=1.0, output="done")

    return agent


def listener(fault: Fault) -> Agent:
    agent = Agent("learner")

    @agent.on("task.submitted", name="learner")
    async def learn(event: EventData, context: Context) -> None:
        await fault.strike()

    return agent


def broken(whole: Agent) -> Agent:
    """Return an agent that stands in for `whole`, and cannot do its work."""
    agent, [registration] = Agent(whole.name, role=whole.role), whole.registrations
    kinds = [name.removesuffix(".>") for name in registration.filters]

    @agent.on(*kinds, name=registration.durable)
    async def give_up(event: EventData, context: Context) -> None:
        raise PermanentError("the database is shut")

    return agent


@asynccontextmanager
async def serving(
    url: str, namespace: Namespace, folder: Path, *agents: Agent
) -> AsyncGenerator[tuple[Client, DeadLetters, Bus]]:
    """Run an orchestrator and these agents; yield a guest's client, the dead letters, and an operator's bus."""
    (folder / "one-step.yaml").write_text(PLAYBOOK)
    settings = {"playbooks": str(folder)}
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(bus_as(url, namespace, "operator"))
        client = await stack.enter_async_context(open_client(ConnectOptions(url=url), namespace=namespace.name))
        for one in (orchestrator, *agents):
            await stack.enter_async_context(running(one, url, namespace, RUN, settings=settings))
        yield client, DeadLetters(operator), operator


async def submit(client: Client, **policy: int) -> None:
    await client.submit(Task(kind="one-step", policy=PolicyOverride(**policy) if policy else None), "c1")  # type: ignore[arg-type]


async def until_asked(client: Client, number: int) -> Conversation:
    async def look() -> Conversation | None:
        state = await client.load("c1")
        return state if number in state.questions else None

    return await eventually(look, within_s=15)


async def until_ended(client: Client, letters: DeadLetters) -> Conversation:
    """Return the conversation once it has ended, after an audit of all that was recorded."""

    async def look() -> Conversation | None:
        state = await client.load("c1")
        return state if state.ending is not None else None

    ended = await eventually(look, within_s=20)
    every = LetterFilter(statuses=frozenset({"dead", "retried", "discarded"}))
    notices = [kept.letter async for kept in letters.find_all(every)]
    assert audit("c1", await client.events("c1"), letters=notices) == []
    return ended


async def the_letter(letters: DeadLetters) -> KeptLetter:
    """The one open letter."""

    async def look() -> KeptLetter | None:
        return next(iter([kept async for kept in letters.find_all(LetterFilter())]), None)

    return await eventually(look)


async def test_a_retried_step_is_done_anew_and_its_question_neither_waits_nor_times_out(
    nats_url: str, namespace: Namespace, tmp_path: Path
) -> None:
    """Its only attempt is used up: the operator's word grants another."""
    fault = Fault()
    async with serving(nats_url, namespace, tmp_path, planner, worker(fault), verifier) as (client, letters, operator):
        await submit(client, human_sla_s=2)
        asked = await until_asked(client, 1)
        raised = asked.questions[1].raised
        assert raised is not None
        kept = await the_letter(letters)
        assert (raised.reason, raised.step, raised.letter) == ("dead_letter", "a", kept.id)
        fault.there, fault.pause_s = False, 2.5
        await retry(operator, kept, by="ann", reason="the database is back")
        ended = await until_ended(client, letters)
        events = [event.kind for event in await client.events("c1")]
    assert ended.ending is not None
    assert ended.ending.status == "completed"
    assert "timer.fired" in events, "the question's time came while the step ran"
    assert "escalate.timed_out" not in events
    assert [attempt.number for attempt in ended.opened("a")] == [1, 2]
    assert ended.questions[1].answer is None


async def test_a_step_that_breaks_again_is_asked_about_again(
    nats_url: str, namespace: Namespace, tmp_path: Path
) -> None:
    fault = Fault()
    async with (
        serving(nats_url, namespace, tmp_path, planner, worker(fault), verifier) as (client, letters, operator),
        open_client(ConnectOptions(url=nats_url), namespace=namespace.name, role="desk", by="desk") as human,
    ):
        await submit(client)
        await until_asked(client, 1)
        await retry(operator, await the_letter(letters), by="ann")
        asked = await until_asked(client, 2)
        second = asked.questions[2].raised
        assert second is not None
        kept = await the_letter(letters)
        assert (second.reason, second.attempt, second.letter) == ("dead_letter", 2, kept.id)
        assert [question.number for question in open_questions(asked)] == [2]
        taken = HumanAnswer(decision="take_over", result="by hand", answered_by="ben")
        await desk.answer(human, "c1", None, taken)
        ended = await until_ended(client, letters)
    assert ended.ending is not None
    assert ended.ending.status == "completed"
    assert any(f"dead letter {kept.id}" in concern for concern in ended.ending.report.concerns)


@pytest.mark.parametrize("role", ["planner", "verifier"])
async def test_a_retry_lets_the_planner_or_the_verifier_go_on(
    nats_url: str, namespace: Namespace, tmp_path: Path, role: str
) -> None:
    fault = Fault()
    fault.there = False
    whole = {"planner": planner, "verifier": verifier}[role]
    others = [one for one in (planner, verifier) if one is not whole]
    async with serving(nats_url, namespace, tmp_path, worker(fault), *others) as (client, letters, operator):
        async with running(broken(whole), nats_url, namespace, RUN):
            await submit(client)
            await until_asked(client, 1)
        await retry(operator, await the_letter(letters), by="ann")
        assert open_questions(await client.load("c1")) == []
        async with running(whole, nats_url, namespace, RUN, settings={"playbooks": str(tmp_path)}):
            ended = await until_ended(client, letters)
    assert ended.ending is not None
    assert ended.ending.status == "completed"
    assert len(ended.opened("a")) == 1


@pytest.mark.parametrize("act", ["retried", "discarded"])
async def test_a_letter_of_somebody_who_only_listens_is_asked_about_until_an_operator_saw_to_it(
    nats_url: str, namespace: Namespace, tmp_path: Path, act: str
) -> None:
    fault, work = Fault(), Fault()
    work.there, work.pause_s = False, 1.0
    agents = (planner, verifier, worker(work), listener(fault))
    async with serving(nats_url, namespace, tmp_path, *agents) as (client, letters, operator):
        await submit(client)
        asked = await until_asked(client, 1)
        assert asked.questions[1].raised is not None
        assert asked.questions[1].raised.reason == "dead_letter"
        kept, fault.there = await the_letter(letters), False
        if act == "retried":
            await retry(operator, kept, by="ann")
        else:
            await discard(operator, kept, by="ann", reason="nobody needs it")
        ended = await until_ended(client, letters)
    assert ended.ending is not None
    assert ended.ending.status == "completed"
    assert ended.questions[1].answer is None
    concern = f"dead letter {kept.id}, discarded by ann (nobody needs it): the database is shut"
    assert (concern in ended.ending.report.concerns) == (act == "discarded")


async def test_a_discarded_step_waits_for_its_human_and_ends_when_nobody_answers(
    nats_url: str, namespace: Namespace, tmp_path: Path
) -> None:
    async with serving(nats_url, namespace, tmp_path, planner, worker(Fault()), verifier) as (
        client,
        letters,
        operator,
    ):
        await submit(client, human_sla_s=3)
        await until_asked(client, 1)
        await discard(operator, await the_letter(letters), by="ann", reason="the database will not come back")
        assert [question.number for question in open_questions(await client.load("c1"))] == [1]
        ended = await until_ended(client, letters)
    assert ended.ending is not None
    assert (ended.ending.status, ended.questions[1].decision) == ("failed", "reject")
