"""Starts agents as real processes, quickly: imports everything once, then forks one process for each line of input.

Run by `tests.bus.processes`. A line is the JSON of an order; the answer is the new process's id.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from motet_bus import Agent, AgentCard, RunOptions, run_agent
from motet_gateway.chaos.desk_process import serve as serve_desk
from tests.bus.secured import options_as, prepare

_PR_SET_PDEATHSIG = 1
_LOADED_BEFORE = (
    "motet_agents.orchestrator",
    "motet_agents.planner",
    "motet_agents.verifier",
    "motet_gateway.chaos.agents",
    "tests.bus.child_agents",
)
DESK = "desk"
"""What an order names when it wants a desk that answers by itself: no agent, but a process like one."""


def set_clock(off_s: float) -> None:
    """Have every module of ours that is loaded, and `time.time`, tell another time from now on."""
    right, off = time.time, timedelta(seconds=off_s)

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + off

    time.time = lambda: right() + off_s
    for name, module in list(sys.modules.items()):
        if name.startswith("motet_") and getattr(module, "datetime", None) is datetime:
            module.datetime = Wrong  # type: ignore[attr-defined]


async def serve(order: dict[str, Any]) -> None:
    """Run the agent that an order names until SIGTERM."""
    if "clock_off_s" in order:
        set_clock(order["clock_off_s"])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    died = Path(order["ready"] + ".died")

    passed: list[str] = []

    def crash(point: str) -> None:
        passed.append(point)
        if point == order.get("crash") and passed.count(point) == order.get("nth", 1) and not died.exists():
            died.touch()
            os.kill(os.getpid(), order.get("signal", signal.SIGKILL))

    def on_ready(card: AgentCard) -> None:
        Path(order["ready"]).write_text(card.instance)

    if order["agent"] == DESK:
        await serve_desk(
            options_as(order["url"], "desk", None),
            namespace=order["namespace"],
            ack_wait_s=order["ack_wait_s"],
            stop=stop,
            on_ready=on_ready,
            crash=crash,
        )
        return
    module, _, name = str(order["agent"]).partition(":")
    agent = getattr(importlib.import_module(module), name)
    assert isinstance(agent, Agent)
    run = RunOptions(claim_ttl_s=order["claim_ttl_s"], ack_wait_s=order["ack_wait_s"], crash=crash)
    await prepare(order["url"], order["namespace"], agent, run)
    await run_agent(
        agent,
        options_as(order["url"], agent.name, agent.role),
        stop=stop,
        namespace=order["namespace"],
        settings=order.get("settings"),
        run=run,
        on_ready=on_ready,
    )


def become_agent(order: dict[str, Any]) -> int:
    """Turn this fresh process into the agent; its exit status."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ |= order.get("environ", {})
    try:
        asyncio.run(serve(order))
    except BaseException:  # noqa: BLE001 - the process ends here, and its log says why
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Fork an agent for each line of standard input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for module in _LOADED_BEFORE:
        importlib.import_module(module)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = become_agent(json.loads(line))
            sys.stdout.flush()
            os._exit(status)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
