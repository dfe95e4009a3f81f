"""Work on a bus: a client, the agents as processes, and conversations followed until they are over."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from motet_bus import Client, Role, Submission, open_client
from motet_bus.embedded import EmbeddedServer
from motet_bus.forge import Forge
from motet_bus.supervisor import Child, ProcessSpec, Supervisor
from motet_gateway.config import Settings
from motet_gateway.documents import is_over
from motet_gateway.lifecycle import first_of
from motet_gateway.measuring import measured, port_of_child
from motet_gateway.places import Place, announce, any_place
from motet_gateway.progress import showing_progress
from motet_gateway.store import remove_discovery
from motet_gateway.taskfile import LoadedTask
from motet_gateway.terminal import note
from motet_gateway.trace_export import needed_modules, recovering, traced
from motet_schemas import BusUnavailableError, Conversation, InvalidInputError, NotAllowedError, NotFoundError

EXECUTORS: Final = 2
_SERVER_RESTARTS: Final = 3
_PLACES: Final = 3


Report = Callable[[Conversation, str | None], None]
"""Reports a conversation that is over, given its draft."""


async def keep_alive(server: EmbeddedServer) -> None:
    """Start the embedded server again when it dies; clients reconnect. Raises `BusUnavailableError` the fourth time."""
    for _ in range(_SERVER_RESTARTS):
        status = await server.wait()
        note(f"motet: nats-server ended with status {status}; starting it again")
        await server.start()
    status = await server.wait()
    raise BusUnavailableError(
        f"nats-server died {_SERVER_RESTARTS + 1} times (last status {status}); its log is {server.log_path}"
    )


@asynccontextmanager
async def connected(
    settings: Settings, place: Place, *, by: str = "cli", role: Role = "client"
) -> AsyncGenerator[Client]:
    """A client on the bus at `place`. Raises what `open_client` raises, and `NotAllowedError` for an outsider."""
    if settings.outsider:
        raise NotAllowedError(
            f"{settings.outsider} is an outsider here (MOTET_OUTSIDER): it may submit, cancel and ask (`motet submit`, "
            "`motet cancel`, `motet show`); everything else takes the credentials of a client, a desk or an operator"
        )
    options = settings.connect_options(place.url, f"motet-{by}")
    async with traced("motet-cli"), open_client(options, namespace=settings.namespace, by=by, role=role) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Crew:
    """The agents that this process runs."""

    supervisor: Supervisor
    starting: asyncio.Task[tuple[Child, ...]]
    metrics_url: str | None = None

    async def ready(self) -> tuple[Child, ...]:
        """Wait until every agent is ready; return them. Raises `ChildGaveUpError` when one cannot be started."""
        return await asyncio.shield(self.starting)

    async def stay(self) -> None:
        """Stay until an agent has to be given up, and raise that `ChildGaveUpError`."""
        await self.ready()
        await self.supervisor.wait()


async def with_crew(
    settings: Settings,
    place: Place,
    work: Callable[[Crew | None], Coroutine[Any, Any, None]],
    *,
    executors: int = EXECUTORS,
) -> None:
    """Run `work` while agents serve the place: ours, or somebody else's (then there is no crew). Stop ours after it.

    Raises what `work` raises, `ChildGaveUpError` when an agent is hopeless, `BusUnavailableError` when our server is.
    """
    if place.served:
        await work(None)
        return
    specs = _agents(settings, place, executors)
    async with (
        recovering("motet-cli", _span_spool(settings, place)),
        _forge() as forge,
        Supervisor(log_dir=_log_directory(place.store), forge=forge) as supervisor,
        measured(settings, supervisor, os.environ) as url,
    ):
        crew = Crew(supervisor, asyncio.create_task(supervisor.start(specs)), url)
        chores = [crew.stay(), work(crew)]
        if place.embedded is not None:
            chores.append(keep_alive(place.embedded))
        try:
            await first_of(*chores)
        finally:
            crew.starting.cancel()
            await asyncio.gather(crew.starting, return_exceptions=True)


@asynccontextmanager
async def _forge() -> AsyncGenerator[Forge]:
    """The process that the agents are forked from: what they need is imported once."""
    forge = Forge(["motet_gateway.agent_imports", *needed_modules(os.environ)])
    await forge.start()
    try:
        yield forge
    finally:
        await forge.close()


def _log_directory(store: Path) -> Path:
    """Return where the agents' output goes. Raises `InvalidInputError` when it cannot be made."""
    logs = store / "logs"
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        logs.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"store: cannot use {logs}: {error.strerror}; name another with --store", field="store", value=str(store)
        ) from error
    return logs


def _span_spool(settings: Settings, place: Place) -> Path:
    return settings.span_spool or place.store / "spans"


def _agents(settings: Settings, place: Place, executors: int) -> list[ProcessSpec]:
    """Return the built-in agents, each as a process of its own. Secrets travel in the environment only."""
    environment = settings.environment(place.url, os.environ)
    environment["MOTET_SPAN_SPOOL"] = str(_span_spool(settings, place))
    roles = ["orchestrator", "planner", *["executor"] * executors, "verifier"]
    counted: dict[str, int] = {}
    specs: list[ProcessSpec] = []
    for position, role in enumerate(roles):
        port = port_of_child(settings, position)
        own = {} if port is None else {"MOTET_METRICS_PORT": str(port)}
        counted[role] = counted.get(role, 0) + 1
        name = role if roles.count(role) == 1 else f"{role}-{counted[role]}"
        # -P: a file of the working directory called `random.py` must not stand in for Python's own.
        argv = [sys.executable, "-P", "-m", "motet_gateway.agent_process", f"motet_agents.{role}:agent"]
        specs.append(ProcessSpec(name=name, argv=argv, env=environment | own, imports=[f"motet_agents.{role}"]))
    return specs


async def submit(client: Client, loaded: LoadedTask) -> Submission:
    """Store the large documents of a task, then submit it. Raises as `Client.submit`."""
    for name in loaded.task.references:
        document = loaded.documents[name]
        await client.put_document(document.data, document.media_type)
    return await client.submit(loaded.task, loaded.conversation)


async def carry_through(
    settings: Settings,
    conversation: str,
    act: Callable[[Client], Coroutine[Any, Any, None]],
    report: Report,
    *,
    role: Role = "client",
    quiet: bool = False,
) -> None:
    """Do `act` once, see to it that the conversation goes on until it is over, and `report` it.

    On a bus that is ours the agents run for that long. One that goes away meanwhile is looked for again, twice.
    Raises what `act` raises, and `BusUnavailableError`.
    """
    acted = False
    for attempt in range(_PLACES):
        try:
            async with any_place(settings) as place, connected(settings, place, role=role) as client:
                if not acted:
                    await act(client)
                    acted = True
                await _seen_through(settings, place, client, conversation, report, quiet=quiet)
                return
        except BusUnavailableError:
            if not acted or attempt == _PLACES - 1:
                raise


async def _seen_through(
    settings: Settings, place: Place, client: Client, conversation: str, report: Report, *, quiet: bool
) -> None:
    async def work(_: Crew | None) -> None:
        state = await follow_shown(client, conversation, quiet=quiet)
        report(state, await draft_of(client, state))

    if is_over(state := await client.load(conversation)):
        report(state, await draft_of(client, state))
    elif place.embedded is None:
        await warn_if_unserved(client)
        await work(None)
    else:
        announce(place.embedded)
        try:
            await with_crew(settings, place, work)
        finally:
            remove_discovery(place.store, os.getpid())


async def warn_if_unserved(client: Client) -> None:
    """Say so when no orchestrator answers: then nothing will happen until one runs."""
    if not any(card.role == "orchestrator" for card in await client.roll_call()):
        note("motet: no orchestrator answers on this bus, so nothing goes on until one runs (`motet up`); waiting")


async def follow_shown(client: Client, conversation: str, *, quiet: bool) -> Conversation:
    """Follow a conversation until it has ended or waits for a human, with progress on standard error."""
    with showing_progress(quiet=quiet) as watcher:
        return await follow(client, conversation, watcher)


async def draft_of(client: Client, state: Conversation) -> str | None:
    """Return the draft of a conversation's task as text, wherever it is kept; None when it has none."""
    if state.task is None:
        return None
    inline, reference = state.task.input.get("draft"), state.task.references.get("draft")
    if isinstance(inline, str):
        return inline
    if reference is None:
        return None
    try:
        return (await client.get_document(reference)).decode("utf-8", errors="replace")
    except (NotFoundError, InvalidInputError):  # removed, or never what was promised: the report still has offsets
        return None


async def follow(client: Client, conversation: str, on_state: Callable[[Conversation], None]) -> Conversation:
    """Tell `on_state` of every change until the conversation has ended or waits for a human; return it then."""
    watching = client.watch(conversation)
    async with aclosing(watching) as states:
        async for state in states:
            on_state(state)
            if is_over(state):
                return state
    raise BusUnavailableError(f"conversation {conversation} could not be followed any more; try `motet watch` again")
