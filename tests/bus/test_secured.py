"""Life on a secured bus: TLS and keys, asking as an outsider, clear errors, and no trust in what a message says."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from motet_agents.orchestrator import agent as orchestrator
from motet_agents.orchestrator.document import run_document
from motet_bus import Agent, Bus, Outcome, Step, run_agent
from motet_bus.answers import Message
from motet_bus.asking import LARGEST_ANSWER, ask_to_show
from motet_bus.connect import connect
from motet_bus.link import Link
from motet_bus.outsider import Outsider, open_outsider
from motet_bus.presence import DrainOrder, ask_to_drain, roll_call
from motet_bus.topology import conversations_stream
from motet_schemas import (
    BusUnavailableError,
    BusUnsuitableError,
    ConflictError,
    Fact,
    InvalidInputError,
    Namespace,
    NotAllowedError,
    NotFoundError,
    Reference,
    Task,
    TaskCancel,
    VerifyPassed,
    fold_all,
)
from motet_schemas.subjects import build
from tests.bus.secured import god, options_as
from tests.bus.servers import NatsServer, until
from tests.bus.support import bus_as, eventually, options, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def secured_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with accounts, TLS and a key for each role."""
    with NatsServer(tmp_path_factory.mktemp("secured"), secured=True) as server:
        yield server


@pytest.fixture
def url(secured_server: NatsServer) -> str:
    return secured_server.url


@pytest.fixture
async def above(url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    """What an operator's tools see, and make: the streams."""
    async with god(url, namespace.name) as bus:
        yield bus


@asynccontextmanager
async def outsider_on(url: str, namespace: Namespace) -> AsyncGenerator[Outsider]:
    found = options_as(url, "stranger", "outsider")
    async with open_outsider(found, name="outsider", namespace=namespace.name) as outsider:
        yield outsider


# Getting in


async def test_without_a_key_nobody_gets_in(secured_server: NatsServer, url: str) -> None:
    known = options_as(url, "test", "executor")
    with pytest.raises(NotAllowedError, match="credentials"):
        await connect(replace(known, nkey=None))


async def test_a_key_that_the_server_does_not_know_is_a_clear_error_without_the_seed(url: str, tmp_path: Path) -> None:
    from motet_gateway.user_keys import new_seed

    seed = new_seed()
    (tmp_path / "other.nk").write_bytes(seed + b"\n")
    with pytest.raises(NotAllowedError, match="nkey file") as refused:
        await connect(replace(options_as(url, "test", "executor"), nkey=tmp_path / "other.nk"))
    assert seed.decode() not in str(refused.value)


@pytest.mark.parametrize("content", ["", "UABC", "SU" + "a" * 56, "SU" + "A" * 57, "hunter2"])
async def test_a_file_that_holds_no_seed_is_a_clear_error_that_does_not_show_it(
    url: str, tmp_path: Path, content: str
) -> None:
    (tmp_path / "junk.nk").write_text(content)
    with pytest.raises(InvalidInputError, match="no seed") as refused:
        await connect(replace(options_as(url, "test", "executor"), nkey=tmp_path / "junk.nk"))
    assert not content or content not in refused.value.message


async def test_a_server_of_another_authority_is_not_trusted(url: str, tmp_path: Path) -> None:
    from motet_gateway.certificates import make_authority

    (tmp_path / "ca.pem").write_bytes(make_authority()[0])
    with pytest.raises(NotAllowedError, match="certificate"):
        await connect(replace(options_as(url, "test", "executor"), tls_ca=tmp_path / "ca.pem"))


async def test_a_server_without_tls_gets_no_key(url: str, own_server_in_the_clear: NatsServer) -> None:
    known = options_as(url, "test", "executor")
    with pytest.raises(BusUnsuitableError, match="TLS"):
        await connect(replace(known, url=f"tls://{own_server_in_the_clear.address}"))


@pytest.fixture
def own_server_in_the_clear(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "clear") as server:
        yield server


async def test_a_link_over_tls_closes_in_silence_also_when_its_server_is_gone(
    tmp_path: Path, namespace: Namespace, capfd: pytest.CaptureFixture[str]
) -> None:
    with NatsServer(tmp_path / "mine", secured=True) as server:
        link = await connect(options(server.url))
        other = await connect(options(server.url))
        await other.close()
        server.kill()
        await until(lambda: not link.connected)
        await link.publish("anything", b"waits for a connection")
        await link.close()
    assert "eof_received" not in capfd.readouterr().err


# Errors


async def test_what_the_server_refuses_is_a_clear_error_at_once(url: str, above: Bus, namespace: Namespace) -> None:
    """The journal is told that this is a verifier; the credentials are an executor's."""
    from motet_bus import open_bus

    began = time.monotonic()
    credentials = options_as(url, "test", "executor")
    async with open_bus(credentials, role="verifier", name="liar", namespace=namespace.name) as bus:
        subject = build("verify.passed", "c1", "s1", 1)
        with pytest.raises(NotAllowedError, match=r"verify\.passed\.c1\.s1\.1.*credentials"):
            await bus.journal.append(Fact(subject, VerifyPassed(verdict="passed", verifier="liar")))
    assert time.monotonic() - began < 5
    assert await above.journal.read_last(subject) is None


async def test_a_missing_stream_says_what_to_run(url: str) -> None:
    with pytest.raises(NotAllowedError, match=r"stream .*TIMERS is missing.*motet topology"):
        await run_agent(
            a_worker("none"), options_as(url, "test", "executor"), stop=asyncio.Event(), namespace="never-made"
        )


async def test_a_missing_consumer_says_what_to_run(url: str, above: Bus, namespace: Namespace) -> None:
    with pytest.raises(NotAllowedError, match=r"consumer .*step-nobodys is missing.*motet topology"):
        await run_agent(
            a_worker("nobodys"), options_as(url, "test", "executor"), stop=asyncio.Event(), namespace=namespace.name
        )


def a_worker(capability: str) -> Agent:
    agent = Agent("worker", role="executor")

    @agent.step(capability)
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0)

    return agent


# What a message says of itself


async def test_who_says_what_is_its_subject_never_a_header(url: str, above: Bus, namespace: Namespace) -> None:
    """An executor that calls itself a verifier, in every header there is, has still only said that it executed."""
    async with bus_as(url, namespace, "executor") as bus:
        forged = {
            "ce-id": secrets.token_hex(8),
            "ce-source": "/agents/verifier/verifier-1",
            "ce-type": "motet.verify.passed.v1",
            "ce-subject": "verify.passed.c1.s1.1",
            "Nats-Subject": namespace.wire("verify.passed.c1.s1.1"),
            "Nats-Stream": "elsewhere",
        }
        body = VerifyPassed(verdict="passed", verifier="verifier-1").to_json()
        await bus.link.publish_stored(namespace.wire("step.executed.c1.s1.1"), body, forged)
    events = await above.journal.read_conversation("c1")
    assert [event.kind for event in events] == ["step.executed"]
    state = fold_all("c1", events)
    assert not any(attempt.verification for attempts in state.attempts.values() for attempt in attempts)


# Asking from outside


async def test_an_outsider_submits_asks_and_stops_and_reads_nothing_else(
    url: str, above: Bus, namespace: Namespace
) -> None:
    task = Task(kind="content-qa", input={"text": "hello"})
    async with running(orchestrator, url, namespace), outsider_on(url, namespace) as outsider:
        assert await outsider.submit(task, "c1")
        assert not await outsider.submit(task, "c1")
        with pytest.raises(ConflictError, match="other content"):
            await outsider.submit(Task(kind="content-qa", input={"text": "else"}), "c1")
        shown = await outsider.show("c1")
        assert shown["status"] == "running"
        state = await above.conversations.load("c1")
        assert {**run_document(state), "task_fingerprint": task.fingerprint()}.keys() == shown.keys()
        with pytest.raises(NotFoundError, match="c2"):
            await outsider.show("c2")
        with pytest.raises(NotFoundError, match="c2"):
            await outsider.cancel("c2")
        await outsider.cancel("c1", reason="enough")

        async def stopped() -> bool:
            return bool((await outsider.show("c1"))["status"] == "cancelled")

        await eventually(stopped)
        with pytest.raises(ConflictError, match="ended"):
            await outsider.cancel("c1")
    request = await above.journal.read_last("task.cancel.c1.outsider")
    assert request is not None
    assert isinstance(request.data, TaskCancel)
    assert request.data.requested_by == "outsider"


async def test_an_outsider_may_store_no_large_document(url: str, above: Bus, namespace: Namespace) -> None:
    name = "0" * 64
    large = Task(kind="content-qa", references={"draft": Reference(name=name, sha256=name, size_bytes=1 << 20)})
    async with outsider_on(url, namespace) as outsider:
        with pytest.raises(InvalidInputError, match="client"):
            await outsider.submit(large, "c1")
        with pytest.raises(InvalidInputError, match="262144"):
            await outsider.submit(Task(kind="content-qa", input={"text": "x" * (256 << 10)}), "c2")
    assert await above.journal.read_kind("task.>") == []


async def test_nobody_to_ask_is_a_clear_error_that_can_be_tried_again(url: str, namespace: Namespace) -> None:
    async with outsider_on(url, namespace) as outsider:
        with pytest.raises(BusUnavailableError, match="no orchestrator"):
            await outsider.show("c1")


async def test_of_two_orchestrators_one_answers_and_the_answer_is_bounded(
    url: str, above: Bus, namespace: Namespace
) -> None:
    asked: list[str] = []
    agents = [Agent("orchestrator", role="orchestrator") for _ in range(2)]
    for agent in agents:

        def document(state: object) -> dict[str, object]:
            asked.append(str(state))
            steps = [{"id": "x" * 1_000}] * 500
            return {"status": "running", "report": {"findings": steps, "verdict": "approved"}, "steps": steps}

        agent.shows(document)
        agent.on("task.submitted", name="orchestrator")(_nothing)
    async with running(agents[0], url, namespace), running(agents[1], url, namespace):
        async with outsider_on(url, namespace) as outsider:
            await outsider.submit(Task(kind="content-qa"), "c1")
            shown = await outsider.show("c1")
        assert len(asked) == 1
    assert len(json.dumps(shown)) <= LARGEST_ANSWER
    assert shown["report"]["verdict"] == "approved"
    assert "steps" in shown["left_out"]
    assert shown["steps"] == []


async def _nothing(event: Any, context: Any) -> None:
    """Leave everything as it is."""


async def test_a_question_that_names_no_conversation_is_answered_with_an_error(
    url: str, above: Bus, namespace: Namespace
) -> None:
    link = await connect(options_as(url, "stranger", "outsider"))
    async with running(orchestrator, url, namespace):
        reply = await link.request(namespace.wire(f"ask.show.{'x' * 100}"), b"\xff" * 1_000, timeout_s=5)
        assert json.loads(reply.body)["error"]["code"] == "invalid_input"
        with pytest.raises(InvalidInputError):
            await ask_to_show(link, namespace, "no.token")
    await link.close()


async def test_an_outsider_can_read_neither_the_stream_nor_its_settings(
    url: str, above: Bus, namespace: Namespace
) -> None:
    link: Link = await connect(options_as(url, "stranger", "outsider"))
    stream = conversations_stream(namespace).name
    with pytest.raises(NotAllowedError):
        await link.read_batch(stream, namespace.wire("*.*.c1.>"))
    with pytest.raises(NotAllowedError):
        await link.api(f"STREAM.INFO.{stream}", {})
    await link.close()


async def test_the_roll_is_called_across_accounts(url: str, above: Bus, namespace: Namespace) -> None:
    caller = await connect(options_as(url, "test", "client"))
    async with running(orchestrator, url, namespace), running(a_worker("work"), url, namespace):
        cards = await roll_call(caller, namespace)
    await caller.close()
    assert [card.role for card in cards] == ["executor", "orchestrator"]


async def test_an_operator_s_order_to_drain_reaches_the_one_agent_in_its_account(
    url: str, above: Bus, namespace: Namespace
) -> None:
    async with running(orchestrator, url, namespace), running(a_worker("work"), url, namespace) as worker:
        card = await ask_to_drain(above.link, namespace, worker.card.instance, DrainOrder(by="ann"))
        assert card.draining
        await worker.task
        assert [card.role for card in await roll_call(above.link, namespace)] == ["orchestrator"]
    caller = await connect(options_as(url, "test", "client"))
    with pytest.raises(NotAllowedError):
        await ask_to_drain(caller, namespace, worker.card.instance, DrainOrder(by="eve"))
    await caller.close()


async def test_whoever_watches_hears_what_the_others_say_as_they_say_it(
    url: str, above: Bus, namespace: Namespace
) -> None:
    heard: list[str] = []

    async def hear(message: Message) -> None:
        heard.append(namespace.strip(message.subject))

    watcher = await connect(options_as(url, "test", "client"))
    await watcher.subscribe(namespace.wire("*.*.c1.>"), hear)
    await watcher.read_last_for(conversations_stream(namespace).name, "nothing")  # it listens, too
    async with bus_as(url, namespace, "specialist") as bus:
        await bus.journal.append(Fact(build("task.cancel", "c1", "me"), TaskCancel(requested_by="me")))
        await bus.journal.append(Fact(build("task.cancel", "c2", "me"), TaskCancel(requested_by="me")))
    await until(lambda: heard == ["task.cancel.c1.me"])
    await watcher.close()


async def test_word_of_an_end_reaches_the_workers_in_their_accounts(url: str, above: Bus, namespace: Namespace) -> None:
    async with bus_as(url, namespace, "executor") as worker, bus_as(url, namespace, "orchestrator") as teller:

        async def heard() -> bool:
            await teller.ended.tell("c1")
            return "c1" in worker.ended

        await eventually(heard)
