"""An operator holds work back, lets it go on, and lets agents go: nothing is lost, and nothing runs that should not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from motet_bus import Agent, Bus, Context, Outcome, RunOptions, Step, consumer
from motet_bus.child_process import ProcessSpec
from motet_bus.link import Link
from motet_bus.pausing import pause, pause_of, resume
from motet_bus.presence import DrainOrder, ask_to_drain, roll_call
from motet_bus.supervisor import Child, Supervisor
from motet_bus.topology import ConsumerSpec, ensure_consumer
from motet_schemas import (
    BusUnavailableError,
    BusUnsuitableError,
    InvalidInputError,
    Namespace,
    NotFoundError,
    TaskSubmitted,
)
from tests.bus.servers import NatsServer, until
from tests.bus.support import Running, bus_as, eventually, executed, offer, running, submit

ORDER = DrainOrder(by="ann", reason="an upgrade")


def serving(agent: Agent, url: str, namespace: Namespace) -> AbstractAsyncContextManager[Running]:
    """Run an agent with the waits of production: nothing here is delivered twice because the machine is busy."""
    return running(agent, url, namespace, RunOptions())


class Work:
    """Steps that begin, and end when they may."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Event()
        self.agent = Agent("worker", role="executor")

        @self.agent.step("work", concurrency=2)
        async def work(step: Step) -> Outcome:
            self.begun.append(step.conversation)
            await self.may_end.wait()
            return Outcome.passed(confidence=1.0)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def operator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "operator") as bus:
        yield bus


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


async def info(bus: Bus, name: str = "step-work") -> dict[str, object]:
    return await bus.link.api(f"CONSUMER.INFO.{bus.journal.stream}.{name}", {})


# Pausing


async def test_a_paused_kind_of_work_is_not_handed_out_until_it_is_resumed(
    nats_url: str, namespace: Namespace, operator: Bus, orchestrator: Bus, work: Work
) -> None:
    async with serving(work.agent, nats_url, namespace):
        await offer(orchestrator, "before")
        await until(lambda: work.begun == ["before"])
        made = await pause(operator, "step-work", by="ann", reason="the database is shut")
        assert (made.until, made.by, made.reason) == (None, "ann", "the database is shut")
        await offer(orchestrator, "while")
        work.may_end.set()
        await eventually(lambda: executed(orchestrator, "before"))  # what was handed out ends as ever
        await asyncio.sleep(0.5)
        assert work.begun == ["before"]
        assert pause_of(await info(operator)) == made
        assert await resume(operator, "step-work", by="ben") == made
        await eventually(lambda: executed(orchestrator, "while"))
    after = await info(operator)
    assert pause_of(after) is None
    assert after["config"]["metadata"]["motet-resumed-by"] == "ben"  # type: ignore[index]
    assert await resume(operator, "step-work", by="ben") is None


async def test_a_pause_ends_by_itself_when_its_time_is_over(
    nats_url: str, namespace: Namespace, operator: Bus, orchestrator: Bus, work: Work
) -> None:
    work.may_end.set()
    async with serving(work.agent, nats_url, namespace):
        made = await pause(operator, "step-work", by="ann", reason="a moment", for_=timedelta(seconds=1))
        assert made.until is not None
        await offer(orchestrator, "c1")
        await asyncio.sleep(0.3)
        assert work.begun == []
        await eventually(lambda: executed(orchestrator, "c1"))
    claimed = await orchestrator.journal.read_last("step.claimed.c1.s1.1")
    assert claimed is not None
    assert claimed.time >= made.until
    assert pause_of(await info(operator)) is None


async def test_a_pause_survives_the_server_and_agents_that_come_and_go(
    own_server: NatsServer, namespace: Namespace, work: Work
) -> None:
    work.may_end.set()
    async with (
        bus_as(own_server.url, namespace, "operator") as operator,
        bus_as(own_server.url, namespace, "orchestrator") as orchestrator,
    ):
        async with serving(work.agent, own_server.url, namespace):
            made = await pause(operator, "step-work", by="ann", reason="the database is shut")
            own_server.kill()
            own_server.start()
            await eventually(lambda: _answers(operator), within_s=20)
            await offer(orchestrator, "c1")
            await asyncio.sleep(0.5)
        async with serving(work.agent, own_server.url, namespace):
            await asyncio.sleep(0.5)
            assert work.begun == []
            assert pause_of(await info(operator)) == made
            await resume(operator, "step-work", by="ann")
            await eventually(lambda: executed(orchestrator, "c1"), within_s=20)


async def _answers(bus: Bus) -> bool:
    with suppress(BusUnavailableError):
        await bus.journal.server_time()
        return bool(await info(bus))
    return False


async def test_another_tools_pause_is_not_said_to_be_ours(operator: Bus, link: Link, namespace: Namespace) -> None:
    spec = ConsumerSpec(
        stream=namespace.stream("CONVERSATIONS"),
        durable="step-work",
        filter_subjects=(namespace.wire("step.ready.*.*.*.work"),),
        max_ack_pending=10,
    )
    await ensure_consumer(link, spec)
    await pause(operator, "step-work", by="ann", reason="old")
    until_then = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    await link.api(f"CONSUMER.PAUSE.{spec.stream}.step-work", {"pause_until": until_then})
    found = pause_of(await info(operator))
    assert found is not None
    assert (found.by, found.reason, found.at) == ("", "", None)
    assert found.until is not None
    wider = replace(spec, filter_subjects=(*spec.filter_subjects, namespace.wire("letter.retried.*.step-work.*")))
    await ensure_consumer(link, wider)  # an upgrade while it is paused
    assert pause_of(await info(operator)) == found


async def test_a_pause_of_nothing_or_in_the_past_is_refused(operator: Bus, link: Link, namespace: Namespace) -> None:
    with pytest.raises(NotFoundError):
        await pause(operator, "nobody", by="ann", reason="r")
    with pytest.raises(NotFoundError):
        await resume(operator, "nobody", by="ann")
    with pytest.raises(InvalidInputError, match="is over by the server's clock"):
        await pause(operator, "nobody", by="ann", reason="r", until=datetime(2020, 1, 1, tzinfo=UTC))


# Draining


async def test_a_drained_agent_finishes_what_it_holds_takes_nothing_new_and_ends(
    nats_url: str, namespace: Namespace, operator: Bus, orchestrator: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "GRACE_S", 0.1)  # what runs may take longer than a stop would wait for
    leaving, staying = Work(), Work()
    staying.may_end.set()
    async with serving(leaving.agent, nats_url, namespace) as one:
        for name in ("c1", "c2"):
            await offer(orchestrator, name)
        await until(lambda: sorted(leaving.begun) == ["c1", "c2"])
        card = await ask_to_drain(operator.link, namespace, one.card.instance, ORDER)
        assert (card.instance, card.draining, card.in_flight) == (one.card.instance, True, 2)
        again = await ask_to_drain(operator.link, namespace, one.card.instance, ORDER)
        assert again.draining
        [seen] = await roll_call(operator.link, namespace)
        assert seen.draining
        async with serving(staying.agent, nats_url, namespace):
            await offer(orchestrator, "c3")
            await eventually(lambda: executed(orchestrator, "c3"))
            await asyncio.sleep(0.5)
            assert not one.task.done()
            leaving.may_end.set()
            await eventually(lambda: _done(one.task))
        for name in ("c1", "c2"):
            record = await executed(orchestrator, name)
            assert record is not None
            assert record.executor == one.card.instance
    assert sorted(leaving.begun) == ["c1", "c2"]
    with pytest.raises(BusUnavailableError, match="does not answer the order to drain"):
        await ask_to_drain(operator.link, namespace, one.card.instance, ORDER)


async def _done(task: asyncio.Task[None]) -> bool:
    return task.done()


async def test_an_agent_with_nothing_to_do_is_gone_at_once(
    nats_url: str, namespace: Namespace, operator: Bus, work: Work
) -> None:
    async with serving(work.agent, nats_url, namespace) as agent:
        await ask_to_drain(operator.link, namespace, agent.card.instance, DrainOrder())
        await eventually(lambda: _done(agent.task))


async def test_a_stop_cuts_a_drain_short(
    nats_url: str, namespace: Namespace, operator: Bus, orchestrator: Bus, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "GRACE_S", 0.1)
    async with serving(work.agent, nats_url, namespace) as agent:
        await offer(orchestrator, "c1")
        await until(lambda: work.begun == ["c1"])
        await ask_to_drain(operator.link, namespace, agent.card.instance, ORDER)
        await asyncio.sleep(0.3)
        assert not agent.task.done()
        await agent.end()
    lost = await orchestrator.journal.read_last("step.expired.c1.s1.1")
    assert lost is not None, "the claim is given back"


async def test_one_idle_handler_does_not_end_the_others_work(
    nats_url: str, namespace: Namespace, operator: Bus, orchestrator: Bus, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "GRACE_S", 0.1)

    @work.agent.on("task.submitted", name="idle")
    async def idle(event: TaskSubmitted, context: Context) -> None:
        """Handle nothing."""

    async with serving(work.agent, nats_url, namespace) as agent:
        await offer(orchestrator, "c1")
        await until(lambda: work.begun == ["c1"])
        await ask_to_drain(operator.link, namespace, agent.card.instance, ORDER)
        await asyncio.sleep(0.5)
        work.may_end.set()
        await eventually(lambda: _done(agent.task))
    assert await executed(orchestrator, "c1") is not None


async def test_rubbish_drains_nobody(nats_url: str, namespace: Namespace, link: Link, work: Work) -> None:
    async with serving(work.agent, nats_url, namespace) as agent:
        await link.publish(namespace.wire(f"signal.drain.{agent.card.instance}"), b"rubbish")
        await link.publish(namespace.wire("signal.drain.somebody-else"), b"{}")
        [card] = await roll_call(link, namespace)
        assert not card.draining


@pytest.mark.parametrize("status", [0, 1])
async def test_a_supervisor_does_not_start_again_what_was_drained(tmp_path: Path, status: int) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, sys\n"
        "print(json.dumps({'ready': True, 'role': 'executor', 'pid': os.getpid(), 'instance': 'e-1'}), flush=True)\n"
        "print(json.dumps({'draining': True, 'by': 'ann'}), flush=True)\n"
        f"sys.exit({status})\n"
    )
    states: list[str] = []

    def note(child: Child) -> None:
        states.append(child.state)

    async with Supervisor(on_change=note) as supervisor:
        await supervisor.start([ProcessSpec(name="e", argv=[sys.executable, str(script)])])
        await until(lambda: "drained" in states)
        await asyncio.sleep(0.5)
        [child] = supervisor.children
        assert (child.state, child.pid, child.restarts) == ("drained", None, 0)
    assert "restarting" not in states


# Versions beside each other


def _spec(namespace: Namespace, *names: str) -> ConsumerSpec:
    return ConsumerSpec(
        stream=namespace.stream("CONVERSATIONS"),
        durable="learn",
        filter_subjects=tuple(namespace.wire(name) for name in names),
        max_ack_pending=10,
    )


async def test_a_consumer_gains_what_a_newer_version_listens_to_and_keeps_it_for_an_older_one(
    operator: Bus, link: Link, namespace: Namespace
) -> None:
    old = _spec(namespace, "task.submitted.>")
    new = _spec(namespace, "task.submitted.>", "letter.retried.*.learn.*")
    other = _spec(namespace, "task.cancel.>", "letter.retried.*.learn.*")
    await ensure_consumer(link, old)
    await ensure_consumer(link, new)
    await ensure_consumer(link, old)
    found = (await info(operator, "learn"))["config"]
    assert sorted(found["filter_subjects"]) == sorted(new.filter_subjects)  # type: ignore[index]
    with pytest.raises(BusUnsuitableError, match="filter_subjects"):
        await ensure_consumer(link, other)
    with pytest.raises(BusUnsuitableError, match="max_ack_pending"):
        await ensure_consumer(link, replace(new, max_ack_pending=11))


async def test_many_that_start_at_once_give_a_consumer_its_filters_once(
    operator: Bus, link: Link, namespace: Namespace
) -> None:
    await ensure_consumer(link, _spec(namespace, "task.submitted.>"))
    new = _spec(namespace, "task.submitted.>", "letter.retried.*.learn.*")
    await asyncio.gather(*(ensure_consumer(link, new) for _ in range(8)))
    found = (await info(operator, "learn"))["config"]
    assert sorted(found["filter_subjects"]) == sorted(new.filter_subjects)  # type: ignore[index]


async def test_a_consumer_of_everything_is_not_narrowed(operator: Bus, link: Link, namespace: Namespace) -> None:
    spec = _spec(namespace, "task.submitted.>")
    config: dict[str, object] = {**spec.config(), "filter_subjects": list[str]()}
    await link.api(f"CONSUMER.CREATE.{spec.stream}.learn", {"stream_name": spec.stream, "config": config})
    with pytest.raises(BusUnsuitableError, match="filter_subjects"):
        await ensure_consumer(link, spec)


async def test_an_older_version_hands_back_what_only_a_newer_one_listens_to(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    heard: dict[str, list[str]] = {"old": [], "new": []}

    def agent(version: str, *kinds: str) -> Agent:
        made = Agent("learn")

        @made.on(*kinds, name="learn")
        async def learn(event: object, context: Context) -> None:
            heard[version].append(context.subject.kind)

        return made

    async with bus_as(nats_url, namespace, "client") as client:
        async with serving(agent("new", "task.submitted", "step.ready"), nats_url, namespace):
            pass
        async with serving(agent("old", "task.submitted"), nats_url, namespace):
            await submit(client, "c1")
            await offer(orchestrator, "c1")
            await until(lambda: heard["old"] == ["task.submitted"])
            await asyncio.sleep(0.3)
            async with serving(agent("new", "task.submitted", "step.ready"), nats_url, namespace):
                await until(lambda: heard["new"] == ["step.ready"], within_s=20)
    assert heard["old"] == ["task.submitted"]
