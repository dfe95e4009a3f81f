"""Processes that die at each named point and are started again: every fact once, and of one run only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from motet_bus import Agent, Bus, Context, RunOptions
from motet_bus.letter_acts import retry
from motet_bus.letters import DeadLetters
from motet_bus.link import Link
from motet_schemas import Fact, Namespace, PermanentError, StepExecuted, TaskCancel, TaskSubmitted
from motet_schemas.subjects import build
from tests.bus.processes import AgentProcesses, Zygote
from tests.bus.support import (
    bus_as,
    dead_letters,
    eventually,
    executed,
    is_settled,
    kinds,
    last_of,
    offer,
    outsider_writes,
    running,
    stored_twice,
    submit,
)

AGENTS = "tests.bus.child_agents"
POINTS = ["before the handler", "after the handler", "between record and emit", "before the ack", "after the ack"]


@pytest.fixture
def processes(zygote: Zygote, tmp_path: Path, nats_url: str, namespace: Namespace) -> Iterator[AgentProcesses]:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as started:
        yield started


async def die_and_come_back(processes: AgentProcesses, agent: str, point: str) -> None:
    """Run an agent until it kills itself at `point`, then start it again."""
    first = processes.start(agent, crash=point)
    await first.gone()
    again = processes.start(agent)
    await again.ready()


@pytest.mark.parametrize("point", POINTS)
async def test_several_facts_are_recorded_once_and_of_one_run(
    processes: AgentProcesses, nats_url: str, link: Link, namespace: Namespace, point: str
) -> None:
    async with bus_as(nats_url, namespace, "client") as client:
        submitted = await submit(client, "c1")
        await die_and_come_back(processes, f"{AGENTS}:several", point)
        await eventually(lambda: is_settled(link, namespace, "watcher"))
        facts = await client.journal.read_kind("task.cancel.>")
        assert {fact.cause for fact in facts} == {submitted.seq}
        [token] = {fact.subject.detail[0].partition("-")[0] for fact in facts}
        assert sorted(fact.subject.detail[0] for fact in facts) == [f"{token}-{number}" for number in range(3)]
        assert len(await client.journal.read_kind("handled.>")) == 1
    assert token == processes.runs()[-1]
    assert len(processes.runs()) == (2 if point == "after the handler" else 1)
    assert await stored_twice(link, namespace) == []


@pytest.mark.parametrize("point", POINTS)
async def test_a_retried_letter_is_handled_once(
    processes: AgentProcesses, nats_url: str, link: Link, namespace: Namespace, point: str
) -> None:
    broken = Agent("watcher")

    @broken.on("task.submitted", name="watcher")
    async def give_up(event: TaskSubmitted, context: Context) -> None:
        raise PermanentError("not today")

    async with bus_as(nats_url, namespace, "operator") as operator:
        async with running(broken, nats_url, namespace, RunOptions(ack_wait_s=0.5)):
            async with bus_as(nats_url, namespace, "client") as client:
                submitted = await submit(client, "c1")
            await eventually(lambda: operator.journal.read_last("letter.dead.c1.>"))
            await eventually(lambda: is_settled(link, namespace, "watcher"))
        await retry(operator, await DeadLetters(operator).find(f"watcher-{submitted.seq}"), by="ann")
        await die_and_come_back(processes, f"{AGENTS}:several", point)
        await eventually(lambda: is_settled(link, namespace, "watcher"))
        facts = await operator.journal.read_kind("task.cancel.>")
    assert {fact.cause for fact in facts} == {submitted.seq}
    [token] = {fact.subject.detail[0].partition("-")[0] for fact in facts}
    assert sorted(fact.subject.detail[0] for fact in facts) == [f"{token}-{number}" for number in range(3)]
    assert token == processes.runs()[-1]
    assert len(processes.runs()) == (2 if point == "after the handler" else 1)
    assert len(await dead_letters(link, namespace)) == 1
    assert await stored_twice(link, namespace) == []


@pytest.mark.parametrize("point", ["before the handler", "after the handler", "before the ack", "after the ack"])
async def test_a_run_without_facts_is_recorded_once(
    processes: AgentProcesses, nats_url: str, link: Link, namespace: Namespace, point: str
) -> None:
    async with bus_as(nats_url, namespace, "client") as client:
        await submit(client, "c1")
        await die_and_come_back(processes, f"{AGENTS}:none", point)
        await eventually(lambda: is_settled(link, namespace, "watcher"))
        assert await kinds(client, "c1") == ["task.submitted", "handled"]
    assert len(processes.runs()) == (2 if point == "after the handler" else 1)


@pytest.mark.parametrize("point", ["before the handler", "after the handler", "before the ack", "after the ack"])
async def test_one_verdict_is_recorded_once_although_runs_disagree(
    processes: AgentProcesses, nats_url: str, link: Link, namespace: Namespace, point: str
) -> None:
    done = StepExecuted(status="passed", confidence=1.0, elapsed_ms=1, executor="me", idempotency_key="k")
    async with bus_as(nats_url, namespace, "client") as client:
        await outsider_writes(link, namespace, "step.executed.c1.s1.1", done.to_json())
        await die_and_come_back(processes, f"{AGENTS}:one", point)
        await eventually(lambda: is_settled(link, namespace, "judge"))
        [_, verdict] = await client.journal.read_conversation("c1")
    assert verdict.subject.family == "verify"
    first_counts = point in ("before the ack", "after the ack")
    assert f'"verifier":"{processes.runs()[0 if first_counts else -1]}"'.encode() in verdict.data.to_json()  # type: ignore[union-attr]


@pytest.mark.parametrize("point", ["before the handler", "after the handler", "before the ack", "after the ack"])
async def test_a_step_has_one_result_and_a_lost_claim_is_said_to_be_lost(
    processes: AgentProcesses, nats_url: str, link: Link, namespace: Namespace, point: str
) -> None:
    async with bus_as(nats_url, namespace, "orchestrator") as orchestrator:
        await offer(orchestrator, "c1")
        await die_and_come_back(processes, f"{AGENTS}:steps", point)
        await eventually(lambda: is_settled(link, namespace, "step-work"), within_s=15)
        found = await kinds(orchestrator, "c1")
        if point == "after the handler":  # the claim died with its owner: the attempt is lost, and another may be made
            assert found == ["step.ready", "step.claimed", "step.expired"]
            await offer(orchestrator, "c1", attempt=2)
            record = await eventually(lambda: executed(orchestrator, "c1", attempt=2))
        else:
            assert found == ["step.ready", "step.claimed", "step.executed"]
            record = await eventually(lambda: executed(orchestrator, "c1"))
    assert record.output == processes.runs()[-1]
    assert len(processes.runs()) == (2 if point == "after the handler" else 1)
    assert await stored_twice(link, namespace) == []
    assert await dead_letters(link, namespace) == []


@pytest.mark.parametrize("point", ["before the handler", "between record and emit", "before the ack", "after the ack"])
async def test_a_decision_of_several_facts_is_completed_by_the_next_orchestrator(
    processes: AgentProcesses, nats_url: str, link: Link, namespace: Namespace, point: str
) -> None:
    async with bus_as(nats_url, namespace, "client") as client:
        await submit(client, "c1")
        await die_and_come_back(processes, "motet_agents.orchestrator:agent", point)
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
        assert sorted(await kinds(client, "c1")) == ["handled", "plan.requested", "task.submitted", "timer.set"]
    assert await stored_twice(link, namespace) == []


@pytest.mark.parametrize("point", ["after the commit", "before the ack"])
async def test_an_end_is_recorded_once(
    processes: AgentProcesses, nats_url: str, link: Link, namespace: Namespace, point: str
) -> None:
    async with bus_as(nats_url, namespace, "client") as client:
        await submit(client, "c1")
        await client.journal.append(Fact(build("task.cancel", "c1", "me"), TaskCancel(requested_by="me")))
        await die_and_come_back(processes, "motet_agents.orchestrator:agent", point)
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
        ended: Bus = client
        assert (await last_of(ended, "task.cancelled.c1.*")).kind == "task.cancelled"
        assert await kinds(client, "c1") == ["task.submitted", "task.cancel", "task.cancelled"]
    assert await stored_twice(link, namespace) == []
