"""The faults of docs/exactly-once.md that no other file has: the network, the disk, the clock, the operator."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from motet_bus import Agent, Bus, Client, Context, open_client
from motet_bus.claims import HeldClaim
from motet_bus.consumer import Consumer, ConsumerSettings, HandBackError
from motet_bus.delivery import Delivery
from motet_bus.link import Link
from motet_bus.topology import apply_streams, ensure_consumer
from motet_gateway.chaos.crew import PLAYBOOKS
from motet_gateway.chaos.proxy import FaultyProxy
from motet_schemas import (
    BusUnavailableError,
    Event,
    Fact,
    Namespace,
    PlanRequested,
    StepExecuted,
    TaskCancel,
    TaskSubmitted,
)
from motet_schemas.subjects import build
from tests.bus.doubtful import MEMBERS, TASK, names_in_doubt
from tests.bus.fleet import Fleet, all_ended, check_everything, no_promise_is_broken, submit_all
from tests.bus.processes import AgentProcesses, Zygote
from tests.bus.servers import NatsServer
from tests.bus.support import (
    SHORT,
    bus_as,
    eventually,
    is_settled,
    kinds,
    offer,
    options,
    running,
    stored,
    stored_twice,
    submit,
)

pytestmark = pytest.mark.slow

AGENTS = "tests.bus.child_agents"


# The network


@pytest.fixture
async def proxied(nats_server: NatsServer, namespace: Namespace) -> AsyncIterator[tuple[FaultyProxy, Bus]]:
    """A writer whose way to the server leads through the proxy."""
    async with (
        FaultyProxy(nats_server.port) as proxy,
        bus_as(f"nats://127.0.0.1:{proxy.port}", namespace, "orchestrator") as bus,
    ):
        yield proxy, bus


@pytest.mark.open_server
@pytest.mark.parametrize(
    ("acts", "seed"),
    [
        (["lose", "repeat", "cut", "half-close", "delay"], 0),
        (["lose", "repeat", "cut", "half-close", "delay"], 1),
        pytest.param(["lose", "lose alone", "repeat", "cut"], 2, marks=pytest.mark.chaos),
    ],
)
async def test_facts_are_recorded_once_over_a_network_that_drops_repeats_delays_and_half_closes(
    proxied: tuple[FaultyProxy, Bus], link: Link, namespace: Namespace, acts: list[str], seed: int
) -> None:
    proxy, bus = proxied
    dice = random.Random(seed)  # noqa: S311
    facts = [Fact(build("plan.requested", f"c{one}", 1), PlanRequested(reason="test")) for one in range(120)]

    async def disturb() -> None:
        for act in dice.sample(acts * 2, 2 * len(acts)):
            await asyncio.sleep(dice.uniform(0.0, 0.05))
            match act:
                case "lose" | "lose alone":
                    proxy.lose_next_answer(cut=act == "lose")
                case "repeat":
                    proxy.repeat_next_publish(b"ce-id")
                case "cut":
                    proxy.cut()
                case "half-close":
                    proxy.half_close()
                case _:
                    await proxy.delay(0.1)

    async def write(ours: list[Fact]) -> list[int]:
        return [await bus.journal.append(fact) for fact in ours]

    disturbing = asyncio.create_task(disturb())
    written = await asyncio.gather(*(write(facts[start::8]) for start in range(8)))
    await disturbing
    answered = sorted(seq for seqs in written for seq in seqs)
    assert [message.seq for message in await stored(link, namespace)] == answered
    assert len(answered) == len(facts)
    assert await stored_twice(link, namespace) == []


@pytest.mark.open_server
async def test_a_claim_whose_first_answer_is_lost_is_known_again_by_its_nonce(
    proxied: tuple[FaultyProxy, Bus], nats_server: NatsServer, namespace: Namespace
) -> None:
    proxy, orchestrator = proxied
    ready = await offer(orchestrator, "c1")
    async with bus_as(f"nats://127.0.0.1:{proxy.port}", namespace, "executor") as worker:
        proxy.lose_next_answer()
        claim = await HeldClaim.take(worker.journal, ready, ttl_s=20)
        done = StepExecuted(
            status="passed", confidence=1.0, elapsed_ms=1, executor=worker.instance, idempotency_key="k"
        )
        await claim.record(done)
    assert proxy.lost == 1
    assert await kinds(orchestrator, "c1") == ["step.ready", "step.claimed", "step.executed"]


@pytest.mark.open_server
async def test_a_publish_that_reaches_the_server_twice_is_recorded_once(
    proxied: tuple[FaultyProxy, Bus], link: Link, namespace: Namespace
) -> None:
    proxy, bus = proxied
    proxy.repeat_next_publish(b"ce-id")
    seq = await bus.journal.append(Fact(build("plan.requested", "c1", 1), PlanRequested(reason="test")))
    assert proxy.repeated == 1
    assert [message.seq for message in await stored(link, namespace)] == [seq]


# The clock


@pytest.mark.parametrize("off_s", [600, -600], ids=["ahead", "behind"])
async def test_agents_whose_clocks_are_ten_minutes_off_decide_nothing_by_them(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace, off_s: int
) -> None:
    """One worker and one orchestrator of two are off: no live claim is taken, no time-out comes early or late."""
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        processes.defaults |= {"claim_ttl_s": 3.0}
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            for role in ("orchestrator", "planner", "executor", "verifier"):
                fleet.add(role)
                if role in ("orchestrator", "executor"):
                    fleet.add(role, clock_off_s=off_s)
            await fleet.ready()
            names = await submit_all(client, 3, 0.3)
            states = await all_ended(client, names, within_s=45)
            await check_everything(client, link, namespace, states)


# The disk


async def test_writers_wait_while_the_storage_is_full_and_go_on_when_there_is_room(
    zygote: Zygote, tmp_path: Path
) -> None:
    namespace = Namespace("full")
    store = tmp_path / "server"
    config = f'jetstream {{ store_dir: "{store / "store"}", sync_interval: 100ms, max_file_store: 4MB }}'
    with (
        NatsServer(store, jetstream=False, config=config) as server,
        AgentProcesses(zygote, tmp_path, server.url, namespace) as processes,
    ):
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(server.url), namespace=namespace.name) as client:
            for role in ("orchestrator", "planner", "executor", "verifier"):
                fleet.add(role)
            await fleet.ready()
            names = await submit_all(client, 2, 0.5)
            await eventually(lambda: _has_begun(processes), within_s=20)
            ballast = await _fill_up(client.link)
            with pytest.raises(BusUnavailableError, match="no room to store more: free disk space"):
                await client.journal.append(_submission("late"), patience_s=0.5)
            assert await client.journal.read_conversation("late") == []
            await client.link.api(f"STREAM.DELETE.{ballast}", {})
            await client.journal.append(_submission("late"))
            states = await all_ended(client, names, within_s=60)
            await check_everything(client, client.link, namespace, states)


async def _has_begun(processes: AgentProcesses) -> bool:
    return bool(processes.runs())


def _submission(name: str) -> Fact:
    return Fact(build("task.submitted", name, "three-steps"), TaskSubmitted(kind="three-steps"))


async def _fill_up(link: Link) -> str:
    """Fill the server's storage to the last byte that matters, and return the stream that did it."""
    await link.api("STREAM.CREATE.BALLAST", {"name": "BALLAST", "subjects": ["ballast.>"]})
    for size in (200_000, 2_000, 100):
        with contextlib.suppress(BusUnavailableError):
            for number in range(5_000):
                await link.publish_stored(f"ballast.{size}.{number}", b"x" * size, {})
    return "BALLAST"


# The operator


async def test_conversations_complete_although_an_operator_deletes_consumers_and_changes_streams(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    stream = namespace.stream("CONVERSATIONS")
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            for role in ("orchestrator", "planner", "executor", "verifier"):
                fleet.add(role)
            await fleet.ready()
            names = await submit_all(client, 3, 0.3)
            await eventually(lambda: _has_begun(processes), within_s=20)
            for durable in ("orchestrator", "planner", "step-slow-work", "verifier"):
                await link.api(f"CONSUMER.DELETE.{stream}.{durable}", {})
            await _update(link, stream, description="an operator was here", max_bytes=10**9)
            states = await all_ended(client, names, within_s=60)
            await check_everything(client, link, namespace, states)


async def _update(link: Link, stream: str, **changes: Any) -> None:
    config = (await link.api(f"STREAM.INFO.{stream}", {}))["config"]
    await link.api(f"STREAM.UPDATE.{stream}", {**config, **changes})


class Later:
    """Hands every message back once."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def handle(self, event: Event, delivery: Delivery) -> None:
        self.seen.append(event.seq)
        if self.seen.count(event.seq) == 1:
            raise HandBackError(1.0)


async def test_what_was_handed_back_comes_again_although_the_topology_is_applied_meanwhile(
    nats_url: str, link: Link, namespace: Namespace
) -> None:
    async with bus_as(nats_url, namespace, "specialist") as bus, bus_as(nats_url, namespace, "client") as client:
        event = await submit(client, "c1")
        handler = Later()
        settings = ConsumerSettings(durable="later", filters=("task.submitted.>",), ack_wait_s=5.0)
        await ensure_consumer(link, settings.spec(bus))
        stop = asyncio.Event()
        task = asyncio.create_task(Consumer(bus, settings, handler).run(stop))
        await eventually(lambda: _true(handler.seen == [event.seq]))
        for _ in range(3):
            await apply_streams(link, namespace)
            await ensure_consumer(link, settings.spec(bus))
        await eventually(lambda: is_settled(link, namespace, "later"))
        stop.set()
        await task
        assert handler.seen == [event.seq, event.seq]


async def _true(value: bool) -> bool:
    return value


# Time that passes


async def test_a_redelivery_long_past_the_duplicate_window_records_nothing_again(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    stream = namespace.stream("CONVERSATIONS")
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        async with bus_as(nats_url, namespace, "client") as client:
            submitted = await submit(client, "c1")
            first = processes.start(f"{AGENTS}:several", crash="before the ack")
            await first.gone()
            before = await stored(link, namespace)
            await _update(link, stream, duplicate_window=100_000_000)  # 100 ms: the least that the server takes
            await asyncio.sleep(0.5)
            probe = {"Nats-Msg-Id": before[-1].headers["Nats-Msg-Id"]}
            forgot = await link.publish_stored(namespace.wire("task.cancel.c2.probe"), b"{}", probe)
            assert not forgot.duplicate
            before = await stored(link, namespace)
            await _update(link, stream, duplicate_window=120_000_000_000)
            again = processes.start(f"{AGENTS}:several")
            await again.ready()
            await eventually(lambda: is_settled(link, namespace, "watcher"))
            assert await stored(link, namespace) == before
            assert {event.cause for event in await client.journal.read_kind("task.cancel.c1.>")} == {submitted.seq}
    assert len(processes.runs()) == 1


# An orchestrator that stops between its record and what it lists


@pytest.mark.parametrize("meanwhile", ["a cancel", "a plan"])
async def test_what_is_said_while_an_orchestrator_is_stopped_between_record_and_emit_is_not_lost(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace, meanwhile: str
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            stopped = fleet.add("orchestrator", crash="between record and emit", signal=signal.SIGSTOP)
            [name] = await submit_all(client, 1, 0.2)
            await eventually(lambda: client.journal.read_last(f"handled.orchestrator.{name}.*"), within_s=20)
            if meanwhile == "a cancel":
                await client.journal.append(Fact(build("task.cancel", name, "ann"), TaskCancel(requested_by="ann")))
            for role in ("orchestrator", "planner", "executor", "verifier"):
                fleet.add(role)
            [state] = await all_ended(client, [name], within_s=45)
            before = await kinds_of(client, name)
            stopped.signal(signal.SIGCONT)
            await eventually(lambda: is_settled(link, namespace, "orchestrator"), within_s=20)
            assert stopped.alive
            assert await kinds_of(client, name) == before
            assert state.ending is not None
            assert state.ending.status == ("cancelled" if meanwhile == "a cancel" else "completed")
            await no_promise_is_broken(client, [name])


async def test_an_answer_that_is_recorded_while_the_one_who_asks_is_stopped_counts(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    [name] = names_in_doubt(1)
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        processes.defaults |= {"claim_ttl_s": 3.0, "settings": {"playbooks": str(PLAYBOOKS)}}
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            second_record = {"crash": "between record and emit", "nth": 2, "signal": signal.SIGSTOP}
            stopped = processes.start(MEMBERS["orchestrator"], **second_record)
            for role in ("planner", "executor", "verifier", "desk"):
                processes.start(MEMBERS[role])
            await client.submit(TASK, name)
            await eventually(lambda: asyncio.to_thread(_is_stopped, stopped.pid), within_s=30)
            processes.start(MEMBERS["orchestrator"])
            [state] = await all_ended(client, [name], within_s=45)
            before = await kinds_of(client, name)
            stopped.signal(signal.SIGCONT)
            await eventually(lambda: is_settled(link, namespace, "orchestrator"), within_s=20)
            assert await kinds_of(client, name) == before
            assert {"escalate.raised", "escalate.answered"} <= set(before)
            assert [question.decision for question in state.questions.values()] == ["approve"]
            await no_promise_is_broken(client, [name])


def _is_stopped(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.startswith("T")


async def kinds_of(client: Client, name: str) -> list[str]:
    return [event.kind for event in await client.events(name)]


# Two at the same message


async def test_two_processes_that_handle_the_same_message_record_one_run(
    nats_url: str, link: Link, namespace: Namespace
) -> None:
    """The message is delivered a second time while the first run still works on it: both end, one counts."""
    both = asyncio.Event()
    runs: list[str] = []

    def agent() -> Agent:
        made = Agent("watcher")

        @made.on("task.submitted", name="watcher", concurrency=2)
        async def watch(event: TaskSubmitted, context: Context) -> None:
            run = secrets.token_hex(4)
            runs.append(run)
            if len(runs) == 2:
                both.set()
            await both.wait()
            for number in range(2):
                context.emit("task.cancel", f"{run}-{number}", data=TaskCancel(requested_by="w"))

        return made

    async with bus_as(nats_url, namespace, "client") as client:
        async with running(agent(), nats_url, namespace, SHORT), running(agent(), nats_url, namespace, SHORT):
            await submit(client, "c1")
            await eventually(lambda: _true(len(runs) == 1))
            await _deliver_again(link, namespace)
            await eventually(lambda: is_settled(link, namespace, "watcher"), within_s=20)
        said = await client.journal.read_kind("task.cancel.>")
        assert len(runs) == 2
        assert len(said) == 2
        [counted] = {event.subject.detail[0].rpartition("-")[0] for event in said}
        assert counted in runs


async def _deliver_again(link: Link, namespace: Namespace) -> None:
    """Have the server forget who has the message, as a server does that is killed."""
    stream = namespace.stream("CONVERSATIONS")
    config = (await link.api(f"CONSUMER.INFO.{stream}.watcher", {}))["config"]
    await link.api(f"CONSUMER.DELETE.{stream}.watcher", {})
    await link.api(f"CONSUMER.CREATE.{stream}.watcher", {"stream_name": stream, "config": config, "action": "create"})
