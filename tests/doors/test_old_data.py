"""What an older Motet left is read, gone on with, and finished; where old and new cannot share, they say so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from motet_agents import desk
from motet_agents.executor import agent as executor
from motet_agents.orchestrator import agent as orchestrator
from motet_agents.planner import agent as planner
from motet_agents.verifier import agent as verifier
from motet_bus import Bus, Client, ConnectOptions, RunOptions, open_client
from motet_bus.topology import apply_streams, conversations_stream
from motet_gateway.session import draft_of
from motet_schemas import BusUnsuitableError, HumanAnswer, Json, Namespace, Task, Unreadable
from motet_schemas.standing import open_questions, status
from tests.agents.test_whole_conversations import until_asked, until_ended
from tests.bus.servers import NatsServer
from tests.bus.support import bus_as, running
from tests.doors.measured import ROOT
from tests.doors.old_store import CONVERSATION, kept, put_on

_FIRST: Final = "ec47ea4"
"""The last commit before time had a stream of its own."""
_NEXT: Final = "bec7306"
"""The commit after it: its stream of conversations is today's, its bucket of objects allowed rollups."""


_AGENTS: Final = {"orchestrator": orchestrator, "planner": planner, "executor": executor, "verifier": verifier}


@asynccontextmanager
async def _agents(url: str, namespace: Namespace, *, without: tuple[str, ...] = ()) -> AsyncGenerator[Client]:
    """Run today's agents but those of some roles in this process; yield a guest's client."""
    async with AsyncExitStack() as stack:
        for role, agent in _AGENTS.items():
            if role not in without:
                await stack.enter_async_context(running(agent, url, namespace, RunOptions()))
        yield await stack.enter_async_context(open_client(ConnectOptions(url=url), namespace=namespace.name))


@pytest.fixture
async def bus(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as opened:
        yield opened


async def test_an_old_store_reads_as_it_did(bus: Bus) -> None:
    await put_on(bus, kept())
    client = Client(bus)
    events, state = await client.events(CONVERSATION), await client.load(CONVERSATION)
    assert not [event for event in events if isinstance(event.data, Unreadable)]
    assert status(state) == "waiting"
    assert [question.raised.reason for question in open_questions(state) if question.raised] == ["low_confidence"]
    assert await draft_of(client, state) is not None
    assert [one.conversation for one in await client.conversations()] == [CONVERSATION]


async def test_what_an_old_motet_left_waiting_is_answered_and_finished_by_todays_agents(
    bus: Bus, nats_url: str, namespace: Namespace
) -> None:
    await put_on(bus, kept())
    async with _agents(nats_url, namespace) as client:
        by = ConnectOptions(url=nats_url)
        async with open_client(by, namespace=namespace.name, by="ann", role="desk") as human:
            given = HumanAnswer(decision="approve", answered_by="ann")
            await desk.answer(human, CONVERSATION, None, given)
        ended = await until_ended(client, CONVERSATION)
    assert ended.ending is not None
    assert (ended.ending.status, ended.ending.report.verdict) == ("completed", "changes_needed")
    assert [step.attempts for step in ended.ending.report.steps] == [1, 1, 1], "what was done was not done again"


async def test_what_an_old_motet_had_handed_out_is_done_by_todays_agents(
    bus: Bus, nats_url: str, namespace: Namespace
) -> None:
    messages = kept()
    last = max(number for number, message in enumerate(messages) if message.subject.startswith("step.ready."))
    objects = [message for message in messages if message.subject.startswith("$O.")]
    await put_on(bus, [*objects, *messages[: last + 1]])
    async with _agents(nats_url, namespace) as client:
        asked = await until_asked(client, CONVERSATION, 1)
    assert {len(asked.opened(name)) for name in asked.attempts} == {1}


async def test_streams_of_an_older_motet_are_refused_with_what_differs(bus: Bus) -> None:
    space = Namespace(f"{bus.namespace.name}-old")
    old: dict[str, Any] = conversations_stream(space).config() | {
        "sources": [],
        "discard": "old",
        "allow_msg_schedules": True,
    }
    old |= {"allow_rollup_hdrs": True, "allow_msg_ttl": True, "deny_delete": False}
    await bus.link.api(f"STREAM.CREATE.{old['name']}", old)
    with pytest.raises(BusUnsuitableError, match="allow_msg_schedules: expected False, found True") as refused:
        await apply_streams(bus.link, space)
    assert "another namespace" in refused.value.message


# Old processes, from the history of the repository itself


def _source(commit: str, folder: Path) -> str:
    """Return a PYTHONPATH with the packages of an older commit; skips where there is no history (a source archive)."""
    if not (ROOT / ".git").exists():
        pytest.skip("there is no history here: old code cannot be taken out of it")
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the commit {commit} is not in this history: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return os.pathsep.join(str(folder / name) for name in ("schemas", "bus", "agents", "observability", "gateway"))


async def _old_agent(path: str, role: str, url: str, namespace: str = "") -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MOTET_", "OTEL_"))}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "motet_gateway.agent_process",
        f"motet_agents.{role}:agent",
        env={**inherited, "PYTHONPATH": path, "MOTET_NATS_URL": url, "MOTET_NAMESPACE": namespace},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.chaos
async def test_an_agent_of_the_first_motet_refuses_todays_streams_in_words(tmp_path: Path) -> None:
    path = _source(_FIRST, tmp_path)
    with NatsServer(tmp_path / "server") as server:
        async with bus_as(server.url, Namespace(), "client"):
            agent = await _old_agent(path, "executor", server.url)
            async with asyncio.timeout(60):
                _, said = await agent.communicate()
    assert agent.returncode == 4
    assert b"stream CONVERSATIONS is not as Motet needs it" in said
    assert b"Traceback" not in said


@pytest.mark.chaos
@pytest.mark.parametrize("old_roles", [("executor", "verifier"), ("orchestrator",), ("planner", "orchestrator")])
async def test_old_and_new_agents_do_one_task_together(tmp_path: Path, old_roles: tuple[str, ...]) -> None:
    path = _source(_NEXT, tmp_path)
    topology = tmp_path / "bus" / "motet_bus" / "topology.py"
    topology.write_text(topology.read_text().replace("        rollups=True,\n", ""))  # takes today's bucket, too
    draft = "Terms apply. " * 3_000
    with NatsServer(tmp_path / "server") as server:
        agents: list[asyncio.subprocess.Process] = []
        try:
            async with _agents(server.url, Namespace(), without=old_roles) as client:
                for role in old_roles:
                    agent = await _old_agent(path, role, server.url)
                    agents.append(agent)
                    assert agent.stdout is not None
                    async with asyncio.timeout(60):
                        ready = await agent.stdout.readline()
                    assert ready, (await agent.communicate())[1].decode()[-2_000:]
                for number in range(3):
                    reference = await client.put_document(f"{draft}{number}".encode(), "text/plain")
                    checklist: Json = {"tone": {}, "compliance": {"required": ["Terms apply"]}, "links": {}}
                    task = Task(kind="content-qa", references={"draft": reference}, checklist=checklist)
                    await client.submit(task, f"mixed-{number}")
                for number in range(3):
                    ended = await until_ended(client, f"mixed-{number}")
                    assert ended.ending is not None
                    assert (ended.ending.status, ended.ending.report.verdict) == ("completed", "approved")
        finally:
            for agent in agents:
                if agent.returncode is None:
                    agent.kill()
                await agent.communicate()
