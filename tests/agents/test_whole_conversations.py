"""Whole conversations on a real bus: planner, executor, verifier and orchestrator together, asked by outsiders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client as NatsClient

from motet_agents import desk
from motet_agents.executor import agent as executor
from motet_agents.orchestrator import agent as orchestrator
from motet_agents.planner import agent as planner
from motet_agents.verifier import agent as verifier
from motet_bus import Client, ConnectOptions, open_client, run_agent
from motet_schemas import Conversation, HumanAnswer, Json, Namespace, Policy, Task, Unreadable
from motet_schemas.budget import PolicyOverride
from tests.bus.support import eventually

DRAFT = "# Spring\n\nA revolutionary tea, and it is risk-free. See [the terms](#terms).\n\n## Terms\n\nTerms apply.\n"
CHECKLIST: dict[str, Json] = {
    "tone": {"banned": ["revolutionary"]},
    "compliance": {"required": ["Terms apply"], "forbidden": ["risk-free"]},
    "links": {},
}


@asynccontextmanager
async def all_agents(url: str, namespace: Namespace) -> AsyncGenerator[Client]:
    """Run one agent of each role in this process; yield a guest's client."""
    stop, ready = asyncio.Event(), asyncio.Semaphore(0)
    options = ConnectOptions(url=url)
    running = [
        asyncio.create_task(
            run_agent(one, options, stop=stop, namespace=namespace.name, on_ready=lambda _: ready.release())
        )
        for one in (orchestrator, planner, executor, verifier)
    ]
    try:
        async with asyncio.timeout(20), open_client(options, namespace=namespace.name) as client:
            for _ in running:
                await ready.acquire()
            yield client
    finally:
        stop.set()
        await asyncio.gather(*running)


async def until_ended(client: Client, conversation: str) -> Conversation:
    """Return the conversation once it has ended."""
    async for state in client.watch(conversation):
        if state.ending is not None:
            return state
    raise AssertionError("the watch ended first")


async def until_asked(client: Client, conversation: str, number: int) -> Conversation:
    """Return the conversation once question `number` stands."""
    async for state in client.watch(conversation):
        if number in state.questions:
            return state
    raise AssertionError("the watch ended first")


async def _publish(url: str, subject: str, body: bytes) -> None:
    """Publish as any NATS client does, without a word of Motet."""
    guest = NatsClient()
    await guest.connect(url)
    await guest.publish(subject, body)
    await guest.drain()


async def test_a_system_that_only_speaks_nats_gets_its_draft_checked(nats_url: str, namespace: Namespace) -> None:
    async with all_agents(nats_url, namespace) as client:
        task = {"kind": "content-qa", "input": {"draft": DRAFT}, "checklist": CHECKLIST}
        await _publish(nats_url, namespace.wire("task.submitted.from-outside.content-qa"), json.dumps(task).encode())
        await eventually(lambda: client.journal.read_last("task.submitted.from-outside.*"))
        ended = await until_ended(client, "from-outside")

    assert ended.ending is not None
    assert ended.ending.status == "completed"
    report = ended.ending.report
    assert report.verdict == "changes_needed"
    assert [(finding.rule, finding.quote) for finding in report.findings] == [
        ("tone.banned", "revolutionary"),
        ("compliance.forbidden", "risk-free"),
    ]
    assert all(finding.quote == DRAFT[finding.start : finding.end] for finding in report.findings)
    assert {step.executor for step in report.steps}.isdisjoint({step.verifier for step in report.steps})


async def test_a_task_that_does_not_parse_ends_with_the_reason_and_blocks_nobody(
    nats_url: str, namespace: Namespace
) -> None:
    async with all_agents(nats_url, namespace) as client:
        await _publish(nats_url, namespace.wire("task.submitted.rubbish.content-qa"), b'{"kind": 7')
        await eventually(lambda: client.journal.read_last("task.submitted.rubbish.*"))
        await client.submit(Task(kind="content-qa", input={"draft": "Terms apply."}, checklist=CHECKLIST), "good")
        good = await until_ended(client, "good")
        rubbish = await until_ended(client, "rubbish")

    assert good.ending is not None
    assert good.ending.status == "completed"
    assert rubbish.ending is not None
    assert rubbish.ending.status == "failed"
    assert "does not parse" in rubbish.ending.report.reason


@pytest.mark.parametrize(("kind", "words"), [("content-q", "did you mean 'content-qa'"), ("x", "known are")])
async def test_an_unknown_kind_reaches_a_human_with_the_nearest_name(
    nats_url: str, namespace: Namespace, kind: str, words: str
) -> None:
    async with all_agents(nats_url, namespace) as client:
        await client.submit(Task(kind=kind, input={"draft": "x"}), "lost")
        asked = await until_asked(client, "lost", 1)
    raised = asked.questions[1].raised
    assert raised is not None
    assert raised.reason == "plan_rejected"
    assert words in raised.question


async def test_a_doubt_goes_to_a_human_and_every_answer_does_what_it_says(nats_url: str, namespace: Namespace) -> None:
    task = Task(
        kind="content-qa", input={"draft": "Terms aply here."}, checklist={"compliance": {"required": ["Terms apply"]}}
    )
    async with (
        all_agents(nats_url, namespace) as client,
        open_client(ConnectOptions(url=nats_url), namespace=namespace.name, role="desk", by="desk") as human,
    ):
        for name in ("approved", "rejected", "revised", "taken"):
            await client.submit(task, name)
            asked = await until_asked(client, name, 1)
            raised = asked.questions[1].raised
            assert raised is not None
            assert raised.reason == "low_confidence"
            assert "Terms aply" in raised.question
        assert {one.conversation for one in await desk.inbox(human)} == {"approved", "rejected", "revised", "taken"}

        await desk.answer(human, "approved", None, HumanAnswer(decision="approve", answered_by="ann"))
        await desk.answer(human, "rejected", 1, HumanAnswer(decision="reject", answered_by="ann", note="no"))
        again = HumanAnswer(decision="revise", instructions="look again", answered_by="ann")
        await desk.answer(human, "revised", 1, again)
        by_hand = HumanAnswer(decision="take_over", result={"fine": True}, answered_by="ann")
        await desk.answer(human, "taken", 1, by_hand)

        approved, rejected, taken = [await until_ended(client, name) for name in ("approved", "rejected", "taken")]
        revised = await until_asked(client, "revised", 2)

    assert approved.ending is not None
    assert (approved.ending.status, approved.ending.report.verdict) == ("completed", "approved")
    assert approved.ending.report.steps[0].accepted_by == "ann"
    assert rejected.ending is not None
    assert (rejected.ending.status, rejected.ending.report.reason) == ("failed", "rejected by ann (question 1): no")
    assert taken.ending is not None
    assert taken.ending.report.steps[0].output == {"fine": True}
    second = revised.opened("compliance")[1].ready
    assert second is not None
    assert second.instructions == ("look again",)
    assert second.failed[0].reason.startswith("confidence 0.6")


async def test_silence_is_an_answer_when_its_time_has_come(nats_url: str, namespace: Namespace) -> None:
    task = Task(
        kind="content-qa",
        input={"draft": "Terms aply here."},
        checklist={"compliance": {"required": ["Terms apply"]}},
        policy=PolicyOverride(human_sla_s=1, on_timeout="approve"),
    )
    async with all_agents(nats_url, namespace) as client:
        await client.submit(task, "silent")
        ended = await until_ended(client, "silent")
    assert ended.ending is not None
    assert ended.ending.status == "completed"
    assert any("nobody answered" in concern for concern in ended.ending.report.concerns)
    assert Policy().on_timeout == "reject"


async def test_a_large_draft_is_stored_once_and_travels_by_reference(nats_url: str, namespace: Namespace) -> None:
    draft = "Terms apply to all of this, dear reader. " * 20_000
    async with all_agents(nats_url, namespace) as client:
        reference = await client.put_document(draft.encode(), "text/plain")
        task = Task(
            kind="content-qa", references={"draft": reference}, checklist={"compliance": {"forbidden": ["zzz"]}}
        )
        await client.submit(task, "large")
        ended = await until_ended(client, "large")
        bodies = [event.data for event in await client.events("large")]
        sizes = [len(body.to_json()) for body in bodies if not isinstance(body, Unreadable)]
    assert ended.ending is not None
    assert ended.ending.report.verdict == "approved"
    assert max(sizes) < 16_000


async def test_cancelling_ends_a_waiting_conversation(nats_url: str, namespace: Namespace) -> None:
    task = Task(
        kind="content-qa", input={"draft": "Terms aply here."}, checklist={"compliance": {"required": ["Terms apply"]}}
    )
    async with all_agents(nats_url, namespace) as client:
        await client.submit(task, "stopped")
        await until_asked(client, "stopped", 1)
        await client.cancel("stopped", by="ann", reason="not needed")
        ended = await until_ended(client, "stopped")
    assert ended.ending is not None
    assert ended.ending.status == "cancelled"
    assert ended.ending.report.reason == "cancelled by ann: not needed"
