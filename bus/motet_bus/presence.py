"""Who is alive, and who leaves: agents answer a roll call, and an order to drain, with a card. Nothing is stored."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import structlog
from pydantic import AwareDatetime, Field, ValidationError

from motet_bus.answers import Message
from motet_bus.bus import Bus
from motet_bus.consumer import Consumer
from motet_bus.link import Link
from motet_schemas import BusUnavailableError, Contract, Namespace, check_token

log = structlog.get_logger(__name__)

ROLL_CALL: Final = "signal.roll-call"
DRAIN: Final = "signal.drain"
"""An operator tells `signal.drain.<instance>` to take nothing new, finish what it holds, and end."""
DRAINS: Final = f"{DRAIN}.*"


_ANSWER_S: Final = 5.0


class ConsumerCard(Contract):
    """One consumer of an agent, as that agent sees it."""

    name: str = Field(description="The durable consumer.")
    capability: str | None = Field(default=None, description="The capability it serves, if it serves steps.")
    in_flight: int = Field(ge=0, description="Messages this process holds.")


class AgentCard(Contract):
    """One living agent process."""

    role: str = Field(description="What it may say.")
    name: str = Field(description="The agent's name.")
    instance: str = Field(description="This process.")
    pid: int = Field(description="Its process id on its machine.")
    version: str = Field(description="The version of Motet it runs.")
    started_at: AwareDatetime = Field(description="When it started, by its own clock.")
    metrics_url: str | None = Field(default=None, description="Where Prometheus can read its metrics, if it shows any.")
    draining: bool = Field(default=False, description="Whether it takes nothing new and ends when it is done.")
    consumers: tuple[ConsumerCard, ...] = Field(default=(), description="What it listens to.")

    @property
    def in_flight(self) -> int:
        """Messages this process holds."""
        return sum(consumer.in_flight for consumer in self.consumers)


class DrainOrder(Contract):
    """Who wants an agent to leave, and why."""

    by: str = Field(default="", max_length=200, description="Who.")
    reason: str = Field(default="", max_length=2_000, description="Why.")


async def answer_roll_calls(
    bus: Bus,
    consumers: Callable[[], list[tuple[Consumer, str | None]]],
    on_drain: Callable[[DrainOrder], None] | None = None,
) -> AgentCard:
    """Answer every roll call from now on, and the order to drain with `on_drain`; return the card as it is now."""
    started_at = datetime.now(UTC)
    orders: list[DrainOrder] = []

    def card() -> AgentCard:
        return AgentCard(
            role=bus.role,
            name=bus.name,
            instance=bus.instance,
            pid=os.getpid(),
            version=version("motet"),
            started_at=started_at,
            metrics_url=bus.settings.get("metrics_url") or None,
            draining=bool(orders),
            consumers=tuple(
                ConsumerCard(name=consumer.settings.durable, capability=capability, in_flight=consumer.in_flight)
                for consumer, capability in consumers()
            ),
        )

    async def answer(message: Message) -> None:
        if message.reply:
            await bus.link.publish(message.reply, card().to_json())

    async def leave(message: Message) -> None:
        try:
            order = DrainOrder.model_validate_json(message.body or b"{}", extra="ignore")
        except ValidationError as error:
            log.warning("drain.unreadable", problems=error.error_count())
            return
        if not orders and on_drain is not None:
            orders.append(order)
            log.info("agent.draining", instance=bus.instance, by=order.by, reason=order.reason)
            on_drain(order)
        await answer(message)

    await bus.link.subscribe(bus.namespace.wire(ROLL_CALL), answer)
    if on_drain is not None:
        await bus.link.subscribe(bus.namespace.wire(f"{DRAIN}.{bus.instance}"), leave)
    return card()


async def roll_call(link: Link, namespace: Namespace, *, for_s: float = 0.5) -> list[AgentCard]:
    """Return the cards of all agents that answer within `for_s` seconds, by role, then instance."""
    replies = await link.scatter(namespace.wire(ROLL_CALL), b"", for_s=for_s)
    cards = [card for reply in replies if (card := _read(reply.body)) is not None]
    return sorted(cards, key=lambda card: (card.role, card.instance))


async def ask_to_drain(link: Link, namespace: Namespace, instance: str, order: DrainOrder) -> AgentCard:
    """Tell one agent to drain; return its card. Asking again changes nothing.

    Raises `BusUnavailableError` when it does not answer: it is gone, or too old to know how.
    """
    subject = namespace.wire(f"{DRAIN}.{check_token(instance, 'instance')}")
    reply = await link.request(subject, order.to_json(), timeout_s=_ANSWER_S)
    card = None if reply.status else _read(reply.body)
    if card is None:
        raise BusUnavailableError(
            f"{instance} does not answer the order to drain: it is gone (`motet agents`), or runs a version that does "
            "not know it; then end it with SIGTERM"
        )
    return card


def _read(body: bytes) -> AgentCard | None:
    try:
        return AgentCard.model_validate_json(body, extra="ignore")
    except ValidationError as error:
        log.warning("roll_call.unreadable", problems=error.error_count())
        return None
