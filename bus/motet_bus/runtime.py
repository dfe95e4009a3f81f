"""Runs one agent in this process: connects, serves its handlers, drains, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from motet_bus.agent import Agent, RunOptions
from motet_bus.asking import answer_questions
from motet_bus.bus import open_bus
from motet_bus.connect import ConnectOptions
from motet_bus.consumer import Consumer
from motet_bus.gauges import gauges
from motet_bus.presence import AgentCard, DrainOrder, answer_roll_calls
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
    on_drain: Callable[[DrainOrder], None] | None = None,
) -> None:
    """Serve until `stop` is set, then drain within 10 s. `on_ready` is called once, when everything is subscribed.

    An operator's order to drain is told to `on_drain`; then everything that runs is finished, however long it takes.
    `settings` reach the handlers as `context.settings`; `run` changes how consumers work, for tests.

    Raises `InvalidInputError` for an agent without handlers, and what `open_bus` raises; a consumer that cannot go on
    ends the agent with its error.
    """
    if not agent.registrations:
        raise InvalidInputError(f"agent {agent.name}: has no handlers; register one with @agent.step or @agent.on")
    durables = {registration.durable: registration.capability for registration in agent.registrations}
    run = run or RunOptions()
    opened = open_bus(
        options, role=agent.role, name=agent.name, namespace=namespace, settings=settings, crash=run.crash
    )
    async with opened as bus, gauges(bus, durables):
        consumers: list[tuple[Consumer, str | None]] = [
            (registration.consumer(bus, run), registration.capability) for registration in agent.registrations
        ]
        leaving = asyncio.Event()

        def leave(order: DrainOrder) -> None:
            leaving.set()
            if on_drain is not None:
                on_drain(order)

        card = await answer_roll_calls(bus, lambda: consumers, leave)
        if agent.document is not None:
            await answer_questions(bus, agent.document)

        def started() -> None:
            log.info("agent.started", agent=agent.name, role=agent.role, instance=bus.instance)
            if on_ready is not None:
                on_ready(card)

        results = await _serve([consumer for consumer, _ in consumers], stop, leaving, started)
        log.info("agent.stopped", agent=agent.name, instance=bus.instance)
        for result in results:
            if result is not None:
                raise result


async def _serve(
    consumers: list[Consumer], stop: asyncio.Event, leaving: asyncio.Event, on_started: Callable[[], None]
) -> list[BaseException | None]:
    """Run the consumers until `stop` is set, one ends, or all are done with what they held; return how each ended."""
    ending = asyncio.Event()
    tasks = [asyncio.create_task(consumer.run(ending, leaving)) for consumer in consumers]
    stopping, listening = (asyncio.ensure_future(one) for one in (stop.wait(), _all_started(consumers)))
    try:
        await asyncio.wait({*tasks, stopping, listening}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            on_started()
        await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        while leaving.is_set() and not stopping.done() and (unfinished := {one for one in tasks if not one.done()}):
            await asyncio.wait({*unfinished, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        listening.cancel()
        ending.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(stopping, listening, return_exceptions=True)
    return results


async def _all_started(consumers: list[Consumer]) -> None:
    for consumer in consumers:
        await consumer.started.wait()
