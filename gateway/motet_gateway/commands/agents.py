"""`motet agent` and `motet agents`: run an agent of one's own; see who is alive, with lag."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from motet_gateway import exits
from motet_gateway.invocation import Invocation, Playbooks, command

if TYPE_CHECKING:
    from motet_bus import AgentCard
    from motet_gateway.config import Settings

PANEL: Final = "Agents"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "agent", panel=PANEL)(agent)
    command(app, "agents", panel=PANEL)(agents)


def agent(
    invocation: Invocation,
    target: Annotated[
        str, typer.Argument(metavar="MODULE:OBJECT", help="The agent, for example my_package.links:agent.")
    ],
    playbooks: Playbooks = None,
) -> int:
    """Run one agent on a running bus until Ctrl-C; what it works on is finished or handed back."""
    settings = invocation.settings
    asyncio.run(_agent(settings, target, as_json=invocation.json))
    return exits.COMPLETED


def agents(invocation: Invocation) -> int:
    """List the agents that answer, what they listen to, and how much waits for them."""
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    documents = run_until_done(lambda: _agents(settings))
    if invocation.json:
        print_json(documents)
    else:
        from motet_gateway.render import agents_table

        print_result(agents_table(documents))
    return exits.COMPLETED


async def _agent(settings: Settings, target: str, *, as_json: bool) -> None:
    from motet_gateway.agent_process import load_agent, print_ready, serve
    from motet_gateway.places import running_place
    from motet_gateway.terminal import note

    def tell(card: AgentCard) -> None:
        served = [consumer.capability or consumer.name for consumer in card.consumers]
        note(f"ready: {card.name} ({card.instance}) serves {', '.join(served)}; Ctrl-C stops it")

    load_agent(target)
    async with running_place(settings, wanted_for="an agent") as place:
        await serve(target, settings, place.url, on_ready=print_ready if as_json else tell)


async def _agents(settings: Settings) -> list[dict[str, Any]]:
    from motet_gateway.consumers import consumer_states
    from motet_gateway.places import running_place
    from motet_gateway.session import connected

    async with running_place(settings, wanted_for="`motet agents`") as place, connected(settings, place) as client:
        cards = await client.roll_call()
        pending = {state.name: state.pending for state in await consumer_states(client.link, client.namespace)}
    return [agent_document(card, pending) for card in cards]


def agent_document(card: AgentCard, pending: dict[str, int]) -> dict[str, Any]:
    """Return one agent as `motet agents --json` shows it; `pending` is the lag of each consumer."""
    return {
        "role": card.role,
        "pid": card.pid,
        "instance": card.instance,
        "name": card.name,
        "version": card.version,
        "started_at": card.started_at.isoformat(),
        "consumers": [
            {
                "name": consumer.name,
                "capability": consumer.capability,
                "pending": pending.get(consumer.name),
                "in_flight": consumer.in_flight,
            }
            for consumer in card.consumers
        ],
    }
