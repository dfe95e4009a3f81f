"""Every role killed at every named point of its work, in the middle of whole conversations; the oracle judges."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from motet_bus import Client, open_client
from motet_bus.crashpoints import unread
from motet_gateway.chaos.crew import PLAYBOOKS
from motet_schemas import Namespace
from tests.bus.doubtful import MEMBERS, TASK, names_in_doubt
from tests.bus.fleet import all_ended, no_promise_is_broken
from tests.bus.processes import AgentProcess, AgentProcesses, Zygote
from tests.bus.servers import until
from tests.bus.support import eventually, is_settled, options

pytestmark = pytest.mark.slow

_AROUND: Final = ("before the handler", "after the handler", "before the ack", "after the ack")
POINTS: Final = {
    "orchestrator": (
        "before the handler",
        "after the handler",
        "between record and emit",
        "after the commit",
        unread("handled"),
        unread("step.ready"),
        unread("task.completed"),
        "before the ack",
        "after the ack",
    ),
    "planner": (*_AROUND, unread("plan.created")),
    "executor": (*_AROUND, unread("step.claimed"), unread("step.executed")),
    "verifier": (*_AROUND, unread("verify.passed")),
    "specialist": (*_AROUND, "between record and emit", unread("handled"), unread("task.cancel")),
    "desk": (*_AROUND, unread("escalate.answered")),
}
MATRIX: Final = [(role, point) for role, points in POINTS.items() for point in points]
DURABLES: Final = ("orchestrator", "planner", "step-chaos-work", "verifier", "chaos-watcher", "chaos-desk")


class Stage:
    """One process of every role; some of them die once, and are started again."""

    def __init__(self, processes: AgentProcesses, client: Client, victims: dict[str, str]) -> None:
        self._processes = processes
        self._client = client
        self._victims = victims
        self._first: dict[str, AgentProcess] = {}

    def _start(self, role: str, **order: object) -> AgentProcess:
        return self._processes.start(MEMBERS[role], settings={"playbooks": str(PLAYBOOKS)}, **order)

    async def play(self, conversations: list[str]) -> None:
        """Submit, let the victims die, start them again, and judge what is recorded once all is at rest."""
        for role in MEMBERS:
            crash = self._victims.get(role)
            self._first[role] = self._start(role) if crash is None else self._start(role, crash=crash)
        await asyncio.gather(*(self._client.submit(TASK, name) for name in conversations))
        again = [asyncio.create_task(self._replace(role), name=role) for role in self._victims]
        states = await all_ended(self._client, conversations, within_s=40)
        _, alive = await asyncio.wait(again, timeout=30)
        assert [task.get_name() for task in alive] == [], "passed no such point"
        for durable in DURABLES:
            await eventually(lambda name=durable: self._idle(name), within_s=15)  # type: ignore[misc]
        assert [state.ending.status for state in states if state.ending] == ["completed"] * len(conversations)
        await no_promise_is_broken(self._client, conversations)
        for name in conversations:
            await self._says_of_one_run(name)

    async def _replace(self, role: str) -> None:
        victim = self._first[role]
        await until(lambda: not victim.alive, within_s=60)
        self._start(role)

    async def _idle(self, durable: str) -> bool:
        return await is_settled(self._client.link, self._client.namespace, durable)

    async def _says_of_one_run(self, name: str) -> None:
        """The specialist emits two facts a run: those that stand are of one and the same run."""
        said = await self._client.journal.read_kind(f"task.cancel.{name}.*")
        runs = {event.subject.detail[0].partition("-")[0] for event in said}
        assert (len(said), len(runs)) == (2, 1)


async def play(
    zygote: Zygote, tmp_path: Path, nats_url: str, namespace: Namespace, victims: dict[str, str], number: int
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        processes.defaults |= {"claim_ttl_s": 2.0}
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            await Stage(processes, client, victims).play(names_in_doubt(number))


@pytest.mark.parametrize(
    "victims",
    [
        {
            "orchestrator": "between record and emit",
            "planner": unread("plan.created"),
            "executor": "before the ack",  # a lost claim would be another attempt, about which nobody is in doubt
            "verifier": "before the ack",
            "specialist": "between record and emit",
            "desk": unread("escalate.answered"),
        },
        {
            "orchestrator": unread("handled"),
            "planner": "after the handler",
            "executor": unread("step.executed"),
            "verifier": unread("verify.passed"),
            "specialist": unread("task.cancel"),
            "desk": "before the handler",
        },
    ],
    ids=["first", "second"],
)
async def test_every_role_may_die_in_the_same_conversations(
    zygote: Zygote, tmp_path: Path, nats_url: str, namespace: Namespace, victims: dict[str, str]
) -> None:
    await play(zygote, tmp_path, nats_url, namespace, victims, 2)


@pytest.mark.chaos
@pytest.mark.parametrize(("role", "point"), MATRIX, ids=[f"{role}: {point}" for role, point in MATRIX])
async def test_a_role_may_die_at_every_point(
    zygote: Zygote, tmp_path: Path, nats_url: str, namespace: Namespace, role: str, point: str
) -> None:
    await play(zygote, tmp_path, nats_url, namespace, {role: point}, 3)
