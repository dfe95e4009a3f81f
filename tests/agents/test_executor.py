"""The executor's capabilities through the real machinery: one step each, on a real bus."""

from __future__ import annotations

import pytest

from motet_agents.executor import agent as executor
from motet_bus.link import Link
from motet_schemas import Json, Manifest, Namespace, StepExecuted
from tests.bus.support import bus_as, dead_letters, eventually, executed, offer, plan_step, running

DRAFT = "# Tea\n\nA revolutionary tea, and it is risk-free. See [below](#terms).\n\n## Terms\n\nTerms apply.\n"


async def run(nats_url: str, namespace: Namespace, capability: str, **inputs: Json) -> StepExecuted:
    manifest = Manifest(objective="x", inputs=inputs)
    async with bus_as(nats_url, namespace, "orchestrator") as orchestrator:
        await offer(orchestrator, "c1", plan_step(step=capability, capability=capability, manifest=manifest))
        async with running(executor, nats_url, namespace):
            return await eventually(lambda: executed(orchestrator, "c1", capability))


@pytest.mark.parametrize(
    ("capability", "rules", "expected"),
    [
        ("tone", {"banned": ["revolutionary"]}, {"revolutionary"}),
        ("compliance", {"required": ["Terms apply"], "forbidden": ["risk-free"]}, {"risk-free"}),
        ("links", {}, set[str]()),
    ],
)
async def test_each_capability_finds_what_it_is_for_and_shows_where(
    nats_url: str, namespace: Namespace, capability: str, rules: Json, expected: set[str]
) -> None:
    record = await run(nats_url, namespace, capability, draft=DRAFT, rules=rules)
    assert record.status == "passed"
    assert record.model == "rule-based"
    assert (record.tokens_in, record.tokens_out, record.cost_usd) == (0, 0, 0.0)
    assert record.confidence is not None
    errors = [finding for finding in record.findings if finding.severity == "error"]
    assert {finding.quote for finding in errors} == expected
    for finding in record.findings:
        assert finding.step == capability
        assert finding.quote is None or DRAFT[finding.start : finding.end] == finding.quote
    assert {item.content for item in record.evidence} >= expected
    assert isinstance(record.output, dict)


@pytest.mark.parametrize("capability", ["tone", "compliance", "links"])
@pytest.mark.parametrize(
    ("inputs", "words"),
    [({}, "no draft"), ({"draft": 3}, "no draft"), ({"draft": "x", "rules": {"nonsense": 1}}, "rules do not parse")],
)
async def test_a_step_that_brings_no_draft_or_no_valid_rules_is_not_tried_again(
    nats_url: str, namespace: Namespace, link: Link, capability: str, inputs: dict[str, Json], words: str
) -> None:
    record = await run(nats_url, namespace, capability, **inputs)
    assert record.status == "failed"
    assert record.failure is not None
    assert not record.failure.retryable
    assert words in record.failure.message
    assert len(await dead_letters(link, namespace)) == 1
