"""A fleet of agent processes that works on whole conversations, and what must hold when all have ended."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from motet_bus import Client
from motet_bus.link import Link
from motet_schemas import Conversation, Namespace, StepExecuted, Task
from motet_schemas.audit import audit
from tests.bus.processes import AgentProcess, AgentProcesses
from tests.bus.support import dead_letters, eventually

PLAYBOOK = """
name: three-steps
capabilities: [slow-work]
budget: {max_attempts: 6, time_budget_s: 240}
policy: {min_confidence: 0.5, max_replans: 0}
plan:
  - id: a
    capability: slow-work
    goal: begin
    manifest: &m {objective: done, verification: [{kind: schema, output_schema: {type: string}}]}
  - {id: b, capability: slow-work, goal: go on, depends_on: [a], manifest: *m}
  - {id: c, capability: slow-work, goal: go on, depends_on: [a], manifest: *m}
"""

ROLES = {
    "orchestrator": "motet_agents.orchestrator:agent",
    "planner": "motet_agents.planner:agent",
    "executor": "tests.bus.child_agents:slow",
    "verifier": "motet_agents.verifier:agent",
}


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
    """Assert what a conversation owes: it completed, no lost claim cost an attempt, and the oracle has no complaint."""
    for state in states:
        assert state.ending is not None
        assert state.ending.status == "completed", state.ending.report.concerns
        assert state.ending.report.usage.attempts == 3
    assert await dead_letters(link, namespace) == []
    await no_promise_is_broken(client, [state.id for state in states])


async def no_promise_is_broken(client: Client, names: list[str]) -> None:
    """Assert that the oracle finds nothing wrong with these conversations, which are at rest."""
    letters = await dead_letters(client.link, client.namespace)
    for name in names:
        about = [letter for letter in letters if letter.subject.split(".")[2] == name]
        assert audit(name, await client.events(name), letters=about) == []


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
