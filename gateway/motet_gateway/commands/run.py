"""`motet run` and `motet up`: the bus, all agents as processes, and for `run` one task from start to report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from motet_gateway import exits
from motet_gateway.invocation import Invocation, MetricsPort, Playbooks, command

if TYPE_CHECKING:
    from motet_bus.supervisor import Child
    from motet_gateway.config import Settings
    from motet_gateway.places import Place
    from motet_gateway.reporting import Reporter
    from motet_gateway.taskfile import LoadedTask

PANEL: Final = "Main"

Task = Annotated[Path, typer.Argument(help="The task file, YAML or JSON.", show_default=False)]
FailOn = Annotated[
    Literal["changes_needed"] | None,
    typer.Option("--fail-on", help="Exit with 1 when the work completes with this verdict."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Executors = Annotated[int, typer.Option("--executors", min=1, max=64, help="How many executor processes.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "run", panel=PANEL)(run)
    command(app, "up", panel=PANEL)(up)


def run(
    invocation: Invocation,
    task: Task,
    fail_on: FailOn = None,
    executors: Executors = 2,
    quiet: Quiet = False,
    playbooks: Playbooks = None,
    metrics_port: MetricsPort = None,
) -> int:
    """Run one task: server, agents, progress, report.

    Exit status: 0 completed, 1 failed or cancelled, 2 bad input,
    3 waiting for a human, 4 no bus, 130 after Ctrl-C (128 + the signal).
    """
    from motet_gateway.reporting import Reporter, see_through
    from motet_gateway.terminal import note

    settings = invocation.settings
    loaded = read_task(settings, task)
    reporter = Reporter(invocation, fail_on)
    submitted: list[str] = []
    try:
        return see_through(reporter, lambda: _run(settings, loaded, executors, reporter, submitted, quiet=quiet))
    except exits.Interrupted:
        if submitted:
            note(f"motet: what is recorded is kept; `motet watch {loaded.conversation}` goes on with it")
        raise


def up(
    invocation: Invocation,
    executors: Executors = 2,
    playbooks: Playbooks = None,
    metrics_port: MetricsPort = None,
) -> int:
    """Keep the bus and all agents running, until Ctrl-C."""
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import note

    try:
        run_until_done(lambda: _up(invocation, executors))
    except exits.Interrupted as interruption:
        # The usual end, and with --json everything has been said on standard output already.
        note("motet: stopped")
        return exits.SIGNALLED + interruption.number
    return exits.COMPLETED


def read_task(settings: Settings, path: Path) -> LoadedTask:
    """Return the task, after every check that needs no bus. Raises `InvalidInputError`."""
    from motet_agents.playbooks import load_playbooks
    from motet_gateway.taskfile import check_task, load_task

    loaded = load_task(path)
    check_task(loaded, load_playbooks(settings.playbooks), str(path))
    return loaded


async def _run(
    settings: Settings, loaded: LoadedTask, executors: int, report: Reporter, submitted: list[str], *, quiet: bool
) -> None:
    from motet_gateway.places import working_place
    from motet_gateway.session import Crew, connected, follow_shown, submit, warn_if_unserved, with_crew
    from motet_gateway.terminal import note

    async with working_place(settings) as place:

        async def work(crew: Crew | None) -> None:
            async with connected(settings, place) as client:
                submission = await submit(client, loaded)
                submitted.append(submission.conversation)
                if not submission.created:
                    note(f"motet: {loaded.conversation} was submitted before; this is that conversation")
                if crew is None:
                    await warn_if_unserved(client)
                draft = loaded.documents.get("draft")
                # Reported now: nobody wants to wait for the agents to go home.
                report(await follow_shown(client, loaded.conversation, quiet=quiet), draft.text if draft else None)

        await with_crew(settings, place, work, executors=executors)


async def _up(invocation: Invocation, executors: int) -> None:
    from motet_gateway.places import working_place
    from motet_gateway.session import Crew, with_crew
    from motet_schemas import BusUnavailableError

    settings = invocation.settings
    async with working_place(settings) as place:
        if place.served and place.discovery is not None:
            raise BusUnavailableError(
                f"`motet up` runs on the store {place.store} already (process {place.discovery.pid}); use it, or name "
                "another store with --store"
            )

        async def work(crew: Crew | None) -> None:
            if crew is not None:
                _tell_ready(invocation, place, await crew.ready(), crew.metrics_url)
                await crew.supervisor.wait()

        await with_crew(settings, place, work, executors=executors)


def _tell_ready(invocation: Invocation, place: Place, children: Sequence[Child], metrics_url: str | None) -> None:
    """Say that every agent is ready: on standard output, and in the discovery file from then on."""
    from motet_gateway.places import announce
    from motet_gateway.store import RunningAgent
    from motet_gateway.terminal import note, print_json

    agents = tuple(
        RunningAgent(role=child.role, pid=child.pid, instance=child.instance)
        for child in children
        if child.role is not None and child.pid is not None and child.instance is not None
    )
    if place.embedded is not None:
        announce(place.embedded, agents)
    if invocation.json:
        listed = [{"role": agent.role, "pid": agent.pid, "instance": agent.instance} for agent in agents]
        document = {"nats_url": place.url, "store": str(place.store), "agents": listed}
        print_json(document | ({} if metrics_url is None else {"metrics_url": metrics_url}), compact=True)
    else:
        note(f"ready: {len(agents)} agents, store {place.store}; `motet submit TASK` gives them work, Ctrl-C stops all")
