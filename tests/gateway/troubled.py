"""A run in which everything happens that a metric tells of: money, doubt, failures, letters, humans, redeliveries."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from motet_bus import AgentCard, Client, ConnectOptions, open_bus, open_client
from motet_bus.instruments import Instrument
from motet_gateway.session import follow
from motet_schemas import EscalateAnswered, Fact, Task
from motet_schemas.subjects import build
from tests.gateway.command import Motet, eventually

Labels = tuple[tuple[str, str], ...]
Series = dict[str, dict[Labels, float]]

_AGENT = """
import asyncio
from pathlib import Path

from motet_bus import Agent, Context, Outcome, Step
from motet_schemas import PermanentError, StepExecuted, TransientError, Usage

agent = Agent("trouble")
seen = []


@agent.step("spend")
async def spend(step: Step) -> Outcome:
    usage = Usage(tokens_in=120, tokens_out=30, cost_usd=0.02)
    return Outcome.passed(confidence=0.9, usage=usage, model="openai:gpt-test", commands_run=["pytest -q"])


@agent.step("doubt")
async def doubt(step: Step) -> Outcome:
    return Outcome.passed(confidence=0.2)


@agent.step("hold")
async def hold(step: Step) -> Outcome:
    while not Path("released").exists():
        await asyncio.sleep(0.02)
    return Outcome.passed(confidence=1.0)


@agent.step("break")
async def fall(step: Step) -> Outcome:
    raise PermanentError("this cannot be done")


@agent.on("step.executed")
async def stumble(event: StepExecuted, context: Context) -> None:
    if context.subject.step == "spend" and context.seq not in seen:
        seen.append(context.seq)
        raise TransientError("not yet")
"""

_PLAYBOOK = """
name: troubled
capabilities: [spend, doubt, break]
budget: {max_cost_usd: 1.0}
plan:
  - {id: spend, capability: spend, goal: Spend, manifest: {objective: spent}}
  - {id: doubt, capability: doubt, goal: Doubt, manifest: {objective: doubted}}
"""

_HOPELESS = """
name: hopeless
capabilities: [break]
plan:
  - {id: break, capability: break, goal: Break, manifest: {objective: broken}}
"""

_HELD = """
name: held
capabilities: [hold]
plan:
  - {id: hold, capability: hold, goal: Hold, manifest: {objective: held}}
"""

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Run:
    """A `motet up` with an agent of its own, and where each process shows its metrics."""

    nats_url: str
    folder: Path
    urls: dict[str, str]

    def series(self) -> Series:
        """Return every series of every process, added up over processes."""
        total: Series = defaultdict(lambda: defaultdict(float))
        for url in self.urls.values():
            for name, found in scrape(url).items():
                for labels, value in found.items():
                    total[name][labels] += value
        return total

    def submit(self, conversation: str, kind: str, *, wait: bool = True) -> None:
        """Submit a task; `wait` until it has ended or waits for a human."""

        async def submitted() -> None:
            async with asyncio.timeout(60), self.client() as client:
                await client.submit(Task(kind=kind), conversation)
                if wait:
                    await follow(client, conversation, lambda _: None)

        asyncio.run(submitted())

    def approve(self, conversation: str) -> None:
        """Answer the first question of a conversation."""

        async def answered() -> None:
            answer = EscalateAnswered(decision="approve", answered_by="ada")
            options = ConnectOptions(url=self.nats_url)
            async with asyncio.timeout(60), open_bus(options, role="desk", name="desk") as bus:
                await bus.journal.append(Fact(build("escalate.answered", conversation, 1), answer))

        asyncio.run(answered())

    def kinds(self, *conversations: str) -> Counter[str]:
        """Count the recorded facts of conversations by kind."""

        async def counted() -> Counter[str]:
            async with asyncio.timeout(60), self.client() as client:
                return Counter([event.kind for name in conversations for event in await client.events(name)])

        return asyncio.run(counted())

    def cards(self) -> list[AgentCard]:
        """Return the agents that answer."""

        async def answering() -> list[AgentCard]:
            async with asyncio.timeout(60), self.client() as client:
                return await client.roll_call(for_s=2.0)

        return asyncio.run(answering())

    def client(self) -> AbstractAsyncContextManager[Client]:
        """Return a guest's client."""
        return open_client(ConnectOptions(url=self.nats_url))


def read(url: str) -> str:
    """Return what a process shows."""
    answer = httpx.get(url, timeout=10)
    answer.raise_for_status()
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return answer.text


def scrape(url: str) -> Series:
    """Return the samples that a process shows, by name and labels."""
    found: Series = defaultdict(dict)
    for line in read(url).splitlines():
        if line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        assert match is not None, line
        labels = tuple(sorted(_LABEL.findall(match["labels"] or "")))
        found[match["name"]][labels] = float(match["value"])
    return found


@contextmanager
def troubled_run(folder: Path) -> Generator[Run]:
    """Run `motet up` and the agent, with one question answered and one left open. No collector takes their spans."""
    motet = Motet(folder, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_METRICS_EXPORTER="none")
    (folder / "trouble.py").write_text(_AGENT)
    (folder / "books").mkdir()
    (folder / "books" / "troubled.yaml").write_text(_PLAYBOOK)
    (folder / "books" / "hopeless.yaml").write_text(_HOPELESS)
    (folder / "books" / "held.yaml").write_text(_HELD)
    with ExitStack() as stack:
        up = stack.enter_context(
            motet.started("up", "--json", "--executors", "1", "--playbooks", "books", "--metrics-port", "0")
        )
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        agent = stack.enter_context(motet.started("agent", "trouble:agent", "--json", "--metrics-port", "0"))
        assert agent.stdout is not None
        assert json.loads(agent.stdout.readline())["metrics_url"]
        run = Run(ready["nats_url"], folder, {"up": ready["metrics_url"]})
        run.urls.update({card.name: str(card.metrics_url) for card in run.cards()})
        run.submit("first", "troubled")
        run.approve("first")
        run.submit("second", "hopeless")
        eventually(lambda: is_over(run), "the answer was counted")
        yield run


def is_over(run: Run) -> bool:
    """Say whether the first conversation has ended and the second one waits."""
    series = scrape(run.urls["orchestrator"])
    ended = sum(series["motet_conversations_ended_total"].values())
    return ended == 1 and sum(series["motet_escalations_pending"].values()) >= 1


def prometheus_names(one: Instrument) -> tuple[str, str]:
    """Return the family that Prometheus knows an instrument by, and one of its samples."""
    family = re.sub(r"[^a-zA-Z0-9]+", "_", one.name) + {"s": "_seconds"}.get(one.unit, "")
    suffix = {"counter": "_total", "histogram": "_count"}.get(one.kind, "")
    return family, family + suffix
