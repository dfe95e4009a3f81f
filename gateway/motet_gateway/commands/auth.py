"""`motet auth init` and `motet auth rotate`: a nats-server configuration with the least rights that work."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from motet_gateway import exits
from motet_gateway.invocation import Invocation, command

if TYPE_CHECKING:
    from motet_bus.permissions import Principal

PANEL: Final = "Tools"
BUILT_IN: Final = ("orchestrator", "planner", "executor", "verifier")

Directory = Annotated[Path, typer.Argument(help="Where everything is kept, keys included.", metavar="DIR")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Make and renew the credentials of a secured bus.", no_args_is_help=True)
    command(group, "init", panel=PANEL)(init)
    command(group, "rotate", panel=PANEL)(rotate)
    app.add_typer(group, name="auth", rich_help_panel=PANEL)


def init(
    invocation: Invocation,
    directory: Directory,
    host: Annotated[
        list[str] | None, typer.Option(help="A name or address that the server is reached by; several may be given.")
    ] = None,
    port: Annotated[int, typer.Option(help="The port that the server listens on.", min=1, max=65_535)] = 4222,
    agent: Annotated[
        list[str] | None, typer.Option(help="An agent of yours; several may be given.", metavar="MODULE:OBJECT")
    ] = None,
    specialist: Annotated[
        list[str] | None,
        typer.Option(help="A specialist by name and capabilities; several.", metavar="NAME:CAPABILITY[,CAPABILITY]"),
    ] = None,
) -> int:
    """Write a nats-server configuration with TLS, one user for each role, and their keys. Nothing is overwritten."""
    from motet_gateway import credentials
    from motet_gateway.agent_process import load_agent
    from motet_gateway.terminal import print_json, print_result
    from motet_schemas import Namespace

    namespace = Namespace(invocation.settings.namespace)
    workers = built_in_principals()
    workers += [credentials.principal_of(load_agent(target)) for target in agent or []]
    workers += [credentials.specialist(text) for text in specialist or []]
    principals = credentials.everybody(workers)
    server = credentials.Server(hosts=tuple(host or ()), port=port)
    files = credentials.write_bus(directory, principals, server, namespace)
    root = directory.absolute()
    environments = {one.name: str(root / "env" / f"{one.name}.env") for one in principals}
    if invocation.json:
        config = str(root / credentials.CONFIG)
        print_json({"directory": str(root), "config": config, "url": server.url, "environments": environments})
        return exits.COMPLETED
    print_result(f"{len(files)} files in {root}; the keys in it are secrets")
    operator, executor = environments["operator"], environments["executor"]
    print_result(f"start the server:  nats-server -c {root / credentials.CONFIG}")
    print_result(f"make its streams:  (set -a; . {operator}; motet topology)")
    print_result(f"run the executor:  (set -a; . {executor}; motet agent motet_agents.executor:agent)")
    print_result(f"users:             {', '.join(environments)}")
    return exits.COMPLETED


def rotate(
    invocation: Invocation,
    directory: Directory,
    name: Annotated[str, typer.Argument(help="The user, or `server` for its certificate.", metavar="NAME")],
) -> int:
    """Give one user a new key, or the server a new certificate; then have the server read its configuration again."""
    from motet_gateway import credentials
    from motet_gateway.terminal import print_json, print_result

    changed = credentials.rotate(directory, name)
    if invocation.json:
        print_json({"name": name, "changed": str(changed)})
    else:
        print_result(f"{changed} is new; now `nats-server --signal reload` (the old one works until then)")
    return exits.COMPLETED


def built_in_principals() -> list[Principal]:
    """Return the credentials that the built-in agents need: what they register is what they may pull."""
    from motet_gateway.credentials import principal_of

    return [principal_of(importlib.import_module(f"motet_agents.{name}").agent) for name in BUILT_IN]
