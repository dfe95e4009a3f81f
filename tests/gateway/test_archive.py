"""`motet archive` as a user runs it: what is shown afterwards is what was shown before, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motet_bus import Client, open_client
from motet_bus.archiver import Archiver
from motet_bus.fences import attempt_fence
from motet_bus.topology import ConsumerSpec, ensure_consumer
from motet_gateway.archiving import parse_span
from motet_gateway.cli import main
from motet_gateway.documents import event_documents
from motet_schemas import ConflictError, Fact, InvalidInputError, Namespace, StepExecuted, Task, TimerSet, fold_all
from motet_schemas.subjects import build
from tests.agents.test_whole_conversations import CHECKLIST, DRAFT, all_agents, until_ended
from tests.bus.recorded_conversations import finished, now, running, shown, write, write_event
from tests.bus.servers import NatsServer
from tests.bus.support import bus_as, dead_letters, eventually, is_settled, options
from tests.gateway.command import EXAMPLES, Motet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ALL = ("archive", "--older-than", "0s")


@pytest.fixture
def motet(nats_url: str, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`motet` on the session's server, in a namespace of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTET_NATS_URL", nats_url)
    monkeypatch.setenv("MOTET_NAMESPACE", namespace.name)
    monkeypatch.setenv("MOTET_STORE", str(tmp_path / "store"))
    return lambda *arguments: main([str(argument) for argument in arguments])


def record(nats_url: str, namespace: Namespace, *stories: Any) -> None:
    """Store conversations."""

    async def store() -> None:
        async with bus_as(nats_url, namespace, "client") as bus:
            await write(bus.link, namespace, *stories)

    asyncio.run(store())


def everything(nats_url: str, namespace: Namespace) -> dict[str, str]:
    """Return what `motet show --json` prints of each conversation."""

    async def look() -> dict[str, str]:
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            listed = await client.conversations()
            return {one.conversation: await as_json(client, one.conversation) for one in listed}

    return asyncio.run(look())


async def as_json(client: Client, conversation: str) -> str:
    return json.dumps(event_documents(await shown(client, conversation)))


def test_a_run_is_shown_byte_for_byte_as_before_it_was_archived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Motet(tmp_path)
    conversation = real.json("run", EXAMPLES / "flawed" / "task.yaml", "--quiet")["conversation_id"]
    monkeypatch.setenv("MOTET_STORE", str(real.store))

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    before = [said("show", conversation), said("show", conversation, "--json")]
    young = json.loads(said("archive", "--json"))
    assert (young["conversations"], young["looked_at"]) == ([], 0)
    archived = json.loads(said(*ALL, "--json"))
    assert archived["conversations"] == [conversation]
    assert [said("show", conversation), said("show", conversation, "--json")] == before
    [listed] = json.loads(said("list", "--json"))
    assert (listed["conversation_id"], listed["status"], listed["archived"]) == (conversation, "completed", True)
    assert json.loads(said("watch", conversation, "--json"))["report"]["verdict"] == "changes_needed"
    assert json.loads(said(*ALL, "--json"))["conversations"] == []


def test_archives_in_a_folder_can_be_moved(
    motet: Callable[..., int],
    nats_url: str,
    namespace: Namespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record(nats_url, namespace, finished("one"), finished("two"), running("three"))
    capsys.readouterr()
    assert motet("show", "one", "--json") == 0
    before = capsys.readouterr().out
    assert motet(*ALL, "--to", tmp_path / "cold", "--dry-run") == 0
    assert "2 of 2 conversations would leave the stream" in capsys.readouterr().out
    assert not (tmp_path / "cold").exists()
    assert motet(*ALL, "--to", tmp_path / "cold", "--limit", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["conversations"] == ["one"]
    (tmp_path / "cold").rename(tmp_path / "colder")
    assert motet("show", "one") == 1
    assert "name the folder that holds it with --archive DIR" in capsys.readouterr().err
    assert motet("show", "one", "--json", "--archive", tmp_path / "colder") == 0
    assert capsys.readouterr().out == before
    assert motet("list") == 0


def test_what_cannot_be_archived_is_told(
    motet: Callable[..., int],
    nats_url: str,
    namespace: Namespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record(nats_url, namespace, finished("one"), running("two"))
    assert motet(*ALL, "--conversation", "two", "--conversation", "nobody", "--conversation", "one") == 1
    told = capsys.readouterr()
    assert "1 of 3 conversations archived" in told.out
    assert "two stays: it has not ended" in told.err
    assert "nobody stays: there is no such conversation" in told.err
    assert motet(*ALL, "--conversation", "one") == 0
    assert "it was archived before" in capsys.readouterr().err
    record(nats_url, namespace, finished("four"))
    (tmp_path / "file").write_text("in the way")
    assert motet(*ALL, "--to", tmp_path / "file") == 2
    assert "--to: cannot write to" in capsys.readouterr().err
    assert motet("archive", "--older-than", "a while") == 2
    assert "write a number and s, m, h, d or w" in capsys.readouterr().err


def test_spans_of_time_are_read() -> None:
    spans = {text: parse_span(text, "--older-than").total_seconds() for text in ("30d", "2w", "12h", "5m", "0s")}
    assert list(spans.values()) == [2_592_000, 1_209_600, 43_200, 300, 0]
    for text in ("", "d", "-1d", "1.5h", "1y", "٣d", "1 d"):
        with pytest.raises(InvalidInputError, match="--older-than"):
            parse_span(text, "--older-than")


def test_facts_that_a_consumer_has_not_had_yet_stay(
    motet: Callable[..., int], nats_url: str, namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    async def listen(name: str, filter_: str) -> None:
        async with bus_as(nats_url, namespace, "client") as bus:
            spec = ConsumerSpec(
                stream=bus.journal.stream,
                durable=name,
                filter_subjects=(namespace.wire(filter_),),
                max_ack_pending=1,
            )
            await ensure_consumer(bus.link, spec)

    record(nats_url, namespace, finished("one"))
    asyncio.run(listen("step-tone", "step.ready.*.*.*.tone"))
    asyncio.run(listen("learner", "verify.passed.>"))
    assert motet(*ALL) == 0
    told = capsys.readouterr()
    assert "0 of 1 conversations archived" in told.out
    assert "1 stay, because not all of their events have reached learner" in told.err


@pytest.mark.chaos
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_moment_and_run_again_nothing_is_lost(tmp_path: Path, kill: int) -> None:
    with NatsServer(tmp_path / "nats") as server:
        namespace = Namespace("killed")
        record(server.url, namespace, *(finished(f"c-{number}") for number in range(60)))
        before = everything(server.url, namespace)
        motet = Motet(tmp_path, MOTET_NATS_URL=server.url, MOTET_NAMESPACE=namespace.name)
        for share in (0.2, 0.6):
            with motet.started(*ALL, "--json") as process:
                until_purged(server, namespace, share)
                process.send_signal(kill)
                process.wait(timeout=20)
            assert process.returncode in ((-signal.SIGKILL,) if kill == signal.SIGKILL else (130, 0))
            assert everything(server.url, namespace) == before
        assert motet(*ALL).returncode == 0
        assert everything(server.url, namespace) == before
        assert motet.json(*ALL)["conversations"] == []
        assert asyncio.run(subjects_of_kind(server, namespace, "plan")) == 0


def until_purged(server: NatsServer, namespace: Namespace, share: float) -> None:
    """Wait until so much of the plans has left the stream."""
    deadline = time.monotonic() + 60
    whole = 60 * 2
    while asyncio.run(subjects_of_kind(server, namespace, "plan")) > whole * (1 - share):
        assert time.monotonic() < deadline, "it never began"


async def subjects_of_kind(server: NatsServer, namespace: Namespace, family: str) -> int:
    """Return how many subjects of a family the stream holds."""
    async with bus_as(server.url, namespace, "client") as bus:
        asked = {"subjects_filter": namespace.wire(f"{family}.>")}
        info = await bus.link.api(f"STREAM.INFO.{bus.journal.stream}", asked)
        return len(info["state"].get("subjects") or {})


async def test_an_orchestrator_that_is_woken_for_an_archived_conversation_decides_nothing(
    nats_url: str, namespace: Namespace
) -> None:
    async with all_agents(nats_url, namespace) as client:
        await client.submit(Task(kind="content-qa", input={"draft": DRAFT}, checklist=CHECKLIST), "old")
        await until_ended(client, "old")
        for durable in ("orchestrator", "planner", "verifier"):
            await eventually(lambda durable=durable: is_settled(client.link, namespace, durable))  # type: ignore[misc]
        before = await shown(client, "old")
        async with bus_as(nats_url, namespace, "operator") as operator:
            assert (await Archiver(operator, by="ann").archive("old", now())).status == "archived"
    # Other orchestrators, which have never seen it whole; and words of all who may be late.
    late = [event for event in before if event.kind in ("plan.created", "verify.passed", "handled")]
    claimed, recorded = (next(one for one in before if one.kind == kind) for kind in ("step.claimed", "step.executed"))
    assert isinstance(recorded.data, StepExecuted)
    async with bus_as(nats_url, namespace, "executor") as zombie:
        fence = attempt_fence(claimed.subject, claimed.seq)
        with pytest.raises(ConflictError):
            await zombie.journal.append(Fact(recorded.subject, recorded.data), fence=fence)
    async with all_agents(nats_url, namespace) as client:
        for event in late:
            await write_event(client.link, namespace, event)
        async with bus_as(nats_url, namespace, "orchestrator") as zombie:
            timer = Fact(build("timer.set", "old", "budget", 9), TimerSet(at=now().replace(year=2020)))
            await zombie.journal.append(timer)
        await eventually(lambda: client.journal.read_last("timer.fired.old.budget.9"))
        for durable in ("orchestrator", "planner", "verifier"):
            await eventually(lambda durable=durable: is_settled(client.link, namespace, durable))  # type: ignore[misc]
        after = await shown(client, "old")
        assert after[: len(before)] == before
        said = [str(event.subject) for event in [*late, *after[len(before) :]]]
        expected = [*said[: len(late)], "timer.set.old.budget.9", "timer.fired.old.budget.9"]
        assert said[len(late) :] == expected, "nobody answers"
        assert await dead_letters(client.link, namespace) == []
        state = await client.load("old")
        assert state.ending == fold_all("old", before).ending
        assert [one.status for one in await client.conversations()] == ["completed"]
