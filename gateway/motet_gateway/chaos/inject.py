"""Does one fault after the other to a running crew, and undoes what can be undone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

from motet_bus.supervisor import Child
from motet_gateway.chaos.crew import Crew
from motet_gateway.chaos.dice import Fault, faults
from motet_schemas import BusUnavailableError

_READY_WITHIN_S: Final = 5.0
_STARTS: Final = 5
_POLL_S: Final = 0.05
_LONGEST_DELAY_S: Final = 2.0
_LONGEST_OUTAGE_S: Final = 1.5


class Injector:
    """Runs faults until it is stopped. `done` counts them by name: `kill executor`, `cut`, …

    After `spare_after_s` seconds the first process of each role is frozen and cut off but not killed any more, so that
    its memory can be compared over the rest of the run.
    """

    def __init__(self, crew: Crew, *, seed: int, frozen_s: float, spare_after_s: float) -> None:
        self.done: Counter[str] = Counter()
        self._crew = crew
        self._seed = seed
        self._frozen_s = frozen_s
        self._spare_after_s = spare_after_s
        self._frozen: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = 0.0

    @property
    def kills(self) -> dict[str, int]:
        """How often each role, and the server, was killed with SIGKILL."""
        return {name.removeprefix("kill "): count for name, count in self.done.items() if name.startswith("kill ")}

    async def run(self, stop: asyncio.Event) -> None:
        """Inject one fault after the other until `stop` is set; then everything is up again and goes on."""
        self._started = asyncio.get_running_loop().time()
        try:
            for fault in faults(self._seed):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(fault.after_s):
                        await stop.wait()
                if stop.is_set():
                    return
                await self._inject(fault)
                for task in [task for task in self._tasks if task.done()]:
                    self._tasks.discard(task)
                    task.result()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _inject(self, fault: Fault) -> None:
        proxy = self._crew.proxy
        number = int(fault.which * 1_000)
        match fault.act:
            case "kill":
                await self._kill(fault)
            case "freeze":
                await self._freeze(fault)
            case "kill server":
                await self._kill_server(fault)
            case "freeze server":
                self._in_background(self._freeze_pid(self._crew.server.pid, fault.how_long * self._frozen_s))
            case "cut":
                proxy.cut(None if fault.how < 0.2 else number)
            case "half-close":
                proxy.half_close(number)
            case "lose answer":
                proxy.lose_next_answer(cut=fault.how < 0.5)
            case "repeat":
                proxy.repeat_next_publish(b"motet-cause")
            case "delay":
                seconds = fault.how_long * _LONGEST_DELAY_S
                self._in_background(proxy.delay(seconds, None if fault.how < 0.2 else number))
        if fault.act not in ("kill", "freeze"):
            self.done[fault.act] += 1

    async def _kill(self, fault: Fault) -> None:
        victim = await self._choose(fault, spare=True)
        if victim is not None and victim.pid is not None and _send(victim.pid, signal.SIGKILL):
            self.done[f"kill {fault.role}"] += 1

    async def _freeze(self, fault: Fault) -> None:
        """Freeze a process for longer than its claims and its messages are kept for it."""
        victim = await self._choose(fault, spare=False)
        if victim is not None and victim.pid is not None:
            self._in_background(self._freeze_pid(victim.pid, self._frozen_s * (1 + fault.how_long)))
            self.done[f"freeze {fault.role}"] += 1

    async def _choose(self, fault: Fault, *, spare: bool) -> Child | None:
        """Wait for a process of the role that is up; None when there is none for a while."""
        loop = asyncio.get_running_loop()
        late = loop.time() + _READY_WITHIN_S
        while loop.time() < late:
            spared = spare and loop.time() - self._started > self._spare_after_s
            members = [
                child
                for child in self._crew.processes(fault.role)
                if child.pid not in self._frozen and not (spared and child.name.endswith("-1"))
            ]
            if members:
                return members[int(fault.which * len(members))]
            await asyncio.sleep(_POLL_S)
        return None

    async def _freeze_pid(self, pid: int, seconds: float) -> None:
        self._frozen.add(pid)
        try:
            if _send(pid, signal.SIGSTOP):
                await asyncio.sleep(seconds)
        finally:
            _send(pid, signal.SIGCONT)
            self._frozen.discard(pid)

    async def _kill_server(self, fault: Fault) -> None:
        server = self._crew.server
        _send(server.pid, signal.SIGKILL)
        await server.wait()
        await asyncio.sleep(fault.how_long * _LONGEST_OUTAGE_S)
        for again in range(_STARTS, -1, -1):
            try:
                await server.start()
            except BusUnavailableError:  # a machine under load may take longer than a server is given
                if not again:
                    raise
            else:
                return

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))


def _send(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
