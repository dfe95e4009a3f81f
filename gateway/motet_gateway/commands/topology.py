"""`motet topology`: the streams and consumers that agents without that right find ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from motet_gateway import exits
from motet_gateway.invocation import Invocation, command

if TYPE_CHECKING:
    from motet_bus import Agent
    from motet_gateway.config import Settings

PANEL: Final = "Tools"
_BUILT_IN: Final = tuple(f"motet_agents.{name}:agent" for name in ("orchestrator", "planner", "executor", "verifier"))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "topology", panel=PANEL)(topology)


def topology(
    invocation: Invocation,
    agent: Annotated[
        list[str] | None, typer.Option(help="An agent of yours; several may be given.", metavar="MODULE:OBJECT")
    ] = None,
    specialist: Annotated[
        list[str] | None,
        typer.Option(help="A specialist by name and capabilities; several.", metavar="NAME:CAPABILITY[,CAPABILITY]"),
    ] = None,
) -> int:
    """Make the streams, and the consumers of the built-in agents and of yours, where they are missing.

    Whatever exists is compared, never altered. On a secured bus this takes an operator's credentials.
    """
    from motet_gateway.agent_process import load_agent
    from motet_gateway.credentials import named_specialist
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    agents = [load_agent(target) for target in (*_BUILT_IN, *(agent or []))]
    capabilities = [capability for text in specialist or [] for capability in named_specialist(text)[1]]
    made = run_until_done(lambda: _apply(settings, agents, capabilities))
    if invocation.json:
        print_json(made)
    else:
        print_result(f"streams and consumers are as they must be: {', '.join(made['consumers'])}")
    return exits.COMPLETED


async def _apply(settings: Settings, agents: list[Agent], capabilities: list[str]) -> dict[str, Any]:
    from motet_bus import RunOptions, open_bus
    from motet_bus.agent import step_consumer
    from motet_bus.consumer import ConsumerSettings
    from motet_bus.topology import ensure_consumer
    from motet_gateway.places import running_place
    from motet_schemas.subjects import capability_filter

    async with running_place(settings, wanted_for="`motet topology`") as place:
        options = settings.connect_options(place.url, "motet-topology")
        async with open_bus(options, role="operator", name="topology", namespace=settings.namespace) as bus:
            run = RunOptions(ack_wait_s=settings.ack_wait_s)
            wanted = [
                registration.consumer(bus, run).settings for agent in agents for registration in agent.registrations
            ]
            wanted += [
                ConsumerSettings(
                    durable=step_consumer(capability),
                    filters=(capability_filter(capability),),
                    ack_wait_s=run.ack_wait_s,
                )
                for capability in capabilities
            ]
            for settings_of_one in wanted:
                await ensure_consumer(bus.link, settings_of_one.spec(bus))
    return {"consumers": [one.durable for one in wanted]}
