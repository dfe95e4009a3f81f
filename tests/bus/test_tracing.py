"""One trace for one conversation: derived ids, one consumer span for each handled event, child of its cause's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from motet_bus import Agent, Bus, Context, Outcome, Step, root_span_id, trace_id, tracing
from motet_bus.claims import HeldClaim
from motet_bus.link import Link
from motet_schemas import Namespace, StepExecuted, TaskCancel, TaskSubmitted, VerifyPassed
from tests.bus.servers import until
from tests.bus.support import (
    bus_as,
    eventually,
    is_settled,
    last_of,
    offer,
    outsider_writes,
    running,
    stored,
    submit,
)


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "client") as bus:
        yield bus


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What an SDK would export; the process's own provider is left alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("motet"))
    yield exporter
    provider.shutdown()


def watcher() -> Agent:
    agent = Agent("watcher", role="specialist")

    @agent.on("task.submitted", name="watcher")
    async def watch(event: TaskSubmitted, context: Context) -> None:
        context.emit("task.cancel", "watcher", data=TaskCancel(requested_by="watcher"))

    return agent


def test_ids_are_derived_from_the_conversation_alone() -> None:
    assert re.fullmatch("[0-9a-f]{32}", trace_id("c1"))
    assert re.fullmatch("[0-9a-f]{16}", root_span_id("c1"))
    assert trace_id("c1") == trace_id("c1")
    assert len({trace_id(f"c{number}") for number in range(100)}) == 100
    assert root_span_id("c1") not in trace_id("c1")


async def test_the_first_fact_is_a_child_of_the_conversations_root(
    client: Bus, link: Link, namespace: Namespace
) -> None:
    await submit(client, "c1")
    [message] = await stored(link, namespace)
    assert message.headers["traceparent"] == f"00-{trace_id('c1')}-{root_span_id('c1')}-01"


async def test_without_an_sdk_the_context_still_travels(
    nats_url: str, client: Bus, link: Link, namespace: Namespace
) -> None:
    await submit(client, "c1")
    async with running(watcher(), nats_url, namespace):
        await eventually(lambda: client.journal.read_last("task.cancel.c1.watcher"))
    assert {message.headers["traceparent"][3:35] for message in await stored(link, namespace)} == {trace_id("c1")}


def one_span(spans: InMemorySpanExporter) -> ReadableSpan:
    [span] = spans.get_finished_spans()
    return span


async def test_each_handled_event_is_one_span_whose_child_records_what_follows(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    submitted = await submit(client, "c1")
    async with running(watcher(), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    span = one_span(spans)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == trace_id("c1")
    assert f"{span.parent.span_id:016x}" == root_span_id("c1")
    assert span.kind is trace.SpanKind.CONSUMER
    assert span.attributes is not None
    assert span.attributes["messaging.system"] == "nats"
    assert span.attributes["messaging.message.conversation_id"] == "c1"
    assert span.attributes["motet.stream.sequence"] == submitted.seq
    following = await last_of(client, "task.cancel.c1.watcher")
    assert following.headers["traceparent"][36:52] == f"{span.context.span_id:016x}"


@pytest.mark.parametrize(
    "header",
    [
        "00-11111111111111111111111111111111-2222222222222222-01",
        "00-zz-yy-01",
        "rubbish",
        "00-00000000000000000000000000000000-0000000000000000-01",
        "",
    ],
)
async def test_a_foreign_or_broken_context_does_not_take_the_conversation_into_another_trace(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter, header: str
) -> None:
    body = TaskSubmitted(kind="content-qa").to_json()
    await outsider_writes(link, namespace, "task.submitted.c1.content-qa", body, {"traceparent": header})
    async with running(watcher(), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    span = one_span(spans)
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == trace_id("c1")


async def test_a_fact_of_another_conversation_is_in_that_ones_trace(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    agent = Agent("parent")

    @agent.on("task.submitted", name="parent")
    async def split(event: TaskSubmitted, context: Context) -> None:
        if event.kind == "content-qa":
            context.emit("task.submitted", "child", data=TaskSubmitted(kind="child"), conversation="c2")

    await submit(client, "c1")
    async with running(agent, nats_url, namespace):
        await eventually(lambda: client.journal.read_last("task.submitted.c2.child"))
    assert (await last_of(client, "task.submitted.c2.child")).headers["traceparent"][3:35] == trace_id("c2")


async def test_an_error_of_the_handler_is_on_its_span_and_a_second_delivery_says_so(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    agent = Agent("judge", role="verifier")
    runs: list[int] = []

    @agent.on("step.executed", name="judge")
    async def judge(event: StepExecuted, context: Context) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("at first it fails")
        context.emit("verify.passed", *context.subject.detail, data=VerifyPassed(verdict="passed", verifier="me"))

    done = StepExecuted(status="passed", confidence=1.0, elapsed_ms=1, executor="you", idempotency_key="k")
    await outsider_writes(link, namespace, "step.executed.c1.s1.1", done.to_json())
    async with running(agent, nats_url, namespace):
        await eventually(lambda: client.journal.read_last("verify.passed.c1.s1.1"))
    first, second = spans.get_finished_spans()
    assert first.status.status_code is trace.StatusCode.ERROR
    assert second.status.status_code is not trace.StatusCode.ERROR
    assert first.attributes is not None
    assert second.attributes is not None
    assert (first.attributes["motet.deliveries"], second.attributes["motet.deliveries"]) == (1, 2)


async def test_a_step_that_is_handed_back_is_no_error_in_the_trace(
    nats_url: str, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    agent = Agent("worker", role="executor")

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0)

    async with (
        bus_as(nats_url, namespace, "orchestrator") as orchestrator,
        bus_as(nats_url, namespace, "executor", "owner") as owner,
    ):
        claim = await HeldClaim.take(owner.journal, await offer(orchestrator, "c1"), ttl_s=30)
        async with running(agent, nats_url, namespace):
            await until(lambda: bool(spans.get_finished_spans()))
            await claim.release("enough")
    assert spans.get_finished_spans()[0].status.status_code is not trace.StatusCode.ERROR
    assert spans.get_finished_spans()[0].events == ()
