"""What is counted, on a real bus in this process, and how it leaves a process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from motet_agents.executor import agent as executor
from motet_agents.orchestrator import agent as orchestrator
from motet_agents.planner import agent as planner
from motet_agents.verifier import agent as verifier
from motet_bus import Agent, ConnectOptions, Outcome, Step, open_client
from motet_bus.census import Census
from motet_bus.claims import HeldClaim
from motet_bus.decision_metrics import HumanWaits
from motet_bus.instruments import INSTRUMENTS
from motet_bus.meter import bounded
from motet_bus.sampling import Sampled
from motet_schemas import Conversation, EscalateAnswered, EscalateRaised, Fact, Json, Namespace, Task, fold_all
from motet_schemas.remaining import shares_left
from motet_schemas.subjects import build
from tests.bus.support import bus_as, eventually, executed, new_conversation, offer, plan_step, running
from tests.gateway.command import Motet
from tests.observability.collectors import TROUBLES, bad_collector
from tests.observability.conftest import Read
from tests.observability.receiver import otlp_receiver

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_DRAFT = "# Tea\n\nTerms apply.\n"
_CHECKLIST: dict[str, Json] = {"compliance": {"required": ["Terms apply"]}}


def test_every_instrument_has_a_name_of_its_own_a_unit_and_a_description() -> None:
    assert len({one.name for one in INSTRUMENTS}) == len(INSTRUMENTS)
    for one in INSTRUMENTS:
        assert re.fullmatch(r"(motet|messaging|gen_ai)(\.[a-z_]+)+", one.name)
        assert re.fullmatch(r"1|s|\{\w+\}", one.unit)
        assert one.description
        assert not one.description.endswith(".")
        assert bool(one.buckets) == (one.kind == "histogram")
        assert list(one.buckets) == sorted(set(one.buckets))


async def test_fifty_conversations_make_no_more_series_than_one(
    nats_url: str, namespace: Namespace, read_metrics: Read
) -> None:
    async def converse(number: int) -> None:
        async with asyncio.timeout(30):
            task = Task(kind="content-qa", input={"draft": _DRAFT}, checklist=_CHECKLIST)
            await client.submit(task, f"c-{number}")
            async for state in client.watch(f"c-{number}"):
                if state.ending is not None:
                    return

    options = ConnectOptions(url=nats_url)
    async with (
        running(orchestrator, nats_url, namespace),
        running(planner, nats_url, namespace),
        running(executor, nats_url, namespace),
        running(verifier, nats_url, namespace),
        open_client(options, namespace=namespace.name) as client,
    ):
        await converse(0)
        await asyncio.to_thread(read_metrics)
        before = await asyncio.to_thread(read_metrics)
        await asyncio.gather(*(converse(number) for number in range(1, 51)))
        after = await asyncio.to_thread(read_metrics)

    ended = ("motet.conversations.ended", frozenset({("status", "completed"), ("verdict", "approved")}))
    assert after[ended] - before[ended] == 50
    # Which conflicts and redeliveries there are is a matter of timing; both have a bound that does not grow.
    assert {name for name, _ in after} == {name for name, _ in before}
    assert len(after) - len(before) <= 10
    assert not [labels for _, labels in after if any(str(value).startswith("c-") for _, value in labels)]


async def test_a_claim_that_ran_out_is_counted_by_whom_it_kept_waiting(
    nats_url: str, namespace: Namespace, read_metrics: Read
) -> None:
    agent = Agent("workers")

    @agent.step("orphaned")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0)

    conversation = new_conversation()
    async with bus_as(nats_url, namespace, "orchestrator") as bus, bus_as(nats_url, namespace, "executor") as dead:
        ready = await offer(bus, conversation, plan_step(capability="orphaned"))
        await HeldClaim.take(dead.journal, ready, ttl_s=0.5)
        before = read_metrics()
        async with running(agent, nats_url, namespace):
            await eventually(lambda: bus.journal.read_last(f"step.expired.{conversation}.s1.1"))
            await offer(bus, conversation, plan_step(capability="orphaned"), attempt=2)
            await eventually(lambda: executed(bus, conversation, attempt=2))
        after = read_metrics()

    def rise(name: str, **labels: str) -> float:
        key = (name, frozenset[tuple[str, object]](labels.items()))
        return after[key] - before.get(key, 0)

    assert rise("motet.claims", capability="orphaned", event="expired") == 1
    assert rise("motet.claims", capability="orphaned", event="taken") == 1
    assert rise("motet.commit.conflicts", kind="step.claimed") >= 1
    assert rise("motet.steps", capability="orphaned", outcome="passed") == 1
    assert rise("motet.claims.live", capability="orphaned") == 0


def _question(due_at: datetime) -> EscalateRaised:
    return EscalateRaised(
        reason="step_failed", question="What now?", allowed_answers=("approve",), due_at=due_at, on_timeout="reject"
    )


async def test_the_census_counts_open_questions_and_those_that_are_overdue(nats_url: str, namespace: Namespace) -> None:
    now = datetime.now(UTC)
    async with (
        bus_as(nats_url, namespace, "orchestrator") as bus,
        bus_as(nats_url, namespace, "desk") as desk,
        open_client(ConnectOptions(url=nats_url), namespace=namespace.name) as client,
    ):
        for name, due_at in (("late", now - timedelta(hours=1)), ("early", now + timedelta(hours=1)), ("done", now)):
            await client.submit(Task(kind="content-qa", input={"draft": _DRAFT}), name)
            await bus.journal.append(Fact(build("escalate.raised", name, 1), _question(due_at)))
        census = Census(bus)
        assert sum((await census.take()).by_reason.values()) == 3
        answer = EscalateAnswered(decision="approve", answered_by="ada")
        await desk.journal.append(Fact(build("escalate.answered", "done", 1), answer))
        waiting = await census.take()
        state = await bus.conversations.load("done")

    assert (waiting.by_reason["step_failed"], waiting.overdue) == (2, 1)
    assert 0 <= waiting.longest_s < 120
    waits = HumanWaits()
    waits.answered(state, 1)
    waits.answered(state, 1)
    waits.answered(state, 7)


def test_what_is_left_of_a_budget_is_a_share(read_metrics: Read) -> None:
    assert shares_left(Conversation(id="c")) == {"attempts": 1.0, "tokens": 1.0, "time": 0.0}
    assert shares_left(fold_all("c", [])) == {"attempts": 1.0, "tokens": 1.0, "time": 0.0}


def test_words_that_others_choose_are_bounded() -> None:
    shown = {bounded("test", f"word-{number}") for number in range(1_000)}
    assert len(shown) == 51
    assert "other" in shown
    assert bounded("test", "word-3") == "word-3"


async def test_a_look_that_takes_long_or_fails_never_holds_a_reader_up() -> None:
    answers: list[int | RuntimeError] = [1, 2, RuntimeError("gone"), RuntimeError("gone")]
    hanging = asyncio.Event()

    async def take() -> int:
        if not answers:
            await hanging.wait()
        answer = answers.pop(0)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    sampled = Sampled("test", take, every_s=0.0)
    assert sampled.read() is None, "the loop's own thread must not wait for the loop"
    seen = [await asyncio.to_thread(sampled.read) for _ in range(6)]
    assert seen[0] == 1
    assert set(seen) <= {1, 2}
    await sampled.close()
    assert await asyncio.to_thread(sampled.read) in (1, 2)


def test_without_a_reader_nothing_of_the_sdk_is_imported_and_nothing_is_listened_on() -> None:
    code = (
        "import sys; from motet_observability import set_up_metrics; m = set_up_metrics('x'); m.finish();"
        "import motet_bus.metrics;"
        "print(m.url, [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'prometheus'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "None []"


@pytest.mark.timeout(90)
def test_metrics_of_all_agents_are_sent_by_otlp(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        motet = Motet(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_METRIC_EXPORT_INTERVAL="600000")
        motet.json("run", _ROOT / "examples/content-qa/flawed/task.yaml", "--quiet")
    services = {service for service, _ in receiver.metrics}
    assert services == {f"motet-{role}" for role in ("orchestrator", "planner", "executor", "verifier")}
    for service, name in (
        ("motet-executor", "motet.steps"),
        ("motet-orchestrator", "motet.conversations.ended"),
        ("motet-planner", "messaging.process.duration"),
        ("motet-verifier", "motet.tokens"),
    ):
        assert (service, name) in receiver.metrics


_SENDS = """
import json, os, time
from motet_bus import metrics
from motet_gateway.trace_export import metric_export_from
from motet_observability import set_up_logs, set_up_metrics
set_up_logs("info", "json")
shown = set_up_metrics("motet-test", export=metric_export_from(os.environ))
for _ in range(100):
    metrics.received("x", 2)
started = time.monotonic()
shown.finish()
print(json.dumps(time.monotonic() - started))
"""


@pytest.mark.parametrize("trouble", ["is down", *TROUBLES])
def test_a_collector_in_trouble_neither_keeps_a_process_from_ending_nor_fills_its_log(trouble: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with bad_collector(trouble) as url:
        done = subprocess.run(
            [sys.executable, "-c", _SENDS],
            env={**inherited, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_METRIC_EXPORT_INTERVAL": "50"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert json.loads(done.stdout) < 10, "the SDK by itself takes 30 s"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) <= 4, done.stderr
    assert {line.get("action", line.get("event")) for line in lines} <= {
        "metrics.started",
        "metrics.export_failed",
        "metrics.not_sent",
        "telemetry.sdk",
    }


def test_the_page_lists_exactly_the_metrics_of_the_names_module() -> None:
    page = (_ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    listed = [row for row in rows if len(row) == 5]
    assert [row[0] for row in listed] == [f"`{one.name}`" for one in INSTRUMENTS]
    for row, one in zip(listed, INSTRUMENTS, strict=True):
        labels = ", ".join(f"`{label}`" for label in one.labels) or "–"
        assert row[1:] == [one.unit.strip("{}"), labels, one.served_by, one.description]
