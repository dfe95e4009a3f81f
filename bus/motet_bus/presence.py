"""Who is alive: agents answer a roll call with a card. Nothing is stored."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

import structlog
from pydantic import AwareDatetime, Field, ValidationError

from motet_bus.answers import Message
from motet_bus.bus import Bus
from motet_bus.consumer import Consumer
from motet_bus.link import Link
from motet_schemas import Contract, Namespace

log = structlog.get_logger(__name__)

_SUBJECT = "signal.roll-call"


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
    consumers: tuple[ConsumerCard, ...] = Field(default=(), description="What it listens to.")


async def answer_roll_calls(bus: Bus, consumers: Callable[[], list[tuple[Consumer, str | None]]]) -> AgentCard:
    """Answer every roll call from now on; return the card as it is now."""
    started_at = datetime.now(UTC)

    def card() -> AgentCard:
        return AgentCard(
            role=bus.role,
            name=bus.name,
            instance=bus.instance,
            pid=os.getpid(),
            version=version("motet"),
            started_at=started_at,
            consumers=tuple(
                ConsumerCard(name=consumer.settings.durable, capability=capability, in_flight=consumer.in_flight)
                for consumer, capability in consumers()
            ),
        )

    async def answer(message: Message) -> None:
        if message.reply:
            await bus.link.publish(message.reply, card().to_json())

    await bus.link.subscribe(bus.namespace.wire(_SUBJECT), answer)
    return card()


async def roll_call(link: Link, namespace: Namespace, *, for_s: float = 0.5) -> list[AgentCard]:
    """Return the cards of all agents that answer within `for_s` seconds, by role, then instance."""
    replies = await link.scatter(namespace.wire(_SUBJECT), b"", for_s=for_s)
    cards = [card for reply in replies if (card := _read(reply.body)) is not None]
    return sorted(cards, key=lambda card: (card.role, card.instance))


def _read(body: bytes) -> AgentCard | None:
    try:
        return AgentCard.model_validate_json(body, extra="ignore")
    except ValidationError as error:
        log.warning("roll_call.unreadable", problems=error.error_count())
        return None
