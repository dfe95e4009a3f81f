"""The queue between the inbox that receives deliveries and the worker that takes them."""

from __future__ import annotations

import asyncio
from collections import deque

from motet_bus.delivery import Delivery
from motet_schemas.errors import MotetError


class Handover:
    """First in, first out, woken one for one. It bounds nothing: who puts in knows how much was asked for."""

    def __init__(self) -> None:
        self._buffer: deque[Delivery] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.failure: MotetError | None = None

    def put(self, delivery: Delivery) -> None:
        """Add one and wake one who waits."""
        self._buffer.append(delivery)
        self._wake(1)

    async def take(self) -> Delivery:
        """Return the oldest, waiting as long as it takes. Raises what `fail` was told once nothing is left."""
        while not self._buffer:
            if self.failure is not None:
                raise self.failure
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._wake(1)  # it may have been woken for a message, which is the next one's now
                raise
        return self._buffer.popleft()

    def fail(self, error: MotetError) -> None:
        """Nothing more will come, for this reason; the first reason counts."""
        if self.failure is None:
            self.failure = error
        self._wake(len(self._waiters))

    def empty(self) -> list[Delivery]:
        """Return all that nobody has taken, and forget it."""
        left = list(self._buffer)
        self._buffer.clear()
        return left

    def _wake(self, number: int) -> None:
        while number > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                number -= 1
