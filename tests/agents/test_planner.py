"""The planner on a real bus: a valid plan, or the reason why there is none; once for each request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from motet_agents.planner import agent as planner
from motet_bus import Bus, Client, open_client
from motet_bus.link import Link
from motet_schemas import (
    Budget,
    BudgetOverride,
    Fact,
    Json,
    Namespace,
    PlanCreated,
    PlanRejected,
    PlanRequested,
    Task,
)
from motet_schemas.subjects import build
from tests.bus.support import (
    bus_as,
    dead_letters,
    eventually,
    is_settled,
    kinds,
    options,
    outsider_writes,
    running,
)

CHECKLIST: Json = {"tone": {"banned": ["revolutionary"]}, "links": {}}
TASK = Task(kind="content-qa", input={"draft": "A tea."}, checklist=CHECKLIST)


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Client]:
    async with open_client(options(nats_url), namespace=namespace.name) as opened:
        yield opened


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


async def request(bus: Bus, revision: int = 1) -> int:
    return await bus.journal.append(Fact(build("plan.requested", "c1", revision), PlanRequested(reason="a test")))


async def answer(bus: Bus, revision: int = 1) -> PlanCreated | PlanRejected:
    """Return the planner's answer once it is there."""

    async def look() -> PlanCreated | PlanRejected | None:
        for kind in ("created", "rejected"):
            event = await bus.journal.read_last(f"plan.{kind}.c1.{revision}")
            if event is not None and isinstance(event.data, PlanCreated | PlanRejected):
                return event.data
        return None

    return await eventually(look)


async def test_a_request_is_answered_with_the_playbooks_plan(
    nats_url: str, namespace: Namespace, client: Client, orchestrator: Bus
) -> None:
    await client.submit(TASK, "c1")
    cause = await request(orchestrator)
    async with running(planner, nats_url, namespace) as here:
        plan = await answer(orchestrator)
    assert isinstance(plan, PlanCreated)
    assert [step.id for step in plan.steps] == ["tone", "links"]
    assert (plan.planner, plan.model) == (here.card.instance, "rule-based")
    event = await orchestrator.journal.read_last("plan.created.c1.1")
    assert event is not None
    assert event.cause == cause
    assert await kinds(orchestrator, "c1") == ["task.submitted", "plan.requested", "plan.created"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (TASK.evolve(kind="content-aq"), "did you mean 'content-qa'"),
        (TASK.evolve(kind="baking"), "content-qa"),
        (TASK.evolve(input={}), r"input\.draft"),
        (TASK.evolve(checklist=None), "checklist"),
        (TASK.evolve(checklist={"tone": {"baned": []}}), "baned"),
        (TASK.evolve(budget=BudgetOverride(max_attempts=1)), r"budget\.max_attempts"),
    ],
)
async def test_a_task_that_cannot_be_planned_is_rejected_with_the_reason(
    nats_url: str, namespace: Namespace, client: Client, orchestrator: Bus, task: Task, words: str
) -> None:
    import re

    await client.submit(task, "c1")
    await request(orchestrator)
    async with running(planner, nats_url, namespace):
        refusal = await answer(orchestrator)
    assert isinstance(refusal, PlanRejected)
    assert re.search(words, refusal.reason), refusal.reason


async def test_a_task_that_does_not_parse_is_rejected_not_forgotten(
    nats_url: str, namespace: Namespace, orchestrator: Bus, link: Link
) -> None:
    await outsider_writes(link, namespace, "task.submitted.c1.content-qa")
    await request(orchestrator)
    async with running(planner, nats_url, namespace):
        refusal = await answer(orchestrator)
    assert isinstance(refusal, PlanRejected)
    assert "no readable task" in refusal.reason


async def test_a_fixed_plan_has_no_second_way(
    nats_url: str, namespace: Namespace, client: Client, orchestrator: Bus
) -> None:
    await client.submit(TASK, "c1")
    async with running(planner, nats_url, namespace):
        await request(orchestrator)
        assert isinstance(await answer(orchestrator), PlanCreated)
        await request(orchestrator, 2)
        refusal = await answer(orchestrator, 2)
    assert isinstance(refusal, PlanRejected)
    assert "no other way" in refusal.reason


async def test_a_users_playbook_with_wider_limits_is_planned(
    nats_url: str, namespace: Namespace, client: Client, orchestrator: Bus, tmp_path: Path
) -> None:
    (tmp_path / "wide.yaml").write_text(
        "name: wide\ncapabilities: [work]\nlimits: {max_attempts: [1, 50]}\nbudget: {max_attempts: 40}\n"
        "plan:\n  - {id: a, capability: work, goal: g, manifest: {objective: o}}\n"
    )
    (tmp_path / "empty").mkdir()
    await client.submit(Task(kind="wide"), "c1")
    await request(orchestrator)
    folders = os.pathsep.join([str(tmp_path), str(tmp_path / "empty")])
    async with running(planner, nats_url, namespace, settings={"playbooks": folders}):
        plan = await answer(orchestrator)
    assert isinstance(plan, PlanCreated)
    assert plan.budget.max_attempts == 40
    assert plan.budget.max_tokens == Budget().max_tokens


async def test_a_broken_playbook_is_a_reason_not_a_crash(
    nats_url: str, namespace: Namespace, client: Client, orchestrator: Bus, link: Link, tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_bytes(b"name: caf\xe9: [")
    await client.submit(TASK, "c1")
    await request(orchestrator)
    async with running(planner, nats_url, namespace, settings={"playbooks": str(tmp_path)}):
        refusal = await answer(orchestrator)
    assert isinstance(refusal, PlanRejected)
    assert "broken.yaml" in refusal.reason
    assert await dead_letters(link, namespace) == []


async def test_several_planners_answer_each_request_once(
    nats_url: str, namespace: Namespace, client: Client, orchestrator: Bus, link: Link
) -> None:
    names = [f"c{number}" for number in range(2, 22)]
    await asyncio.gather(*(client.submit(TASK, name) for name in names))
    async with running(planner, nats_url, namespace), running(planner, nats_url, namespace):
        await asyncio.gather(
            *(
                orchestrator.journal.append(Fact(build("plan.requested", name, 1), PlanRequested(reason="a test")))
                for name in names
            )
        )
        await eventually(lambda: is_settled(link, namespace, "planner"))
    for name in names:
        assert await kinds(orchestrator, name) == ["task.submitted", "plan.requested", "plan.created"]
