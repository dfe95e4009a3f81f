"""Values that live on the event loop, looked up for readers in other threads: cached, bounded in time, never awaited.

Nothing is asked of the server unless somebody reads, and then at most once a second.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from time import monotonic
from typing import Final, Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

EVERY_S: Final = 1.0
PATIENCE_S: Final = 0.5
KEPT_S: Final = 60.0
_SHARE: Final = 20
"""A look that takes long is taken rarely: it may use this fraction of the time, one twentieth."""


class Sampled(Generic[Value]):
    """One value, taken by `take` on the loop that made this object.

    `read` is for any thread: it waits half a second for a new value, then it returns the last one, or None when that is
    older than a minute. A look that fails is logged once, until one succeeds.
    """

    def __init__(self, name: str, take: Callable[[], Awaitable[Value]], *, every_s: float = EVERY_S) -> None:
        self._name = name
        self._take = take
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._task: asyncio.Task[None] | None = None
        self._last: tuple[float, Value] | None = None
        self._next = 0.0
        self._failing = False
        self._closed = False

    def read(self) -> Value | None:
        """Return the value as it was a moment ago, None when it is not known."""
        if not self._closed and monotonic() >= self._next and threading.get_ident() != self._thread:
            self._ask()
        last = self._last
        return last[1] if last is not None and monotonic() - last[0] < KEPT_S else None

    async def close(self) -> None:
        """Take no more looks."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ask(self) -> None:
        taken: Future[None] = Future()
        try:
            self._loop.call_soon_threadsafe(self._look, taken)
        except RuntimeError:  # the loop has ended, and with it what is measured
            return
        try:
            taken.result(PATIENCE_S)
        except FutureTimeoutError:
            log.debug("metrics.slow", metric=self._name, waited_s=PATIENCE_S)

    def _look(self, taken: Future[None]) -> None:
        """On the loop: join the look that is under way, or begin one."""
        if self._closed:
            taken.set_result(None)
            return
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._once(), name=f"sample {self._name}")
        self._task.add_done_callback(lambda _: taken.set_result(None))

    async def _once(self) -> None:
        began = monotonic()
        try:
            self._last = (began, await self._take())
            self._failing = False
        except Exception as error:  # noqa: BLE001 - a metric must not break what it measures
            if not self._failing:
                log.warning("metrics.not_sampled", metric=self._name, error=str(error))
            self._failing = True
        finally:
            self._next = monotonic() + max(self._every_s, _SHARE * (monotonic() - began))
