"""Runs one agent in this process: `python -m motet_gateway.agent_process MODULE:OBJECT`.

Lean on purpose: a command that starts five of these wants its first result within seconds. Configured by the
environment (`MOTET_*`); prints one JSON line when ready; ends on SIGTERM, SIGINT, or with its supervisor.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from motet_bus.parent_watch import watch_parent
from motet_schemas.errors import InvalidInputError, MotetError

if TYPE_CHECKING:
    from motet_bus import Agent, AgentCard
    from motet_gateway.config import Settings


def load_agent(target: str) -> Agent:
    """Return the agent that `module:object` names; modules of the working directory count.

    Raises `InvalidInputError` that says what is missing.
    """
    from motet_bus import Agent

    module_name, _, object_name = target.partition(":")
    if not module_name or not object_name:
        raise InvalidInputError(
            f"agent: {target!r} is not MODULE:OBJECT, for example my_package.links:agent", field="agent", value=target
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InvalidInputError(
            f"agent: there is no module {error.name!r} in {here} or among the installed packages",
            field="agent",
            value=target,
        ) from error
    found = getattr(module, object_name, None)
    if not isinstance(found, Agent):
        what = "nothing of that name" if found is None else f"a {type(found).__name__}, not an Agent"
        raise InvalidInputError(f"agent: {target}: the module holds {what}", field="agent", value=target)
    return found


async def serve(target: str, settings: Settings, url: str, *, on_ready: Callable[[AgentCard], None]) -> None:
    """Run the agent until SIGTERM, SIGINT or the end of a supervisor; what runs is finished or handed back.

    Raises what `load_agent` and `run_agent` raise.
    """
    from motet_bus import run_agent

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def stop_soon() -> None:
        loop.call_soon_threadsafe(stop.set)

    watch_parent(stop_soon)
    agent = load_agent(target)
    options = settings.connect_options(url, agent.name)
    await run_agent(
        agent,
        options,
        stop=stop,
        namespace=settings.namespace,
        settings={"playbooks": os.pathsep.join(map(str, settings.playbooks))},
        on_ready=on_ready,
    )


def print_ready(card: AgentCard) -> None:
    """Print the one line that a supervisor waits for."""
    sys.stdout.write(
        json.dumps({"ready": True, "role": card.role, "pid": card.pid, "instance": card.instance, "name": card.name})
        + "\n"
    )
    sys.stdout.flush()


def main() -> int:
    """Run the agent named on the command line; the exit status."""
    from motet_gateway import exits
    from motet_gateway.config import settings_from
    from motet_gateway.logs import set_up_logs

    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m motet_gateway.agent_process MODULE:OBJECT\n")
        return exits.BAD_INPUT
    try:
        settings = settings_from(os.environ)
        set_up_logs(settings.log_level, settings.log_format)
        asyncio.run(serve(sys.argv[1], settings, settings.nats_url or "nats://127.0.0.1:4222", on_ready=print_ready))
    except MotetError as error:
        sys.stderr.write(f"motet: {error.message}\n")
        return exits.exit_status(error)
    except KeyboardInterrupt:
        return exits.SIGNALLED + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the last resort of a process: what happened is kept and named
        sys.stderr.write(f"motet: {type(error).__name__}: {error} (details in {exits.save_traceback(error)})\n")
        return exits.FAILED
    return exits.COMPLETED


if __name__ == "__main__":
    sys.exit(main())
