"""Whole conversations on real processes, which are killed with SIGKILL, frozen and started again, as is the server."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from motet_bus import Client, open_client
from motet_bus.link import Link
from motet_schemas import Conversation, Namespace, StepExecuted, Task, standing
from tests.bus.processes import AgentProcess, AgentProcesses, Zygote
from tests.bus.servers import NatsServer
from tests.bus.support import dead_letters, eventually, options, stored, stored_twice

PLAYBOOK = """
name: three-steps
capabilities: [slow-work]
budget: {max_attempts: 6, time_budget_s: 240}
policy: {min_confidence: 0.5, max_replans: 0}
plan:
  - {id: a, capability: slow-work, goal: begin, manifest: &m {objective: done, verification: [{kind: schema, output_schema: {type: string}}]}}
  - {id: b, capability: slow-work, goal: go on, depends_on: [a], manifest: *m}
  - {id: c, capability: slow-work, goal: go on, depends_on: [a], manifest: *m}
"""

ROLES = {
    "orchestrator": "motet_agents.orchestrator:agent",
    "planner": "motet_agents.planner:agent",
    "executor": "tests.bus.child_agents:slow",
    "verifier": "motet_agents.verifier:agent",
}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


class Fleet:
    """Two processes of each role, one planner, and a client."""

    def __init__(self, processes: AgentProcesses, folder: Path) -> None:
        playbooks = folder / "playbooks"
        playbooks.mkdir()
        (playbooks / "three-steps.yaml").write_text(PLAYBOOK)
        self._processes = processes
        self._settings = {"playbooks": str(playbooks)}
        self.members: dict[str, list[AgentProcess]] = {role: [] for role in ROLES}

    def add(self, role: str, **order: object) -> AgentProcess:
        member = self._processes.start(ROLES[role], settings=self._settings, **order)
        self.members[role].append(member)
        return member

    def start(self) -> None:
        for role in ("orchestrator", "executor", "verifier", "planner"):
            for _ in range(1 if role == "planner" else 2):
                self.add(role)

    async def ready(self) -> None:
        for members in self.members.values():
            for member in members:
                await member.ready()

    async def kill_one(self, role: str) -> None:
        """Kill the oldest living process of a role, and start another."""
        victim = self.members[role].pop(0)
        victim.signal(signal.SIGKILL)
        await victim.gone()
        self.add(role)


async def submit_all(client: Client, count: int, takes_s: float) -> list[str]:
    names = [f"c{number}" for number in range(count)]
    task = Task(kind="three-steps", input={"takes_s": str(takes_s)})
    await asyncio.gather(*(client.submit(task, name) for name in names))
    return names


async def all_ended(client: Client, names: list[str], *, within_s: float) -> list[Conversation]:
    """Wait until every conversation has ended; their states."""

    async def look() -> list[Conversation] | None:
        states = [await client.load(name) for name in names]
        return states if all(state.ending is not None for state in states) else None

    try:
        return await eventually(look, within_s=within_s)
    except AssertionError:
        stuck = [name for name in names if (await client.load(name)).ending is None]
        facts = [f"{one.seq} {one.subject} ← {one.cause} by {one.source}" for one in await client.events(stuck[0])]
        raise AssertionError("\n".join([f"these did not end: {stuck}; the first of them:", *facts])) from None


async def check_everything(client: Client, link: Link, namespace: Namespace, states: list[Conversation]) -> None:
    """Assert what a conversation owes: it completed, every fact stands once, no lost claim cost an attempt."""
    for state in states:
        assert state.ending is not None
        assert state.ending.status == "completed", state.ending.report.concerns
        assert state.ending.report.usage.attempts == 3
        assert state.pending == {}
        for step in ("a", "b", "c"):
            attempts = state.opened(step)
            assert sum(1 for attempt in attempts if attempt.record is not None) == 1
            assert standing.attempts_made(state, [step]) == 1
    assert await stored_twice(link, namespace) == []
    assert await dead_letters(link, namespace) == []
    ends = [message for message in await stored(link, namespace, "task.completed.>")]
    assert len(ends) == len(states)


# In the default run: each role killed once, in the middle of the work


async def test_conversations_complete_although_one_of_each_role_is_killed_in_the_middle(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            fleet.start()
            await fleet.ready()
            names = await submit_all(client, 6, 0.4)
            for role, seen in (("planner", 0), ("orchestrator", 2), ("executor", 4), ("verifier", 8), ("executor", 10)):

                async def far_enough(runs: int = seen) -> bool:
                    return len(processes.runs()) >= runs

                await eventually(far_enough, within_s=20)
                await fleet.kill_one(role)
            states = await all_ended(client, names, within_s=45)
            await check_everything(client, link, namespace, states)
            await results_are_of_real_runs(client, processes, names)


async def results_are_of_real_runs(client: Client, processes: AgentProcesses, names: list[str]) -> None:
    """Assert that each recorded output is what one run of the handler answered, and no two records share a run."""
    outputs = [
        event.data.output
        for name in names
        for event in await client.events(name)
        if isinstance(event.data, StepExecuted)
    ]
    assert set(map(str, outputs)) <= set(processes.runs())
    assert len(outputs) == len(set(map(str, outputs))) == 3 * len(names)


async def test_a_frozen_worker_that_wakes_after_its_claim_was_taken_changes_nothing(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            for role in ("orchestrator", "planner", "verifier"):
                fleet.add(role)
            zombie = fleet.add("executor")
            await fleet.ready()
            [name] = await submit_all(client, 1, 0.7)

            async def working() -> bool:
                return bool(processes.runs())

            await eventually(working)
            zombie.signal(signal.SIGSTOP)
            other = fleet.add("executor")
            await other.ready()
            [state] = await all_ended(client, [name], within_s=30)
            before = await kinds_of(client, name)
            zombie.signal(signal.SIGCONT)
            await asyncio.sleep(1.5)  # it wakes, ends its run, and tries to record it
            assert await kinds_of(client, name) == before
            assert zombie.alive
            await check_everything(client, link, namespace, [state])
            lost = [attempt for attempt in state.opened("a") if attempt.lost is not None]
            assert len(lost) == 1
            assert lost[0].lost is not None
            assert lost[0].lost.owner == zombie.ready_file.read_text()


async def kinds_of(client: Client, name: str) -> list[str]:
    return [event.kind for event in await client.events(name)]


async def test_an_agent_that_is_told_to_stop_is_gone_within_ten_seconds_and_its_step_goes_to_another(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        processes.defaults |= {"claim_ttl_s": 30.0, "ack_wait_s": 30.0}
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            for role in ("orchestrator", "planner", "verifier"):
                fleet.add(role)
            first = fleet.add("executor")
            await fleet.ready()
            [name] = await submit_all(client, 1, 12.0)

            async def working() -> bool:
                return bool(processes.runs())

            await eventually(working)
            first.signal(signal.SIGTERM)
            await first.gone(within_s=10.5)

            async def released() -> bool:
                return "step.expired" in await kinds_of(client, name)

            await eventually(released, within_s=2)
            state = await client.load(name)
            assert standing.attempts_made(state) == len(state.opened("a")) - 1


# The long ones


@pytest.mark.chaos
async def test_thirty_conversations_complete_although_server_and_agents_are_killed_again_and_again(
    zygote: Zygote, tmp_path: Path
) -> None:
    dice = random.Random(2026)  # noqa: S311 - which process dies next is no secret
    namespace = Namespace("storm")
    with (
        NatsServer(tmp_path / "storm") as server,
        AgentProcesses(zygote, tmp_path, server.url, namespace) as processes,
    ):
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(server.url), namespace=namespace.name) as client:
            fleet.start()
            await fleet.ready()
            names = await submit_all(client, 30, 0.3)
            for round_ in range(6):
                await asyncio.sleep(dice.uniform(0.3, 1.0))
                await fleet.kill_one(dice.choice(list(ROLES)))
                if round_ % 2:
                    server.restart()
            states = await all_ended(client, names, within_s=90)
            await check_everything(client, client.link, namespace, states)
            await results_are_of_real_runs(client, processes, names)
