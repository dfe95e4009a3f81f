"""The verifier on a real bus: another identity than the executor's, one verdict for each record."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from motet_agents.verifier import agent as verifier
from motet_bus import Bus
from motet_bus.link import Link
from motet_schemas import (
    CheckGate,
    Gate,
    Json,
    Manifest,
    Namespace,
    SchemaGate,
    StepExecuted,
    VerifyFailed,
    VerifyPassed,
)
from tests.bus.support import (
    bus_as,
    dead_letters,
    eventually,
    is_settled,
    kinds,
    last_of,
    offer,
    outsider_writes,
    plan_step,
    running,
)


@pytest.fixture
async def orchestrator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "orchestrator") as bus:
        yield bus


async def offer_with(bus: Bus, *gates: Gate, **inputs: Json) -> None:
    manifest = Manifest(objective="x", verification=gates, inputs=inputs)
    await offer(bus, "c1", plan_step(manifest=manifest))


async def executed(link: Link, namespace: Namespace, executor: str = "worker-1", **changes: object) -> int:
    record = StepExecuted(status="passed", confidence=0.9, elapsed_ms=1, executor=executor, idempotency_key="k")
    return await outsider_writes(link, namespace, "step.executed.c1.s1.1", record.evolve(**changes).to_json())


async def test_a_record_that_keeps_its_contract_passes_gate_by_gate(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    await offer_with(orchestrator, SchemaGate(output_schema={"type": "object"}))
    cause = await executed(link, namespace, output={})
    async with running(verifier, nats_url, namespace) as here:
        verdict = await eventually(lambda: orchestrator.journal.read_last("verify.*.c1.s1.1"))
    assert isinstance(verdict.data, VerifyPassed)
    assert [(gate.name, gate.passed) for gate in verdict.data.gates] == [("record", True), ("schema", True)]
    assert verdict.data.verifier == here.card.instance
    assert verdict.data.rollback_note == "nothing to undo"
    assert verdict.cause == cause
    assert verdict.source == f"/agents/verifier/{here.card.instance}"


async def test_a_record_that_breaks_its_contract_fails_and_says_how_to_undo_it(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    await offer_with(orchestrator, SchemaGate(output_schema={"type": "object"}))
    await executed(link, namespace, output="text", files_changed=("a.py",))
    async with running(verifier, nats_url, namespace):
        verdict = await eventually(lambda: orchestrator.journal.read_last("verify.*.c1.s1.1"))
    assert isinstance(verdict.data, VerifyFailed)
    assert [gate.name for gate in verdict.data.gates if not gate.passed] == ["schema"]
    assert "a.py" in verdict.data.rollback_note


async def test_a_draft_by_reference_is_fetched_for_the_gates(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    reference = await orchestrator.objects.put(b"A draft.", "text/markdown")
    manifest = Manifest(objective="x", verification=(CheckGate(check="qa.quotes"),), references={"draft": reference})
    await offer(orchestrator, "c1", plan_step(manifest=manifest))
    quote = {"step": "s1", "rule": "a.b", "severity": "error", "message": "m", "quote": "draft", "start": 2, "end": 7}
    await executed(link, namespace, output={}, findings=(quote,))
    async with running(verifier, nats_url, namespace):
        verdict = await eventually(lambda: orchestrator.journal.read_last("verify.*.c1.s1.1"))
    assert isinstance(verdict.data, VerifyPassed), verdict.data


@pytest.mark.parametrize("status", ["failed", "blocked"])
async def test_what_does_not_claim_to_have_passed_is_not_verified(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus, status: str
) -> None:
    await offer_with(orchestrator)
    await executed(link, namespace, status=status)
    async with running(verifier, nats_url, namespace):
        await eventually(lambda: orchestrator.journal.read_last("handled.verifier.c1.*"))
    assert await kinds(orchestrator, "c1") == ["step.ready", "step.executed", "handled"]


async def test_nobody_verifies_their_own_work_and_another_verifier_does(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    await offer_with(orchestrator)
    async with running(verifier, nats_url, namespace) as one:
        await executed(link, namespace, executor=one.card.instance)

        async def tried() -> bool:
            info = await link.api(f"CONSUMER.INFO.{namespace.stream('CONVERSATIONS')}.verifier", {})
            return bool(info["num_redelivered"])

        await eventually(tried)
        assert await orchestrator.journal.read_last("verify.*.c1.s1.1") is None
        async with running(verifier, nats_url, namespace) as two:
            verdict = await eventually(lambda: orchestrator.journal.read_last("verify.*.c1.s1.1"))
            assert verdict.source.endswith(two.card.instance)


async def test_work_that_nobody_handed_out_goes_to_the_dead_letters(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    await executed(link, namespace)
    async with running(verifier, nats_url, namespace):
        await eventually(lambda: orchestrator.journal.read_last("letter.dead.c1.>"))
    [letter] = await dead_letters(link, namespace)
    assert "nobody handed this step out" in letter.failure.message
    assert await orchestrator.journal.read_last("verify.*.c1.s1.1") is None


async def test_rubbish_beside_the_handoff_does_not_keep_a_record_from_being_verified(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    await offer_with(orchestrator)
    await outsider_writes(link, namespace, "step.ready.c1.s1.1.other")
    await outsider_writes(link, namespace, "verify.nonsense.c1.s1.1")
    await executed(link, namespace)
    async with running(verifier, nats_url, namespace):
        await eventually(lambda: orchestrator.journal.read_last("verify.passed.c1.s1.1"))


async def test_two_verifiers_record_one_verdict(
    nats_url: str, namespace: Namespace, link: Link, orchestrator: Bus
) -> None:
    await offer_with(orchestrator)
    async with running(verifier, nats_url, namespace), running(verifier, nats_url, namespace):
        await executed(link, namespace)
        await eventually(lambda: orchestrator.journal.read_last("verify.*.c1.s1.1"))
        await eventually(lambda: is_settled(link, namespace, "verifier"))
    assert (await last_of(orchestrator, "verify.*.c1.s1.1")).kind == "verify.passed"
    assert len(await orchestrator.journal.read_kind("verify.>")) == 1
