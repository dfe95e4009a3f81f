"""Handlers of events: what a run records happens once, in one commit, and on a redelivery nothing runs again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from motet_bus import Agent, Bus, Context, RunOptions
from motet_bus.link import Link
from motet_schemas import (
    Handled,
    Namespace,
    PermanentError,
    StepExecuted,
    TaskCancel,
    TaskSubmitted,
    TransientError,
    VerifyFailed,
    VerifyPassed,
)
from motet_schemas.subjects import build
from tests.bus.support import (
    SHORT,
    bus_as,
    dead_letters,
    eventually,
    is_settled,
    kinds,
    last_of,
    outsider_writes,
    running,
    stored,
    stored_twice,
    submit,
)


class StopHereError(Exception):
    """Stands for a process that dies: nothing after it runs, and the message is not acknowledged."""


class Dying:
    """A crash point that dies the first time that `point` is passed."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.deaths = 0

    def __call__(self, point: str) -> None:
        if point == self.point and not self.deaths:
            self.deaths += 1
            raise StopHereError


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "client") as bus:
        yield bus


def cancels(reason: str = "") -> TaskCancel:
    return TaskCancel(requested_by="watcher", reason=reason)


def dying(point: str) -> RunOptions:
    return RunOptions(claim_ttl_s=1.0, ack_wait_s=1.0, crash=Dying(point))


# What is handed to the handler


async def test_a_handler_gets_the_data_and_knows_where_it_comes_from(
    nats_url: str, namespace: Namespace, client: Bus
) -> None:
    agent = Agent("watcher")
    seen: asyncio.Future[tuple[TaskSubmitted, Context]] = asyncio.get_running_loop().create_future()

    @agent.on("task.submitted")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        assert (await context.load()).task == event
        seen.set_result((event, context))

    submitted = await submit(client, "c1")
    async with running(agent, nats_url, namespace, settings={"colour": "blue"}) as here:
        data, context = await asyncio.wait_for(seen, 10)
    assert data == submitted.data
    assert (context.conversation, context.seq, context.time) == ("c1", submitted.seq, submitted.time)
    assert context.source == f"/agents/client/{client.instance}"
    assert context.instance == here.card.instance
    assert context.settings["colour"] == "blue"
    assert context.subject == submitted.subject


async def test_one_handler_may_listen_to_several_kinds(nats_url: str, namespace: Namespace, client: Bus) -> None:
    agent = Agent("watcher")
    seen: list[str] = []

    @agent.on("task.submitted", "task.cancel")
    async def watch(event: TaskSubmitted | TaskCancel, context: Context) -> None:
        seen.append(context.subject.kind)

    await submit(client, "c1")
    from motet_schemas import Fact

    await client.journal.append(Fact(build("task.cancel", "c1", "me"), cancels()))

    async def both() -> bool:
        return sorted(seen) == ["task.cancel", "task.submitted"]

    async with running(agent, nats_url, namespace):
        await eventually(both)


# What it records


async def test_a_run_that_emits_nothing_is_recorded_as_such(nats_url: str, namespace: Namespace, client: Bus) -> None:
    agent = Agent("watcher")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        return

    submitted = await submit(client, "c1")
    async with running(agent, nats_url, namespace):
        record = await eventually(lambda: client.journal.read_last(f"handled.watcher.c1.{submitted.seq}"))
    assert record.data == Handled(outputs=())
    assert record.cause == submitted.seq


async def test_several_facts_are_recorded_together_before_they_are_emitted(
    nats_url: str, namespace: Namespace, client: Bus
) -> None:
    agent = Agent("watcher")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        if context.conversation == "c1":
            context.emit("task.cancel", "watcher", data=cancels("two facts"))
            context.emit("task.submitted", "other", data=TaskSubmitted(kind="other"), conversation="c2")

    submitted = await submit(client, "c1")
    async with running(agent, nats_url, namespace):
        child = await eventually(lambda: client.journal.read_last("task.submitted.c2.other"))
        asked = await eventually(lambda: client.journal.read_last("task.cancel.c1.watcher"))
    record = await last_of(client, f"handled.watcher.c1.{submitted.seq}")
    assert isinstance(record.data, Handled)
    assert [output.subject for output in record.data.outputs] == ["task.cancel.c1.watcher", "task.submitted.c2.other"]
    assert [output.id for output in record.data.outputs] == [asked.id, child.id]
    assert record.seq < min(child.seq, asked.seq)
    assert {record.cause, child.cause, asked.cause} == {submitted.seq}


async def test_what_a_handler_emitted_before_it_raised_is_not_recorded(
    nats_url: str, namespace: Namespace, client: Bus
) -> None:
    agent = Agent("watcher")
    runs: list[int] = []

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        runs.append(1)
        context.emit("task.cancel", f"run{len(runs)}", data=cancels())
        if len(runs) == 1:
            raise TransientError("not now", retry_after_s=0.05)

    await submit(client, "c1")
    async with running(agent, nats_url, namespace):
        await eventually(lambda: client.journal.read_last("task.cancel.c1.run2"))
    assert await client.journal.read_last("task.cancel.c1.run1") is None


async def test_a_handler_may_not_say_what_its_role_may_not(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    agent = Agent("watcher")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        context.emit("verify.passed", "s1", 1, data=VerifyPassed(verdict="passed", verifier="me"))

    await submit(client, "c1")
    async with running(agent, nats_url, namespace):
        notice = await eventually(lambda: client.journal.read_last("letter.dead.c1.>"))
    assert notice.source.startswith("/agents/specialist/")
    [letter] = await dead_letters(link, namespace)
    assert letter.failure.code == "not_allowed"
    assert await client.journal.read_last("verify.passed.c1.s1.1") is None


# What happens when the process dies


@pytest.mark.parametrize(
    ("point", "runs"),
    [
        ("before the handler", 1),
        ("after the handler", 2),
        ("between record and emit", 1),
        ("before the ack", 1),
        ("after the ack", 1),
    ],
)
async def test_a_run_with_several_facts_is_of_one_run_wherever_it_dies(
    nats_url: str, namespace: Namespace, client: Bus, link: Link, point: str, runs: int
) -> None:
    agent = Agent("watcher")
    made: list[str] = []

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        if context.conversation != "c1":
            return
        made.append(secrets.token_hex(4))
        for number in range(3):
            context.emit("task.cancel", f"{made[-1]}-{number}", data=cancels())

    await submit(client, "c1")
    options = dying(point)

    async def emitted() -> bool:
        return len(await client.journal.read_kind("task.cancel.>")) >= 3

    async with running(agent, nats_url, namespace, options):
        await eventually(emitted)
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    assert isinstance(options.crash, Dying)
    assert options.crash.deaths == 1
    assert len(made) == runs
    events = await client.journal.read_kind("task.cancel.>")
    assert {event.subject.detail[0] for event in events} == {f"{made[-1]}-{number}" for number in range(3)}
    assert await stored_twice(link, namespace) == []


@pytest.mark.parametrize("point", ["after the handler", "before the ack"])
async def test_one_fact_whose_subject_the_handler_makes_up_is_recorded_once(
    nats_url: str, namespace: Namespace, client: Bus, link: Link, point: str
) -> None:
    agent = Agent("watcher")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        if event.kind == "content-qa":
            child = secrets.token_hex(4)
            context.emit("task.submitted", "child", data=TaskSubmitted(kind="child"), conversation=child)

    await submit(client, "c1")
    async with running(agent, nats_url, namespace, dying(point)):
        await eventually(lambda: client.journal.read_last("task.submitted.*.child"))
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    assert len(await client.journal.read_kind("task.submitted.*.child")) == 1


async def test_runs_that_emit_one_fact_and_then_two_do_not_mix(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    agent = Agent("watcher")
    runs: list[int] = []

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        runs.append(1)
        for number in range(len(runs)):
            context.emit("task.cancel", f"run{len(runs)}-{number}", data=cancels())

    await submit(client, "c1")
    async with running(agent, nats_url, namespace, dying("before the ack")):
        await eventually(lambda: client.journal.read_last("task.cancel.c1.*"))
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    assert [event.subject.detail for event in await client.journal.read_kind("task.cancel.>")] == [("run1-0",)]


@pytest.mark.parametrize("point", ["after the handler", "before the ack", "after the ack"])
async def test_a_verdict_is_recorded_once_although_the_second_run_disagrees(
    nats_url: str, namespace: Namespace, client: Bus, link: Link, point: str
) -> None:
    agent = Agent("judge", role="verifier")
    runs: list[int] = []

    @agent.on("step.executed", name="judge")
    async def judge(event: StepExecuted, context: Context) -> None:
        runs.append(1)
        detail = context.subject.detail
        if len(runs) == 1:
            context.emit("verify.passed", *detail, data=VerifyPassed(verdict="passed", verifier=context.instance))
        else:
            context.emit("verify.failed", *detail, data=VerifyFailed(verdict="failed", verifier=context.instance))

    done = StepExecuted(status="passed", confidence=1.0, elapsed_ms=1, executor="me", idempotency_key="k")
    await outsider_writes(link, namespace, "step.executed.c1.s1.1", done.to_json())
    async with running(agent, nats_url, namespace, dying(point)):
        await eventually(lambda: client.journal.read_last("verify.*.c1.s1.1"))
        await eventually(lambda: is_settled(link, namespace, "judge"))
    assert await kinds(client, "c1") == [
        "step.executed",
        "verify.failed" if point == "after the handler" else "verify.passed",
    ]


# Outsiders, and what cannot be handled


@pytest.mark.parametrize(
    "body",
    [
        b"rubbish",
        b'{"outputs": [{"subject": "no.such", "id": "12345678", "data": {}}]}',
        b'{"outputs": [{"subject": "task.cancel.c1.x", "id": "12345678", "data": {"reason": 3}}]}',
    ],
    ids=["no json", "no event", "no such body"],
)
async def test_a_forged_record_makes_a_dead_letter_and_no_silence(
    nats_url: str, namespace: Namespace, client: Bus, link: Link, body: bytes
) -> None:
    agent = Agent("watcher")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        context.emit("task.cancel", "one", data=cancels())
        context.emit("task.cancel", "two", data=cancels())

    submitted = await submit(client, "c1")
    await outsider_writes(link, namespace, f"handled.watcher.c1.{submitted.seq}", body)
    async with running(agent, nats_url, namespace):
        notice = await eventually(lambda: client.journal.read_last("letter.dead.c1.>"))
    assert notice.subject.detail == ("watcher", str(submitted.seq))
    assert await client.journal.read_last("task.cancel.c1.*") is None


async def test_a_fact_whose_place_is_taken_does_not_keep_the_others_out(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    agent = Agent("watcher")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        for name in ("one", "two", "three"):
            context.emit("task.cancel", name, data=cancels("ours"))

    await outsider_writes(link, namespace, "task.cancel.c1.two", b"{}")
    await outsider_writes(link, namespace, "task.submitted.c1.content-qa", b'{"kind": "content-qa"}')
    async with running(agent, nats_url, namespace):
        await eventually(lambda: client.journal.read_last("task.cancel.c1.three"))
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    assert await kinds(client, "c1") == ["task.cancel", "task.submitted", "handled", "task.cancel", "task.cancel"]
    assert await stored_twice(link, namespace) == []


async def test_a_permanent_error_goes_to_the_dead_letters_at_once(
    nats_url: str, namespace: Namespace, client: Bus, link: Link
) -> None:
    agent = Agent("watcher")
    runs: list[str] = []

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        runs.append(context.conversation)
        if context.conversation == "c1":
            raise PermanentError("this can never work")

    await submit(client, "c1")
    await submit(client, "c2")
    async with running(agent, nats_url, namespace, SHORT):
        await eventually(lambda: client.journal.read_last("letter.dead.c1.>"))
        await eventually(lambda: client.journal.read_last("handled.watcher.c2.*"))
    assert sorted(runs) == ["c1", "c2"]
    [letter] = await dead_letters(link, namespace)
    assert (letter.failure.code, letter.failure.retryable, letter.deliveries) == ("permanent", False, 1)
    assert "this can never work" in letter.stack
    assert len(await stored(link, namespace, "handled.watcher.c1.*")) == 0
