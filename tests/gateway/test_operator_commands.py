"""`motet pause`, `resume` and `drain` from the command line, in words and in JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from motet_bus import Agent, ConnectOptions, Context, Outcome, Step, open_bus
from motet_bus.consumer import ConsumerSettings
from motet_bus.topology import ensure_consumer
from motet_gateway.cli import main
from motet_schemas import Namespace, TaskSubmitted
from tests.bus.support import bus_as, eventually, executed, offer, plan_step, running
from tests.gateway.command import Motet, is_alive

pytestmark = pytest.mark.slow

Run = Callable[..., Any]


@pytest.fixture
def motet(nats_url: str, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`motet` on the session's server, in a namespace of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTET_NATS_URL", nats_url)
    monkeypatch.setenv("MOTET_NAMESPACE", namespace.name)
    monkeypatch.setenv("MOTET_STORE", str(tmp_path / "store"))
    return lambda *arguments: main(list(arguments))


@pytest.fixture
def as_json(motet: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command with `--json`; return its document. The exit status must be `expect`."""

    def run(*arguments: str, expect: int = 0) -> Any:
        capsys.readouterr()
        assert motet(*arguments, "--json") == expect
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def consumers(nats_url: str, namespace: Namespace) -> None:
    """A consumer of steps, and one of events."""

    async def make() -> None:
        async with open_bus(ConnectOptions(url=nats_url), role="client", name="c", namespace=namespace.name) as bus:
            for durable, name in (
                ("step-check-links", "step.ready.*.*.*.check-links"),
                ("learner", "task.submitted.>"),
            ):
                await ensure_consumer(bus.link, ConsumerSettings(durable=durable, filters=(name,)).spec(bus))

    asyncio.run(make())


@pytest.mark.usefixtures("consumers")
def test_work_is_paused_for_a_reason_and_resumed(
    motet: Callable[..., int], as_json: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    made = as_json("pause", "check-links", "--reason", "the proxy is down", "--by", "ann", "--for", "2h")
    assert made["consumer"] == "step-check-links"
    assert (made["paused"]["by"], made["paused"]["reason"]) == ("ann", "the proxy is down")
    ends, began = (datetime.fromisoformat(made["paused"][name]) for name in ("until", "at"))
    assert 7_190 < (ends - began).total_seconds() < 7_210
    capsys.readouterr()
    assert motet("pause", "learner", "--reason", "a look", "--by", "ann") == 0
    assert "learner is paused by ann until `motet resume learner` (a look)" in capsys.readouterr().out
    assert motet("agents") == 0
    out = capsys.readouterr().out
    assert "step-check-links is paused by ann until 20" in out
    assert "learner is paused" in out
    assert as_json("resume", "check-links") == {"consumer": "step-check-links", "resumed": True}
    assert as_json("resume", "step-check-links") == {"consumer": "step-check-links", "resumed": False}
    assert motet("resume", "learner") == 0
    assert "learner goes on" in capsys.readouterr().out
    assert motet("agents") == 0
    assert "paused" not in capsys.readouterr().out


@pytest.mark.usefixtures("consumers")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pause", "check-link", "--reason", "r"), "no work called 'check-link' here; did you mean check-links?"),
        (("resume", "lerner"), "did you mean learner?"),
        (("pause", "zzz", "--reason", "r"), "there is check-links, learner"),
        (("pause", "learner"), "--reason"),
        (("pause", "learner", "--reason", "r", "--for", "1h", "--until", "2h"), "either --for or --until"),
        (("pause", "learner", "--reason", "r", "--for", "soon"), "--for: 'soon' is no length of time"),
        (("pause", "learner", "--reason", "r", "--until", "2020-01-01"), "is over by the server's clock"),
        (("pause", "learner", "--reason", "r" * 2_001), "by, reason: between 1 and 2000 characters"),
        (("drain", "executor", "--by", "x" * 201), "by"),
        (("drain", "executor"), "no agent 'executor' answers here"),
    ],
)
def test_what_cannot_be_is_said_to_be_so(
    motet: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert motet(*arguments) == 2
    assert says in capsys.readouterr().err


async def test_agents_are_drained_by_instance_and_by_name_and_shown_to_leave(
    nats_url: str, namespace: Namespace, tmp_path: Path
) -> None:
    motet = Motet(tmp_path, MOTET_NATS_URL=nats_url, MOTET_NAMESPACE=namespace.name)
    may_end, agent = asyncio.Event(), Agent("greeter")

    @agent.step("greet")
    async def greet(step: Step) -> Outcome:
        await may_end.wait()
        return Outcome.passed(confidence=1.0)

    @agent.on("task.submitted", name="hearer")
    async def hear(event: TaskSubmitted, context: Context) -> None:
        """Hear, and do nothing."""

    async with bus_as(nats_url, namespace, "orchestrator") as bus, running(agent, nats_url, namespace) as here:
        await offer(bus, "c2", plan_step(capability="greet"))
        await eventually(lambda: bus.journal.read_last("step.claimed.c2.>"))
        told = await asyncio.to_thread(motet.json, "drain", here.card.instance, "--by", "ann", "--reason", "an upgrade")
        [leaving] = told["draining"]
        assert (leaving["instance"], leaving["role"], leaving["in_flight"]) == (here.card.instance, "specialist", 1)
        assert told["unserved"] == ["hearer", "step-greet"]
        [card] = await asyncio.to_thread(motet.json, "agents")
        assert card["draining"]
        left = await asyncio.to_thread(motet.json, "drain", "greeter", "--wait", "--timeout", "1s", expect=1)
        assert left["left"] == [here.card.instance]
        may_end.set()
        await eventually(lambda: executed(bus, "c2"))


@pytest.mark.timeout(120)
def test_motet_up_does_not_start_again_what_was_drained(tmp_path: Path) -> None:
    motet = Motet(tmp_path)
    with motet.started("up", "--json") as up:
        assert up.stdout is not None
        agents = json.loads(up.stdout.readline())["agents"]
        executors = [agent for agent in agents if agent["role"] == "executor"]
        done = motet("drain", "executor", "--wait", "--reason", "a test")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("does not start it again") == len(executors) == 2
        assert "nobody serves" in done.stderr
        assert not any(is_alive(agent["pid"]) for agent in executors)
        assert sorted(agent["role"] for agent in motet.json("agents")) == ["orchestrator", "planner", "verifier"]
        assert up.poll() is None
    log = (tmp_path / "store" / "logs" / "executor-1.log").read_text()
    assert "agent.draining" in log
    assert "a test" in log
