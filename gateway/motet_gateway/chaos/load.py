"""The load of a chaos run: conversations are submitted as fast as they end, or at a given rate; some are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from motet_bus import Client
from motet_bus.answers import Message
from motet_gateway.chaos.chance import chance
from motet_schemas import BusUnavailableError, ConflictError, NotFoundError, Task
from motet_schemas.subjects import Namespace

KIND: Final = "chaos"
_ENDS: Final = ("task.completed", "task.failed", "task.cancelled")
_AGAIN: Final = 0.05
_CANCELLED: Final = 0.03
_LOOK_AGAIN_S: Final = 5.0
_PAUSE_S: Final = 0.2


@dataclass(slots=True)
class Submitted:
    """One conversation: where its first fact stands in the stream, and when it was submitted (loop time, seconds)."""

    name: str
    seq: int
    at_s: float


class Load:
    """Submits until it is told to stop, and keeps track of what has not ended yet.

    `rate` is conversations a second; without it `window` of them are kept going, so that the machine sets the pace.
    """

    def __init__(self, client: Client, *, seed: int, rate: float | None, window: int) -> None:
        self.submitted: list[Submitted] = []
        self.doubles_refused = 0
        self.open: dict[str, Submitted] = {}
        self._client = client
        self._seed = seed
        self._rate = rate
        self._window = window
        self._ended_early: deque[str] = deque(maxlen=1_000)
        self._room = asyncio.Event()
        self._chores: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Submit until `stop` is set."""
        number = 0
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while not stop.is_set():
            if self._rate is None and len(self.open) + len(self._chores) >= self._window:
                self._room.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE_S):
                        await self._room.wait()
                continue
            number += 1
            self._start(self._submit(f"chaos-{self._seed}-{number}"))
            if self._rate is not None:
                next_at = max(next_at + 1 / self._rate, loop.time() - 1.0)
                await asyncio.sleep(max(0.0, next_at - loop.time()))
            else:
                await asyncio.sleep(0)
        await asyncio.gather(*self._chores)

    def _start(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _submit(self, name: str) -> None:
        task = Task(kind=KIND, input={"about": name})
        submission = await _insist(lambda: self._client.submit(task, name))
        made = Submitted(name, submission.seq, asyncio.get_running_loop().time())
        self.submitted.append(made)
        if name not in self._ended_early:
            self.open[name] = made
        if chance("again", name) < _AGAIN:
            again = await _insist(lambda: self._client.submit(task, name))
            self.doubles_refused += not again.created and again.seq == submission.seq
        if chance("cancel", name) < _CANCELLED:
            await asyncio.sleep(2 * chance("when", name))
            with contextlib.suppress(ConflictError, NotFoundError):
                await _insist(lambda: self._client.cancel(name, by="chaos"))

    async def listen(self) -> None:
        """Hear of ends for ever; what was missed while a connection was lost is looked up."""
        space = self._client.namespace
        for kind in _ENDS:
            await self._client.link.subscribe(space.wire(f"{kind}.>"), self._on_end)
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            await self.look_up()

    async def look_up(self, older_than_s: float = _LOOK_AGAIN_S) -> None:
        """Look into the stream for the ends of what has been open for a while."""
        now = asyncio.get_running_loop().time()
        for made in [one for one in self.open.values() if now - one.at_s >= older_than_s]:
            with contextlib.suppress(BusUnavailableError):
                for kind in _ENDS:
                    if await self._client.journal.read_last(f"{kind}.{made.name}.{KIND}") is not None:
                        self._has_ended(made.name)
                        break

    async def _on_end(self, message: Message) -> None:
        self._has_ended(Namespace(self._client.namespace.name).parse(message.subject).conversation)

    def _has_ended(self, name: str) -> None:
        if self.open.pop(name, None) is None:
            self._ended_early.append(name)
        self._room.set()


async def _insist(act: Any) -> Any:
    """Do it again for as long as the bus does not answer; what was recorded is recognised."""
    while True:
        try:
            return await act()
        except BusUnavailableError:
            await asyncio.sleep(_PAUSE_S)
