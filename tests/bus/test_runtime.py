"""One agent in this process: ready when it can work, gone when it is told to, loud when it cannot go on; roll calls."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from importlib.metadata import version

import pytest

from motet_bus import Agent, AgentCard, Bus, Context, Outcome, RunOptions, Step, open_client, run_agent
from motet_bus.link import Link
from motet_schemas import (
    BusUnavailableError,
    BusUnsuitableError,
    InvalidInputError,
    Namespace,
    PermanentError,
    TaskSubmitted,
)
from tests.bus.support import (
    bus_as,
    dead_letters,
    eventually,
    is_settled,
    kinds,
    offer,
    options,
    plan_step,
    running,
    submit,
)


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


def doing(name: str = "worker", capability: str = "work") -> Agent:
    agent = Agent(name, role="executor")

    @agent.step(capability)
    async def work(step: Step) -> Outcome:
        await asyncio.sleep(float(str(step.manifest.inputs.get("takes_s", "0"))))
        return Outcome.passed(confidence=1.0)

    return agent


async def test_an_agent_is_ready_when_its_consumers_are_there(nats_url: str, link: Link, namespace: Namespace) -> None:
    async with running(doing(), nats_url, namespace) as here:
        info = await link.api(f"CONSUMER.INFO.{namespace.stream('CONVERSATIONS')}.step-work", {})
        assert info["num_waiting"] >= 0
        assert here.card.consumers[0].name == "step-work"


async def test_an_agent_without_handlers_is_refused(nats_url: str, namespace: Namespace) -> None:
    with pytest.raises(InvalidInputError, match="no handlers"):
        await run_agent(Agent("empty"), options(nats_url), stop=asyncio.Event(), namespace=namespace.name)


async def test_an_agent_that_finds_nobody_at_the_address_says_so(namespace: Namespace) -> None:
    started = time.monotonic()
    with pytest.raises(BusUnavailableError):
        await run_agent(doing(), options("nats://127.0.0.1:9"), stop=asyncio.Event(), namespace=namespace.name)
    assert time.monotonic() - started < 6


async def test_an_agent_whose_consumer_is_not_as_it_must_be_ends_with_that_error_and_was_never_ready(
    nats_url: str, namespace: Namespace
) -> None:
    ready: list[AgentCard] = []
    async with running(doing(), nats_url, namespace, RunOptions(ack_wait_s=1.0)):
        pass
    with pytest.raises(BusUnsuitableError, match="ack_wait"):
        await run_agent(
            doing(),
            options(nats_url),
            stop=asyncio.Event(),
            namespace=namespace.name,
            run=RunOptions(ack_wait_s=5.0),
            on_ready=ready.append,
        )
    assert ready == []


async def test_a_stopped_agent_finishes_what_runs(nats_url: str, namespace: Namespace, orchestrator: Bus) -> None:
    step = plan_step().evolve(manifest=plan_step().manifest.evolve(inputs={"takes_s": "0.6"}))
    async with running(doing(), nats_url, namespace) as here:
        await offer(orchestrator, "c1", step)
        await eventually(lambda: orchestrator.journal.read_last("step.claimed.c1.s1.1"))
        await here.end()
    assert (await kinds(orchestrator, "c1"))[-1] == "step.executed"


async def test_several_agents_of_a_name_share_the_work(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    step = plan_step().evolve(manifest=plan_step().manifest.evolve(inputs={"takes_s": "0.1"}))
    async with running(doing(), nats_url, namespace) as one, running(doing(), nats_url, namespace) as two:
        await asyncio.gather(*(offer(orchestrator, f"c{number}", step) for number in range(12)))
        await eventually(lambda: is_settled(link, namespace, "step-work"))
        events = await orchestrator.journal.read_kind("step.executed.>")
    assert len(events) == 12
    assert {event.source.rpartition("/")[2] for event in events} == {one.card.instance, two.card.instance}


async def test_agents_in_other_namespaces_do_not_see_the_work(
    nats_url: str, namespace: Namespace, orchestrator: Bus
) -> None:
    other = Namespace(f"{namespace.name}-b")
    async with running(doing(), nats_url, other), bus_as(nats_url, other, "orchestrator") as there:
        await offer(orchestrator, "c1")
        await offer(there, "c2")
        await eventually(lambda: there.journal.read_last("step.executed.c2.s1.1"))
    assert await kinds(orchestrator, "c1") == ["step.ready"]


async def test_a_consumer_with_the_longest_name_can_bury_its_messages(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    capability = "c" * 64
    agent = Agent("n" * 64)

    @agent.step(capability)
    async def work(step: Step) -> Outcome:
        raise PermanentError("no")

    @agent.on("task.submitted", name="w" * 100)
    async def watch(event: TaskSubmitted, context: Context) -> None:
        raise PermanentError("never")

    async with bus_as(nats_url, namespace, "client") as client:
        submitted = await submit(client, "c2")
    ready = await offer(orchestrator, "c1", plan_step(capability=capability))
    async with running(agent, nats_url, namespace):
        await eventually(lambda: orchestrator.journal.read_last(f"letter.dead.c1.step-{capability}.{ready.seq}"))
        await eventually(lambda: orchestrator.journal.read_last(f"letter.dead.c2.{'w' * 100}.{submitted.seq}"))
    assert len(await dead_letters(link, namespace)) == 2
    state = await orchestrator.conversations.load("c1")
    assert state.letters


# Who is alive


async def test_a_roll_call_lists_who_is_alive_with_what_they_do(
    nats_url: str, namespace: Namespace, orchestrator: Bus
) -> None:
    agent = doing("alpha")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None: ...

    step = plan_step().evolve(manifest=plan_step().manifest.evolve(inputs={"takes_s": "0.8"}))
    async with open_client(options(nats_url), namespace=namespace.name) as client:
        assert await client.roll_call(for_s=0.1) == []
        async with running(agent, nats_url, namespace) as one, running(doing("beta"), nats_url, namespace):
            await offer(orchestrator, "c1", step)
            await eventually(lambda: orchestrator.journal.read_last("step.claimed.c1.s1.1"))
            cards = await client.roll_call(for_s=0.3)
        assert await client.roll_call(for_s=0.1) == []
    assert [card.name for card in cards] == ["alpha", "beta"]
    assert cards[0].model_copy(update={"consumers": ()}) == one.card.model_copy(update={"consumers": ()})
    assert cards[0].pid == os.getpid()
    assert cards[0].role == "executor"
    assert cards[0].version == version("motet")
    assert [(one.name, one.capability) for one in cards[0].consumers] == [("step-work", "work"), ("watcher", None)]
    assert sum(consumer.in_flight for card in cards for consumer in card.consumers) == 1


async def test_rubbish_in_answer_to_a_roll_call_is_passed_over(nats_url: str, namespace: Namespace, link: Link) -> None:
    from motet_bus.answers import Message

    async def shout(message: Message) -> None:
        await link.publish(message.reply, b"me too")
        await link.publish(message.reply, b'{"role": 3}')

    await link.subscribe(namespace.wire("signal.roll-call"), shout)
    async with (
        open_client(options(nats_url), namespace=namespace.name) as client,
        running(doing(), nats_url, namespace),
    ):
        await link.publish(namespace.wire("signal.roll-call"), b"nobody to answer to")
        assert [card.name for card in await client.roll_call(for_s=0.3)] == ["worker"]
