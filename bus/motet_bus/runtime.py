"""Runs one agent in this process: connects, serves its handlers, drains, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from motet_bus.agent import Agent, RunOptions
from motet_bus.bus import open_bus
from motet_bus.connect import ConnectOptions
from motet_bus.consumer import Consumer
from motet_bus.presence import AgentCard, answer_roll_calls
from motet_schemas import InvalidInputError

log = structlog.get_logger(__name__)


async def run_agent(
    agent: Agent,
    options: ConnectOptions,
    *,
    stop: asyncio.Event,
    namespace: str = "",
    settings: Mapping[str, str] | None = None,
    run: RunOptions | None = None,
    on_ready: Callable[[AgentCard], None] | None = None,
) -> None:
    """Serve until `stop` is set, then drain within 10 s. `on_ready` is called once, when everything is subscribed.

    `settings` reach the handlers as `context.settings`; `run` changes how consumers work, for tests.

    Raises `InvalidInputError` for an agent without handlers, and what `open_bus` raises; a consumer that cannot go on
    ends the agent with its error.
    """
    if not agent.registrations:
        raise InvalidInputError(f"agent {agent.name}: has no handlers; register one with @agent.step or @agent.on")
    async with open_bus(options, role=agent.role, name=agent.name, namespace=namespace, settings=settings) as bus:
        consumers: list[tuple[Consumer, str | None]] = [
            (registration.consumer(bus, run or RunOptions()), registration.capability)
            for registration in agent.registrations
        ]
        card = await answer_roll_calls(bus, lambda: consumers)
        ending = asyncio.Event()
        tasks = [asyncio.create_task(consumer.run(ending)) for consumer, _ in consumers]
        stopping, listening = (
            asyncio.ensure_future(one) for one in (stop.wait(), _all_started([consumer for consumer, _ in consumers]))
        )
        ends = {*tasks, stopping}
        try:
            await asyncio.wait({*ends, listening}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                log.info("agent.started", agent=agent.name, role=agent.role, instance=bus.instance)
                if on_ready is not None:
                    on_ready(card)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            listening.cancel()
            ending.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(stopping, listening, return_exceptions=True)
        log.info("agent.stopped", agent=agent.name, instance=bus.instance)
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def _all_started(consumers: list[Consumer]) -> None:
    for consumer in consumers:
        await consumer.started.wait()
