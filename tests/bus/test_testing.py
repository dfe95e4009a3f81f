"""What authors of agents get: a real, private server, and one step through the real machinery."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from motet_bus import Agent, ConnectOptions, Outcome, Step
from motet_bus.connect import connect
from motet_bus.testing import private_server, run_step
from motet_schemas import BusUnavailableError, InvalidInputError, Manifest, MotetError

agent = Agent("links")


@agent.step("check-links", concurrency=2)
async def check_links(step: Step) -> Outcome:
    broken = [link for link in str(step.manifest.inputs["draft"]).split() if "broken" in link]
    if step.manifest.inputs.get("wait"):
        await asyncio.sleep(60)
    return Outcome.failed(notes="see there", evidence=broken) if broken else Outcome.passed(confidence=0.99)


async def test_one_step_runs_on_a_private_server_and_leaves_nothing() -> None:
    record = await run_step(agent, inputs={"draft": "http://a http://broken"})
    assert record.status == "failed"
    assert [item.content for item in record.evidence] == ["http://broken"]
    assert record.executor.startswith("links-")


async def test_a_private_server_can_be_shared_by_several_steps(tmp_path: Path) -> None:
    async with private_server(tmp_path) as server:
        first = await run_step(agent, "check-links", inputs={"draft": "http://a"}, url=server.url)
        manifest = Manifest(objective="x", inputs={"draft": "http://broken"})
        second = await run_step(agent, manifest=manifest, url=server.url)
        assert (first.status, second.status) == ("passed", "failed")
        assert server.url.startswith("nats://")
        url = server.url
    assert await asyncio.to_thread(lambda: any(tmp_path.iterdir()))
    with pytest.raises(MotetError):
        await connect(ConnectOptions(url=url, connect_timeout_s=0.5))


async def test_a_capability_that_the_agent_does_not_serve_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="check-links"):
        await run_step(agent, "tone", url="nats://127.0.0.1:9")


async def test_an_agent_with_several_capabilities_must_be_told_which() -> None:
    both = Agent("both")
    both.step("one")(check_links)
    both.step("two")(check_links)
    with pytest.raises(InvalidInputError, match="one, two"):
        await run_step(both, url="nats://127.0.0.1:9")


async def test_a_step_that_takes_too_long_is_an_error_and_the_agent_is_gone(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motet_bus.consumer.GRACE_S", 0.1)
    with pytest.raises(BusUnavailableError, match="nothing was recorded within"):
        await run_step(agent, inputs={"draft": "x", "wait": True}, url=nats_url, timeout_s=1.0)


async def test_an_agent_that_cannot_connect_says_why() -> None:
    with pytest.raises(BusUnavailableError):
        await run_step(agent, inputs={"draft": "x"}, url="nats://127.0.0.1:9", timeout_s=8)
