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
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from motet_bus import Agent, AgentCard
    from motet_bus.presence import DrainOrder
    from motet_gateway.config import Settings

_PATIENCE_S: Final = 12.0


def load_agent(target: str) -> Agent:
    """Return the agent that `module:object` names; modules of the working directory count.

    Raises `InvalidInputError` that says what is missing.
    """
    from motet_bus import Agent
    from motet_schemas.errors import InvalidInputError

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


async def serve(
    target: str,
    settings: Settings,
    url: str,
    *,
    on_ready: Callable[[AgentCard], None],
    on_drain: Callable[[DrainOrder], None],
) -> None:
    """Run the agent until SIGTERM, SIGINT or the end of a supervisor; what runs is finished or handed back.

    It also ends when an operator drains it: `on_drain` is told so, and what runs is finished.

    Raises what `load_agent` and `run_agent` raise.
    """
    from motet_bus import RunOptions, run_agent
    from motet_bus.parent_watch import watch_parent
    from motet_gateway.measuring import measure
    from motet_gateway.trace_export import trace_export_from
    from motet_observability import set_up_tracing

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        stop.set()
        _end_for_good()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, begin_to_stop)

    def parent_is_gone() -> None:
        loop.call_soon_threadsafe(begin_to_stop)

    watch_parent(parent_is_gone)
    agent = load_agent(target)
    options = settings.connect_options(url, agent.name)
    instance = f"{agent.name}-{os.getpid()}"
    metrics = measure(f"motet-{agent.name}", settings, os.environ, instance=instance)
    export = trace_export_from(os.environ, spool=settings.span_spool)
    tracing = set_up_tracing(f"motet-{agent.name}", export, instance=instance)
    try:
        await run_agent(
            agent,
            options,
            stop=stop,
            namespace=settings.namespace,
            settings=settings.for_agents() | {"metrics_url": metrics.url or ""},
            run=RunOptions(claim_ttl_s=settings.claim_ttl_s, ack_wait_s=settings.ack_wait_s),
            on_ready=on_ready,
            on_drain=on_drain,
        )
    finally:
        await asyncio.gather(asyncio.to_thread(tracing.finish), asyncio.to_thread(metrics.finish))


def _end_for_good() -> None:
    """End the process when a handler ignores its cancellation: its claim runs out, somebody else does the work."""
    last_resort = threading.Timer(_PATIENCE_S, os._exit, args=(1,))
    last_resort.daemon = True
    last_resort.start()


def print_ready(card: AgentCard) -> None:
    """Print the one line that a supervisor waits for."""
    line = {"ready": True, "role": card.role, "pid": card.pid, "instance": card.instance, "name": card.name}
    sys.stdout.write(json.dumps(line | ({"metrics_url": card.metrics_url} if card.metrics_url else {})) + "\n")
    sys.stdout.flush()


def print_draining(order: DrainOrder) -> None:
    """Print the line by which a supervisor knows that this process shall not be started again."""
    sys.stdout.write(json.dumps({"draining": True, "by": order.by, "reason": order.reason}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the agent named on the command line; the exit status."""
    import_structlog_without_colours()
    from motet_gateway import exits
    from motet_gateway.config import settings_from
    from motet_observability import set_up_logs
    from motet_schemas.errors import MotetError

    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m motet_gateway.agent_process MODULE:OBJECT\n")
        return exits.BAD_INPUT
    try:
        settings = settings_from(os.environ)
        set_up_logs(settings.log_level, settings.log_format)
        url = settings.nats_url or "nats://127.0.0.1:4222"
        asyncio.run(serve(sys.argv[1], settings, url, on_ready=print_ready, on_drain=print_draining))
    except MotetError as error:
        sys.stderr.write(f"motet: {error.message}\n")
        return exits.exit_status(error)
    except KeyboardInterrupt:
        return exits.SIGNALLED + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the last resort of a process: what happened is kept and named
        sys.stderr.write(f"motet: {type(error).__name__}: {error} (details in {exits.save_traceback(error)})\n")
        return exits.FAILED
    return exits.COMPLETED


def import_structlog_without_colours() -> None:
    """Keep structlog from importing rich for colours that no log file shows: that is a seventh of the time to start."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]


if __name__ == "__main__":
    sys.exit(main())
