"""One trace for one conversation: derived ids, one consumer span for each handled event, child of its cause's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from motet_bus import Agent, Bus, Context, Outcome, Step, root_span_id, trace_id, tracing
from motet_bus.bus import TRACE_HOPS
from motet_bus.claims import HeldClaim
from motet_bus.fences import Fence
from motet_bus.link import Link
from motet_bus.reconciler import Decision
from motet_bus.trace_context import parse, to_headers, wait_span_id
from motet_observability.span_ids import DerivedIds
from motet_schemas import (
    ConflictError,
    EscalateAnswered,
    EscalateRaised,
    Fact,
    Namespace,
    StepExecuted,
    TaskCancel,
    TaskSubmitted,
    Usage,
    VerifyPassed,
)
from motet_schemas.subjects import build
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

_DUE = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "client") as bus:
        yield bus


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What an SDK would export; the process's own provider is left alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=DerivedIds())
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


def orchestrator() -> Agent:
    """One that decides nothing."""
    agent = Agent("orchestrator", role="orchestrator")
    agent.reconcile("task.submitted", "task.cancel", "escalate.answered", decide=lambda _: Decision())
    return agent


def test_ids_are_derived_from_the_conversation_alone() -> None:
    assert re.fullmatch("[0-9a-f]{32}", trace_id("c1"))
    assert re.fullmatch("[0-9a-f]{16}", root_span_id("c1"))
    assert trace_id("c1") == trace_id("c1")
    assert len({trace_id(f"c{number}") for number in range(100)}) == 100
    assert root_span_id("c1") not in trace_id("c1")


async def test_without_an_sdk_the_first_fact_is_a_child_of_the_conversations_root(
    client: Bus, link: Link, namespace: Namespace
) -> None:
    await submit(client, "c1")
    [message] = await stored(link, namespace)
    assert message.headers["traceparent"] == f"00-{trace_id('c1')}-{root_span_id('c1')}-01"
    assert "motet-caller" not in message.headers


async def test_without_an_sdk_the_context_still_travels(
    nats_url: str, client: Bus, link: Link, namespace: Namespace
) -> None:
    await submit(client, "c1")
    async with running(watcher(), nats_url, namespace):
        await eventually(lambda: client.journal.read_last("task.cancel.c1.watcher"))
    assert {message.headers["traceparent"][3:35] for message in await stored(link, namespace)} == {trace_id("c1")}


def consumed(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the spans of handled events, in the order of their ends."""
    return [span for span in spans.get_finished_spans() if span.kind is trace.SpanKind.CONSUMER]


def one_span(spans: InMemorySpanExporter) -> ReadableSpan:
    [span] = consumed(spans)
    return span


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def linked(span: ReadableSpan, purpose: str) -> list[str]:
    return [f"{link.context.span_id:016x}" for link in span.links if (link.attributes or {})["motet.link"] == purpose]


async def test_each_handled_event_is_one_span_whose_child_records_what_follows(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    submitted = await submit(client, "c1")
    async with running(watcher(), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    span = one_span(spans)
    door = spans.get_finished_spans()[0]
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == trace_id("c1")
    assert span.name == "process task.submitted"
    assert parent_of(span) == id_of(door)
    assert dict(span.attributes or {}) == {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "task.submitted.c1.content-qa",
        "messaging.destination.template": "task.submitted",
        "messaging.message.conversation_id": "c1",
        "messaging.message.id": submitted.id,
        "messaging.consumer.group.name": "watcher",
        "motet.stream.sequence": submitted.seq,
        "motet.deliveries": 1,
    }
    following = await last_of(client, "task.cancel.c1.watcher")
    assert following.headers["traceparent"][36:52] == id_of(span)


async def test_what_comes_in_by_a_door_is_a_producer_span_under_the_root(
    client: Bus, spans: InMemorySpanExporter
) -> None:
    submitted = await submit(client, "c1")
    [door] = spans.get_finished_spans()
    assert (door.name, door.kind) == ("publish task.submitted", trace.SpanKind.PRODUCER)
    assert parent_of(door) == root_span_id("c1")
    assert (door.attributes or {})["messaging.operation.type"] == "send"
    assert submitted.headers["traceparent"][36:52] == id_of(door)


async def test_a_door_that_is_refused_says_so_on_its_span(client: Bus, spans: InMemorySpanExporter) -> None:
    await submit(client, "c1")
    with pytest.raises(ConflictError):
        await submit(client, "c1", kind="another")
    refused = spans.get_finished_spans()[-1]
    assert (refused.attributes or {})["error.type"] == "ConflictError"
    assert refused.status.status_code is trace.StatusCode.ERROR


async def test_a_callers_own_span_and_the_conversation_are_linked_both_ways(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    with tracing.tracer().start_as_current_span("a request of theirs") as theirs:
        submitted = await submit(client, "c1")
    their_id = f"{theirs.get_span_context().span_id:016x}"
    async with running(orchestrator(), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
    by_name = {span.name: span for span in spans.get_finished_spans()}
    assert linked(by_name["publish task.submitted"], "caller") == [their_id]
    assert linked(by_name["invoke_workflow content-qa"], "caller") == [their_id]
    assert linked(by_name["a request of theirs"], "conversation") == [root_span_id("c1")]
    assert submitted.headers["motet-caller"][36:52] == their_id


async def test_an_outsiders_traceparent_becomes_a_link_of_the_root(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    header = {"traceparent": "00-11111111111111111111111111111111-2222222222222222-01"}
    body = TaskSubmitted(kind="content-qa").to_json()
    await outsider_writes(link, namespace, "task.submitted.c1.content-qa", body, header)
    async with running(orchestrator(), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
    root = next(span for span in spans.get_finished_spans() if span.name == "invoke_workflow content-qa")
    assert linked(root, "caller") == ["2222222222222222"]


async def test_the_root_is_told_once_at_the_time_of_the_submission_and_ends_at_once(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    submitted = await submit(client, "c1")
    async with running(orchestrator(), nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "orchestrator"))
        await client.journal.append(Fact(build("task.cancel", "c1", "me"), TaskCancel(requested_by="me")))
        await until(lambda: len(consumed(spans)) == 2)
    [root] = [span for span in spans.get_finished_spans() if span.name.startswith("invoke_workflow")]
    assert (id_of(root), parent_of(root)) == (root_span_id("c1"), "")
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == trace_id("c1")
    assert root.start_time == root.end_time == round(submitted.time.timestamp() * 1e6) * 1000
    assert (root.attributes or {})["gen_ai.workflow.name"] == "content-qa"


async def test_with_every_hop_each_fact_has_a_producer_span_between_its_handlers(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    await submit(client, "c1")
    async with running(watcher(), nats_url, namespace, settings={TRACE_HOPS: "1"}):
        await eventually(lambda: is_settled(link, namespace, "watcher"))
    span = one_span(spans)
    hops = {one.name: one for one in spans.get_finished_spans() if parent_of(one) == id_of(span)}
    assert set(hops) == {"publish handled", "publish task.cancel"}
    following = await last_of(client, "task.cancel.c1.watcher")
    assert following.headers["traceparent"][36:52] == id_of(hops["publish task.cancel"])


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
    first, second = consumed(spans)
    assert (first.attributes or {})["error.type"] == "ValueError"
    assert "at first it fails" not in first.to_json()
    assert parent_of(second) == parent_of(first)
    assert linked(second, "previous_delivery") == [id_of(first)]
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
            await until(lambda: bool(consumed(spans)))
            await claim.release("enough")
    first = consumed(spans)[0]
    assert first.status.status_code is not trace.StatusCode.ERROR
    assert (first.attributes or {})["motet.handed_back"] is True
    assert first.events == ()


async def test_what_an_agent_did_with_a_step_is_a_span_without_its_content(
    nats_url: str, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    agent = Agent("worker", role="executor")

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        usage = Usage(tokens_in=7, tokens_out=3)
        return Outcome.passed(confidence=0.9, notes="words of the draft", usage=usage, model="rules")

    async with bus_as(nats_url, namespace, "orchestrator") as orchestrator, running(agent, nats_url, namespace):
        await offer(orchestrator, "c1")
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    invoked = next(span for span in spans.get_finished_spans() if span.name == "invoke_agent worker")
    said = dict(invoked.attributes or {})
    assert parent_of(invoked) == id_of(one_span(spans))
    assert str(said.pop("gen_ai.agent.id")).startswith("worker-")
    assert said == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "worker",
        "gen_ai.conversation.id": "c1",
        "gen_ai.response.model": "rules",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "motet.capability": "work",
        "motet.step": "s1",
        "motet.attempt": 1,
        "motet.outcome": "passed",
        "motet.confidence": 0.9,
    }
    assert "words of the draft" not in invoked.to_json()


async def test_a_handler_that_raises_is_an_error_of_its_agent_by_class_alone(
    nats_url: str, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    agent = Agent("worker", role="executor")

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        raise LookupError("words of the draft")

    async with bus_as(nats_url, namespace, "orchestrator") as orchestrator, running(agent, nats_url, namespace):
        await offer(orchestrator, "c1")
        await eventually(lambda: is_settled(link, namespace, "step-work"))
    invoked = next(span for span in spans.get_finished_spans() if span.name == "invoke_agent worker")
    assert invoked.status.status_code is trace.StatusCode.ERROR
    assert (invoked.attributes or {})["error.type"] == "LookupError"
    assert "words of the draft" not in invoked.to_json()


async def test_an_answer_hangs_from_the_wait_that_it_ends(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    async with (
        bus_as(nats_url, namespace, "orchestrator") as asking,
        bus_as(nats_url, namespace, "desk") as desk,
        running(orchestrator(), nats_url, namespace),
    ):
        await submit(client, "c1")
        question = EscalateRaised(
            reason="low_confidence", question="?", allowed_answers=("approve",), due_at=_DUE, on_timeout="reject"
        )
        seq = await asking.journal.append(Fact(build("escalate.raised", "c1", 1), question))
        reply = Fact(build("escalate.answered", "c1", 1), EscalateAnswered(decision="approve", answered_by="me"))
        await desk.journal.append(reply, fence=Fence(seq, "escalate.*.c1.1"), cause=seq)
        await until(lambda: any(span.name == "process escalate.answered" for span in consumed(spans)))
        raised, answered = await last_of(client, "escalate.raised.>"), await last_of(client, "escalate.answered.>")
    by_name = {span.name: span for span in spans.get_finished_spans()}
    wait = by_name["wait_for_human"]
    assert id_of(wait) == f"{wait_span_id('c1', 1):016x}"
    assert parent_of(wait) == id_of(by_name["publish escalate.raised"])
    assert parent_of(by_name["publish escalate.answered"]) == id_of(wait)
    assert parent_of(by_name["process escalate.answered"]) == id_of(by_name["publish escalate.answered"])
    times = [round(event.time.timestamp() * 1e6) * 1000 for event in (raised, answered)]
    assert [wait.start_time, wait.end_time] == times
    assert (wait.attributes or {})["motet.question.decision"] == "approve"
    assert (wait.attributes or {})["motet.question.reason"] == "low_confidence"


async def test_log_lines_of_a_handler_name_the_event_and_its_span(
    nats_url: str, client: Bus, link: Link, namespace: Namespace, spans: InMemorySpanExporter
) -> None:
    bound: list[dict[str, object]] = []
    agent = Agent("judge", role="verifier")

    @agent.on("step.executed", name="judge")
    async def judge(event: StepExecuted, context: Context) -> None:
        bound.append(structlog.contextvars.get_contextvars())

    done = StepExecuted(status="passed", confidence=1.0, elapsed_ms=1, executor="you", idempotency_key="k")
    await outsider_writes(link, namespace, "step.executed.c1.s1.2", done.to_json())
    async with running(agent, nats_url, namespace):
        await eventually(lambda: is_settled(link, namespace, "judge"))
    span = {"trace_id": trace_id("c1"), "span_id": id_of(one_span(spans))}
    assert bound == [{"conversation": "c1", "step": "s1", "attempt": 2, **span}]
    assert structlog.contextvars.get_contextvars() == {}


def test_a_contexts_broken_parts_are_nothing_and_its_state_is_kept() -> None:
    good = "00-11111111111111111111111111111111-2222222222222222-01"
    assert parse(good) is not None
    assert parse(f"cc{good[2:]}-what-comes-later") is not None
    broken = ("", "rubbish", f"ff{good[2:]}", f"{good}-more", good.replace("1-", "z-"))
    assert [parse(bad) for bad in broken] == [None] * 5
    kept = parse(good, "vendor=1")
    assert kept is not None
    assert to_headers(kept)["tracestate"] == "vendor=1"
