"""A desk that answers by itself, as a process: `python -m motet_gateway.chaos.desk_process`. For chaos runs.

It answers with what the conversation's id says, mostly at once, sometimes when time is running out, sometimes never.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from motet_agents.desk import answer
from motet_bus import AgentCard, Bus, Client, ConnectOptions, open_bus
from motet_bus.consumer import Consumer, ConsumerSettings
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.delivery import Delivery
from motet_bus.parent_watch import watch_parent
from motet_bus.presence import answer_roll_calls
from motet_gateway.chaos.chance import chance
from motet_schemas import ConflictError, EscalateRaised, Event, HumanAnswer, InvalidInputError
from motet_schemas.subjects import kind_filter

DURABLE: Final = "chaos-desk"
_SILENT: Final = 0.04
_LAST_MOMENT: Final = 0.15
_CLOSE: Final = timedelta(milliseconds=60)
_MOST_ASKED: Final = 4


class Desk:
    """Answers every question that is raised."""

    def __init__(self, bus: Bus, *, crash: CrashPoint = no_crash) -> None:
        self._bus = bus
        self._client = Client(bus)
        self._crash = crash

    async def handle(self, event: Event, delivery: Delivery) -> None:
        """Answer one question, unless it was answered, has timed out, or shall not be answered."""
        if not isinstance(event.data, EscalateRaised):
            return
        conversation, number = event.subject.conversation, event.subject.number
        mood = chance("mood", conversation, number)
        if mood < _SILENT:
            return
        if mood < _LAST_MOMENT:
            await self._wait_for_the_last_moment(event.data, chance("moment", conversation, number))
        try:
            await answer(self._client, conversation, number, _answer_to(event.data, conversation, number))
        except (ConflictError, InvalidInputError):
            return  # somebody else, or silence, was first
        self._crash("after the handler")

    async def _wait_for_the_last_moment(self, raised: EscalateRaised, luck: float) -> None:
        left = raised.due_at - await self._bus.journal.server_time() + (2 * luck - 1) * _CLOSE
        await asyncio.sleep(max(0.0, left.total_seconds()))


def _answer_to(raised: EscalateRaised, conversation: str, number: int) -> HumanAnswer:
    allowed = raised.allowed_answers
    decision = allowed[int(chance("decision", conversation, number) * len(allowed))]
    if number > _MOST_ASKED:
        decision = "reject"
    return HumanAnswer(
        decision=decision,
        instructions="have another look" if decision == "revise" else None,
        result={"run": "by hand"} if decision == "take_over" else None,
        answered_by="chaos-desk",
    )


async def serve(
    options: ConnectOptions,
    *,
    namespace: str,
    ack_wait_s: float,
    stop: asyncio.Event,
    on_ready: Callable[[AgentCard], None],
    crash: CrashPoint = no_crash,
) -> None:
    """Answer questions until `stop` is set."""
    async with open_bus(options, role="desk", name="chaos-desk", namespace=namespace, crash=crash) as bus:
        settings = ConsumerSettings(
            durable=DURABLE,
            filters=(kind_filter("escalate.raised"),),
            concurrency=64,
            batch=64,
            ack_wait_s=ack_wait_s,
        )
        consumer = Consumer(bus, settings, Desk(bus, crash=crash), crash=crash)
        card = await answer_roll_calls(bus, lambda: [(consumer, None)])
        running = asyncio.create_task(consumer.run(stop))
        listening = asyncio.create_task(consumer.started.wait())
        try:
            await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                on_ready(card)
            await running
        finally:
            listening.cancel()


async def _serve_until_signalled() -> None:
    from motet_gateway.agent_process import print_ready
    from motet_gateway.config import settings_from
    from motet_observability import set_up_logs

    settings = settings_from(os.environ)
    set_up_logs(settings.log_level, settings.log_format)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def parent_is_gone() -> None:
        loop.call_soon_threadsafe(stop.set)

    watch_parent(parent_is_gone)
    options = settings.connect_options(settings.nats_url or "", "chaos-desk")
    await serve(options, namespace=settings.namespace, ack_wait_s=settings.ack_wait_s, stop=stop, on_ready=print_ready)


def main() -> int:
    """Run until SIGTERM; the exit status."""
    asyncio.run(_serve_until_signalled())
    return 0


if __name__ == "__main__":
    sys.exit(main())
