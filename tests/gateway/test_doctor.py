"""Every finding of the doctor: provoked on a real server, and gone when the trouble is mended."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from motet_bus import Agent, AgentCard, Bus, Context
from motet_bus.consumer import Consumer, ConsumerSettings
from motet_bus.embedded import start_embedded
from motet_bus.link import Link
from motet_bus.presence import answer_roll_calls
from motet_bus.topology import apply_streams, conversations_stream
from motet_gateway import doctor_server, doctor_work
from motet_gateway.cli import main
from motet_gateway.config import Settings
from motet_gateway.consumers import consumer_states
from motet_gateway.doctor import examine
from motet_gateway.doctor_finding import Finding
from motet_gateway.doctor_server import clock_finding, disk_finding, sync_interval_finding
from motet_gateway.doctor_work import roles_finding
from motet_gateway.places import announce
from motet_gateway.render import findings_of_doctor
from motet_gateway.store import remove_discovery
from motet_gateway.terminal import console
from motet_schemas import (
    EscalateAnswered,
    EscalateRaised,
    Fact,
    LetterDiscarded,
    Namespace,
    PermanentError,
    PlanRequested,
    StepClaimed,
    StepExpired,
    TaskSubmitted,
    encode,
)
from motet_schemas.subjects import build
from tests.bus.recorded_conversations import running as running_story
from tests.bus.recorded_conversations import write
from tests.bus.servers import NatsServer, until
from tests.bus.support import bus_as, dead_letters, eventually, outsider_writes, running
from tests.bus.test_connect import peer
from tests.gateway.recorded import COMPLIANCE

pytestmark = pytest.mark.slow

STEP = COMPLIANCE
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(nats_url: str, namespace: Namespace) -> Settings:
    """How the doctor finds the session's server."""
    return Settings(nats_url=nats_url, namespace=namespace.name)


@pytest.fixture
async def bus(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    """An orchestrator's place on the bus; the streams are there."""
    async with bus_as(nats_url, namespace, "orchestrator") as opened:
        yield opened


async def found(settings: Settings) -> dict[str, Finding]:
    """Return what the doctor finds, by name."""
    return {finding.name: finding for finding in await examine(settings)}


async def one(settings: Settings, name: str) -> Finding:
    """Return one finding; what is not well comes with advice."""
    finding = (await found(settings))[name]
    assert bool(finding.advice) or finding.status in ("ok", "unknown")
    return finding


async def becomes_ok(settings: Settings, name: str) -> None:
    """Wait until a finding is well."""

    async def well() -> bool:
        return (await one(settings, name)).status == "ok"

    await eventually(well)


# The server


@pytest.mark.parametrize("version", ["2.10.0", ""])
async def test_an_old_server_is_told_with_what_to_do(version: str) -> None:
    info = {"server_id": "x", "version": version, "headers": True, "max_payload": 1 << 20, "jetstream": True}
    async with peer(b"INFO " + json.dumps(info).encode() + b"\r\n") as port:
        [finding] = await examine(Settings(nats_url=f"nats://127.0.0.1:{port}"))
    assert (finding.name, finding.status) == ("server", "fail")
    assert version in finding.found
    assert "upgrade the server" in finding.advice


async def test_a_server_without_jetstream_is_told_with_what_to_do(tmp_path: Path) -> None:
    with NatsServer(tmp_path, jetstream=False) as server:
        [finding] = await examine(Settings(nats_url=server.url))
    assert (finding.name, finding.status) == ("server", "fail")
    assert "without JetStream" in finding.found
    assert "switch JetStream on" in finding.advice


async def test_a_server_that_does_not_answer_is_told() -> None:
    [finding] = await examine(Settings(nats_url="nats://127.0.0.1:1"))
    assert finding.status == "fail"
    assert "cannot reach" in finding.found


ACCOUNTS = """
accounts {
  WITH { jetstream: {max_file: 2M}, users: [{user: with, password: pw}] }
  WITHOUT { users: [{user: without, password: pw}] }
  BLIND { jetstream: enabled, users: [
    {user: all, password: pw},
    {user: nothing, password: pw, permissions: {publish: {deny: "$JS.API.STREAM.INFO.>"}}},
    {user: little, password: pw, permissions: {publish: {deny: ["$JS.API.CONSUMER.LIST.>", "$JS.API.INFO"]}}},
  ] }
}
"""


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server whose users may do different things."""
    with NatsServer(tmp_path_factory.mktemp("accounts"), config=ACCOUNTS) as server:
        yield server


def as_user(server: NatsServer, user: str) -> Settings:
    return Settings(nats_url=f"nats://{user}:pw@{server.address}")


async def test_wrong_credentials_are_told(accounts: NatsServer) -> None:
    [finding] = await examine(Settings(nats_url=f"nats://with:wrong@{accounts.address}"))
    assert (finding.status, "check the credentials" in finding.advice) == ("fail", True)
    assert "wrong" not in finding.found


async def test_an_account_without_jetstream_is_told(accounts: NatsServer) -> None:
    finding = await one(as_user(accounts, "without"), "storage")
    assert finding.status == "fail"
    assert "enable JetStream for this account" in finding.advice


async def test_what_the_server_refuses_these_credentials_is_told(accounts: NatsServer) -> None:
    async with bus_as(f"nats://all:pw@{accounts.address}", Namespace(), "client"):
        pass
    blind = await found(as_user(accounts, "nothing"))
    assert blind["permissions"].status == "fail"
    assert "$JS.API.STREAM.INFO.CONVERSATIONS" in blind["permissions"].found
    assert "motet auth init" in blind["permissions"].advice
    assert blind["stream CONVERSATIONS"].status == "unknown"
    half_blind = await found(as_user(accounts, "little"))
    assert half_blind["permissions"].status == "warn"
    assert (half_blind["agents"].status, half_blind["storage"].status) == ("unknown", "unknown")
    assert half_blind["claims"].status == "ok"
    assert (await one(as_user(accounts, "all"), "permissions")).status == "ok"


async def test_an_account_that_is_almost_full_is_told(accounts: NatsServer) -> None:
    settings = as_user(accounts, "with")
    async with bus_as(f"nats://with:pw@{accounts.address}", Namespace(), "client") as bus:
        assert (await one(settings, "storage")).status == "ok"
        for number in range(9):
            await outsider_writes(bus.link, Namespace(), f"plan.created.c.{number + 1}", b"x" * 200_000)
        finding = await one(settings, "storage")
        assert (finding.status, "2.0 MB that the account may store" in finding.found) == ("warn", True)
        assert "motet archive" in finding.advice
        await bus.link.api("STREAM.PURGE.CONVERSATIONS", {})
    await becomes_ok(settings, "storage")


async def test_the_doctor_creates_nothing(link: Link, settings: Settings, namespace: Namespace) -> None:
    before = await found(settings)
    assert before[f"stream {namespace.stream('CONVERSATIONS')}"].found.startswith("not there yet")
    assert before[f"stream {namespace.stream('TIMERS')}"].found.startswith("not there yet")
    assert "claims" not in before


async def test_a_stream_that_somebody_changed_is_told(link: Link, settings: Settings, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    assert await consumer_states(link, namespace) == []
    spec = conversations_stream(namespace)
    await link.api(f"STREAM.UPDATE.{spec.name}", {**spec.config(), "max_age": 3_600_000_000_000})
    changed = await one(settings, f"stream {spec.name}")
    assert changed.status == "fail"
    assert "max_age" in changed.found
    await link.api(f"STREAM.UPDATE.{spec.name}", spec.config())
    await becomes_ok(settings, f"stream {spec.name}")


@asynccontextmanager
async def a_year_ahead(target_port: int) -> AsyncGenerator[int]:
    """Listen on a port behind which the server's clock seems to be a year ahead."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", target_port)
        tasks.add(asyncio.create_task(pass_on(reader, server_writer, 0)))
        tasks.add(asyncio.create_task(pass_on(server_reader, writer, 1)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, years: int) -> None:
    """Pass on what is said, with the server's time moved by so many years."""
    try:
        while chunk := await reader.read(65_536):
            writer.write(re.sub(rb'"ts":"(\d{4})', lambda year: b'"ts":"%d' % (int(year[1]) + years), chunk))
            await writer.drain()
    finally:
        writer.close()


async def test_clocks_that_differ_are_told(
    link: Link, nats_server: NatsServer, settings: Settings, namespace: Namespace
) -> None:
    await apply_streams(link, namespace)
    assert (await one(settings, "clock")).status == "ok"
    async with a_year_ahead(nats_server.port) as port:
        finding = await one(Settings(nats_url=f"nats://127.0.0.1:{port}", namespace=namespace.name), "clock")
    assert finding.status == "fail"
    assert "ahead of this machine's" in finding.found
    assert "NTP" in finding.advice


@pytest.mark.parametrize(
    ("skew_s", "wrong_by_s", "status"),
    [(0.1, 0, "ok"), (-1.9, 0, "ok"), (5.0, 0, "warn"), (5.0, 4.0, "ok"), (-60.0, 1.0, "fail")],
)
def test_a_slow_answer_is_not_taken_for_a_wrong_clock(skew_s: float, wrong_by_s: float, status: str) -> None:
    assert clock_finding(skew_s, wrong_by_s=wrong_by_s).status == status


async def test_a_server_that_syncs_rarely_and_a_full_disk_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(store=tmp_path)
    for sync_interval, status in (("2m", "warn"), ("100ms", "ok"), ("always", "ok")):
        async with await start_embedded(tmp_path, sync_interval=sync_interval) as server:
            announce(server)
            finding = await one(settings, "sync")
            remove_discovery(tmp_path, os.getpid())
            assert (finding.status, sync_interval in finding.found) == (status, True)
    assert (await one(settings, "disk")).status == "ok"
    monkeypatch.setattr(doctor_server, "LEAST_FREE_BYTES", 1 << 60)
    assert (await one(settings, "disk")).status == "fail"


@pytest.mark.parametrize(("written", "status"), [("1s", "ok"), ("1m30s", "warn"), ("999ms", "ok"), ("strange", "warn")])
def test_a_sync_interval_is_read(written: str, status: str) -> None:
    assert sync_interval_finding(written).status == status


# The consumers

listener = Agent("listener")


@listener.on("plan.requested", name="listener")
async def listen(event: PlanRequested, context: Context) -> None:
    """Fail where it is asked to."""
    if event.reason == "fail":
        raise PermanentError("as it was asked to")


async def request_plan(bus: Bus, conversation: str, reason: str = "a first plan") -> None:
    await bus.journal.append(Fact(build("plan.requested", conversation, 1), PlanRequested(reason=reason)))


async def test_work_that_nobody_serves_is_told_and_a_leaked_consumer_too(
    bus: Bus, nats_url: str, settings: Settings, namespace: Namespace
) -> None:
    async with running(listener, nats_url, namespace):
        await becomes_ok(settings, "consumer listener")
    leaked = await one(settings, "consumer listener")
    assert (leaked.status, "no agent of Motet would" in leaked.found) == ("warn", True)
    assert f"nats consumer rm {bus.journal.stream} listener" in leaked.advice
    await request_plan(bus, "c1")
    unserved = await one(settings, "consumer listener")
    assert (unserved.status, "1 waiting" in unserved.found) == ("fail", True)
    async with running(listener, nats_url, namespace):
        await becomes_ok(settings, "consumer listener")
    await bus.link.api(f"CONSUMER.DELETE.{bus.journal.stream}.listener", {})
    assert "consumer listener" not in await found(settings)


async def test_an_ephemeral_consumer_that_was_left_behind_is_told(bus: Bus, settings: Settings) -> None:
    config = {"ack_policy": "none", "inactive_threshold": 60_000_000_000}
    request = {"stream_name": bus.journal.stream, "config": config}
    name = (await bus.link.api(f"CONSUMER.CREATE.{bus.journal.stream}", request))["name"]
    finding = await one(settings, f"consumer {name}")
    assert (finding.status, "ephemeral, and nobody reads it" in finding.found) == ("warn", True)
    await bus.link.api(f"CONSUMER.DELETE.{bus.journal.stream}.{name}", {})
    assert f"consumer {name}" not in await found(settings)


async def test_lag_that_does_not_move_is_told(
    bus: Bus, nats_url: str, settings: Settings, namespace: Namespace
) -> None:
    handled = asyncio.Event()

    class Handler:
        async def handle(self, event: object, delivery: object) -> None:
            handled.set()

    async with bus_as(nats_url, namespace, "specialist", "deaf") as deaf:
        consumer = Consumer(deaf, ConsumerSettings(durable="deaf", filters=("plan.requested.>",)), Handler())
        spec = consumer.settings.spec(deaf)
        await deaf.link.api(
            f"CONSUMER.CREATE.{spec.stream}.deaf", {"stream_name": spec.stream, "config": spec.config()}
        )
        await answer_roll_calls(deaf, lambda: [(consumer, None)])  # and takes nothing
        assert (await one(settings, "consumer deaf")).status == "ok"
        await request_plan(bus, "c1")
        finding = await one(settings, "consumer deaf")
        assert (finding.status, "the lag does not move" in finding.found) == ("fail", True)
        stop = asyncio.Event()
        working = asyncio.create_task(consumer.run(stop))
        await handled.wait()
        await becomes_ok(settings, "consumer deaf")
        stop.set()
        await working


async def test_a_consumer_that_somebody_changed_is_told(
    bus: Bus, nats_url: str, settings: Settings, namespace: Namespace
) -> None:
    async with running(listener, nats_url, namespace):
        path = f"CONSUMER.INFO.{bus.journal.stream}.listener"
        config = (await bus.link.api(path, {}))["config"]
        await update(bus, {**config, "max_deliver": 3})
        finding = await one(settings, "consumer listener")
        assert (finding.status, "max_deliver" in finding.found) == ("fail", True)
        assert "nats consumer edit" in finding.advice
        await update(bus, config)
        await becomes_ok(settings, "consumer listener")


async def test_a_consumer_of_motets_own_that_hears_less_is_told(bus: Bus, settings: Settings) -> None:
    stream = bus.journal.stream
    config = {"name": "planner", "durable_name": "planner", "ack_policy": "explicit", "max_deliver": -1}
    deaf = {**config, "filter_subject": bus.namespace.wire("plan.created.>")}
    await bus.link.api(f"CONSUMER.CREATE.{stream}.planner", {"stream_name": stream, "config": deaf})
    finding = await one(settings, "consumer planner")
    assert finding.status == "fail"
    assert f"lacks {bus.namespace.wire('plan.requested.>')}" in finding.found


async def update(bus: Bus, config: dict[str, Any]) -> None:
    request = {"stream_name": bus.journal.stream, "config": config, "action": "update"}
    await bus.link.api(f"CONSUMER.CREATE.{bus.journal.stream}.{config['name']}", request)


async def test_a_paused_consumer_is_said_to_be_paused(
    bus: Bus, nats_url: str, settings: Settings, namespace: Namespace
) -> None:
    async with running(listener, nats_url, namespace):
        path, until_then = f"CONSUMER.PAUSE.{bus.journal.stream}.listener", datetime.now(UTC) + timedelta(hours=1)
        await bus.link.api(path, {"pause_until": until_then.isoformat()})
        assert (await one(settings, "consumer listener")).status == "ok"
        await request_plan(bus, "c1")
        finding = await one(settings, "consumer listener")
        assert (finding.status, "paused" in finding.found) == ("warn", True)
        assert "motet resume listener" in finding.advice
        await bus.link.api(path, {})
        await becomes_ok(settings, "consumer listener")


# The work


async def test_roles_that_nobody_plays_are_told(bus: Bus, settings: Settings) -> None:
    finding = await one(settings, "agents")
    assert (finding.status, "none is orchestrator, planner, executor, verifier" in finding.found) == ("fail", True)
    cards = [card_of(role) for role in ("orchestrator", "planner", "executor", "verifier")]
    assert roles_finding(cards).status == "ok"


def card_of(role: str) -> AgentCard:
    """Return the card of an agent."""
    return AgentCard(role=role, name=role, instance=f"{role}-1", pid=1, version="1", started_at=datetime.now(UTC))


async def test_claims_without_an_owner_are_told(
    bus: Bus, nats_url: str, settings: Settings, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(bus.link, namespace, running_story("c1").ready(STEP))
    async with bus_as(nats_url, namespace, "executor") as worker:
        claimed, expired = (build(kind, "c1", STEP.id, 1) for kind in ("step.claimed", "step.expired"))
        nonce = "n" * 16
        live = StepClaimed(owner="executor-gone", nonce=nonce, ttl_s=60, attempt=1)
        await worker.journal.append(Fact(claimed, live))
        orphaned = await one(settings, "claims")
        assert (orphaned.status, "c1 compliance.1 of executor-gone" in orphaned.found) == ("warn", True)
        assert "1 without an owner" in orphaned.found
        lost = StepExpired(owner="executor-gone", nonce=nonce, reason="it was gone")
        headers, body = encode(Fact(expired, lost), source="/agents/test/1")
        await outsider_writes(bus.link, namespace, str(expired), body, headers)
        assert (await one(settings, "claims")).status == "ok"
        # One that ran out, and that nobody took over.
        await write(bus.link, namespace, running_story("c2").ready(STEP))
        short = StepClaimed(owner="executor-gone", nonce=nonce, ttl_s=1, attempt=1)
        await worker.journal.append(Fact(build("step.claimed", "c2", STEP.id, 1), short))
        monkeypatch.setattr(doctor_work, "GRACE", timedelta())
        await until(lambda: has(one(settings, "claims"), "1 out of date"))
        assert "nobody took over" in (await one(settings, "claims")).advice


async def has(finding: Awaitable[Finding], text: str) -> bool:
    return text in (await finding).found


async def test_humans_who_did_not_answer_in_time_are_told(
    bus: Bus, nats_url: str, settings: Settings, namespace: Namespace
) -> None:
    story = running_story("c1").done(STEP, confidence=0.1)
    await write(bus.link, namespace, story.asked())
    assert (await one(settings, "questions")).found == "1 open, none overdue"
    raised = story.events[-1].data
    assert isinstance(raised, EscalateRaised)
    late = running_story("c2").done(STEP, confidence=0.1)
    await write(bus.link, namespace, late.record("escalate.raised", 1, data=raised.evolve(due_at=LONG_AGO)))
    finding = await one(settings, "questions")
    assert (finding.status, "1 past the due time: c2 question 1" in finding.found) == ("warn", True)
    async with bus_as(nats_url, namespace, "desk") as desk:
        answer = EscalateAnswered(decision="approve", answered_by="ann")
        await desk.journal.append(Fact(build("escalate.answered", "c2", 1), answer))
    await becomes_ok(settings, "questions")


async def test_open_dead_letters_are_told(bus: Bus, nats_url: str, settings: Settings, namespace: Namespace) -> None:
    assert (await one(settings, "dead letters")).status == "ok"
    await bus.link.publish_stored(namespace.wire("task.submitted.c1.x"), TaskSubmitted(kind="x").to_json(), {})
    async with running(listener, nats_url, namespace):
        await request_plan(bus, "c1", reason="fail")
        await until(lambda: any_of(dead_letters(bus.link, namespace)))
    finding = await one(settings, "dead letters")
    assert (finding.status, finding.found) == ("warn", "1 open: message that could not be handled")
    assert "motet dead list" in finding.advice
    [letter] = await dead_letters(bus.link, namespace)
    async with bus_as(nats_url, namespace, "operator") as operator:
        subject = build("letter.discarded", "c1", letter.consumer, letter.sequence)
        await operator.journal.append(Fact(subject, LetterDiscarded(by="ann", reason="it was a test")))
    await becomes_ok(settings, "dead letters")


async def any_of(some: Awaitable[list[Any]]) -> bool:
    return bool(await some)


# The command


def test_the_exit_status_and_the_document_say_it(
    nats_url: str, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor(*more: str) -> tuple[int, Any]:
        capsys.readouterr()
        status = main(["doctor", "--json", *more])
        return status, json.loads(capsys.readouterr().out)

    monkeypatch.setenv("MOTET_NATS_URL", nats_url)
    monkeypatch.setenv("MOTET_NAMESPACE", namespace.name)
    status, document = doctor()
    assert (status, document["sound"]) == (1, False), "no agent answers"
    assert all(set(check) == {"name", "status", "found", "advice"} for check in document["checks"])
    assert {check["status"] for check in document["checks"]} <= {"ok", "warn", "fail", "unknown"}
    status, document = doctor("--nats-url", "nats://127.0.0.1:1")
    assert (status, [check["name"] for check in document["checks"]]) == (4, ["server"])


def test_findings_are_shown_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    shown = [clock_finding(60.0).to_document(), disk_finding(Path("store"), 10 << 30).to_document()]
    console(sys.stdout).print(findings_of_doctor(shown))
    out = capsys.readouterr().out
    assert "fail     clock:" in out
    assert "→ claims and due dates" in out
    assert "ok       disk:" in out
