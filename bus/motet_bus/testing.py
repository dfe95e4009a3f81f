"""For authors of agents: a real, private nats-server, and one step run through the real machinery.

Nothing here is a mock: the step is handed over on the bus, claimed, run and recorded as in production.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from motet_bus.agent import Agent, RunOptions
from motet_bus.bus import open_bus
from motet_bus.connect import ConnectOptions
from motet_bus.embedded import EmbeddedServer, start_embedded
from motet_bus.runtime import run_agent
from motet_schemas import (
    BusUnavailableError,
    Fact,
    InvalidInputError,
    Json,
    Manifest,
    PlanStep,
    Remaining,
    StepExecuted,
    StepReady,
    new_id,
)
from motet_schemas.subjects import build

_LOOKS_PER_S: Final = 50


@asynccontextmanager
async def private_server(store: Path | None = None) -> AsyncGenerator[EmbeddedServer]:
    """Start a nats-server of one's own on a free loopback port; it is gone at the end, and so is its store.

    With `store` the folder is the caller's, and stays.
    """
    if store is not None:
        async with await start_embedded(store) as server:
            yield server
        return
    with tempfile.TemporaryDirectory(prefix="motet-") as folder:
        async with await start_embedded(Path(folder)) as server:
            yield server


async def run_step(
    agent: Agent,
    capability: str | None = None,
    *,
    inputs: Mapping[str, Json] | None = None,
    manifest: Manifest | None = None,
    time_budget_s: int = 10,
    url: str | None = None,
    timeout_s: float = 30.0,
) -> StepExecuted:
    """Hand one step to `agent` on a real bus and return what it recorded.

    `capability` may be left out when the agent serves only one. `inputs` go into the manifest, unless a whole
    `manifest` is given. Without `url` a private server is started. Raises `InvalidInputError` when the agent does not
    serve the capability, `BusUnavailableError` when nothing was recorded within `timeout_s` seconds.
    """
    served = [one.capability for one in agent.registrations if one.capability is not None]
    chosen = capability or (served[0] if len(served) == 1 else None)
    if chosen is None or chosen not in served:
        raise InvalidInputError(
            f"capability: say which of {', '.join(served) or 'none'} to run", field="capability", value=capability
        )
    step = PlanStep(
        id="step",
        capability=chosen,
        goal="a test",
        time_budget_s=time_budget_s,
        manifest=manifest or Manifest(objective="a test", inputs=dict(inputs or {})),
    )
    if url is not None:
        return await _run(agent, step, url, timeout_s)
    async with private_server() as server:
        return await _run(agent, step, server.url, timeout_s)


async def _run(agent: Agent, step: PlanStep, url: str, timeout_s: float) -> StepExecuted:
    conversation = new_id("test")
    options = ConnectOptions(url=url)
    stop = asyncio.Event()
    running = asyncio.create_task(run_agent(agent, options, stop=stop, run=RunOptions()))
    try:
        async with asyncio.timeout(timeout_s), open_bus(options, role="orchestrator", name="test") as bus:
            ready = StepReady(
                step=step,
                plan_revision=1,
                remaining=Remaining(attempts=0, tokens=1_000, time_s=float(step.time_budget_s)),
                idempotency_key=f"{conversation}/{step.id}/1",
            )
            subject = build("step.ready", conversation, step.id, 1, step.capability)
            await bus.journal.append(Fact(subject, ready))
            outcome = build("step.executed", conversation, step.id, 1)
            while True:
                if running.done():
                    running.result()
                    raise BusUnavailableError(f"agent {agent.name} ended before it recorded anything")
                recorded = await bus.journal.read_last(outcome)
                if recorded is not None and isinstance(recorded.data, StepExecuted):
                    return recorded.data
                await asyncio.sleep(1 / _LOOKS_PER_S)
    except TimeoutError:
        raise BusUnavailableError(f"{step.capability}: nothing was recorded within {timeout_s:g} s") from None
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
