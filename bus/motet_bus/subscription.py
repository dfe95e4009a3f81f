"""A plain subscription, as its owner ends it."""

from __future__ import annotations

import asyncio
import contextlib

import nats.errors
from nats.aio.subscription import Subscription as WireSubscription


class Subscription:
    """A plain subscription; `unsubscribe` drops what has not been handled, `drain` handles what has come."""

    def __init__(self, inner: WireSubscription) -> None:
        self._inner = inner

    async def unsubscribe(self) -> None:
        """Stop at once. Does nothing when it has ended already."""
        with contextlib.suppress(nats.errors.Error):
            await self._inner.unsubscribe()

    async def drain(self, *, timeout_s: float = 1.0) -> None:
        """Take nothing new, handle what the server has sent, then end; `unsubscribe` after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._inner.drain()  # type: ignore[no-untyped-call]
        except (nats.errors.Error, TimeoutError):
            await self.unsubscribe()
