"""`motet agent` and `motet agents`: run an agent of one's own; see who is alive, with lag."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from motet_gateway import exits
from motet_gateway.invocation import Invocation, MetricsPort, Playbooks, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motet_bus import AgentCard
    from motet_bus.pausing import Pause
    from motet_bus.presence import DrainOrder
    from motet_gateway.config import Settings
    from motet_gateway.consumers import ConsumerState

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
    metrics_port: MetricsPort = None,
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
    documents, pauses = run_until_done(lambda: _agents(settings))
    if invocation.json:
        print_json(documents)
    else:
        from motet_gateway.operating import pause_line
        from motet_gateway.render import agents_table

        print_result(agents_table(documents))
        for pause in pauses:
            print_result(pause_line(pause))
    return exits.COMPLETED


async def _agent(settings: Settings, target: str, *, as_json: bool) -> None:
    from motet_gateway.agent_process import load_agent, print_draining, print_ready, serve
    from motet_gateway.places import running_place
    from motet_gateway.terminal import note

    def tell(card: AgentCard) -> None:
        served = [consumer.capability or consumer.name for consumer in card.consumers]
        shown = f", metrics at {card.metrics_url}" if card.metrics_url else ""
        note(f"ready: {card.name} ({card.instance}) serves {', '.join(served)}{shown}; Ctrl-C stops it")

    def tell_drain(order: DrainOrder) -> None:
        note(f"draining: {order.by or 'an operator'} wants it to end{f' ({order.reason})' if order.reason else ''}")

    load_agent(target)
    ready, draining = (print_ready, print_draining) if as_json else (tell, tell_drain)
    async with running_place(settings, wanted_for="an agent") as place:
        await serve(target, settings, place.url, on_ready=ready, on_drain=draining)


async def _agents(settings: Settings) -> tuple[list[dict[str, Any]], list[Pause]]:
    from motet_gateway.consumers import consumer_states
    from motet_gateway.places import running_place
    from motet_gateway.session import connected

    async with running_place(settings, wanted_for="`motet agents`") as place, connected(settings, place) as client:
        cards = await client.roll_call()
        states = {state.name: state for state in await consumer_states(client.link, client.namespace)}
    return [agent_document(card, states) for card in cards], [one.pause for one in states.values() if one.pause]


def agent_document(card: AgentCard, states: Mapping[str, ConsumerState]) -> dict[str, Any]:
    """Return one agent as `motet agents --json` shows it; `states` is what the server says of each consumer."""
    from motet_gateway.operating import pause_document

    def seen(name: str) -> dict[str, Any]:
        state = states.get(name)
        return {
            "pending": state.pending if state else None,
            "paused": pause_document(state.pause) if state and state.pause else None,
        }

    return {
        "role": card.role,
        "pid": card.pid,
        "instance": card.instance,
        "name": card.name,
        "version": card.version,
        "started_at": card.started_at.isoformat(),
        "metrics_url": card.metrics_url,
        "draining": card.draining,
        "consumers": [
            {
                "name": consumer.name,
                "capability": consumer.capability,
                **seen(consumer.name),
                "in_flight": consumer.in_flight,
            }
            for consumer in card.consumers
        ],
    }
