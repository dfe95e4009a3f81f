"""All commands of `motet`, by group."""

from __future__ import annotations

import typer

from motet_gateway.commands import (
    agents,
    archive,
    auth,
    chaos,
    conversations,
    dead,
    desk,
    operate,
    run,
    tools,
    topology,
)


def build_app() -> typer.Typer:
    """Return the application with every command registered."""
    app = typer.Typer(
        name="motet",
        help="A message bus for agents on NATS JetStream: typed handoffs, every fact recorded once.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for group in (run, conversations, archive, desk, agents, dead, operate, tools, chaos, topology, auth):
        group.register(app)
    return app
