"""Runs a command's coroutine so that signals stop everything it started before the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from motet_gateway.exits import Interrupted

Result = TypeVar("Result")

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_done(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run `main()`; the first SIGINT, SIGTERM or SIGHUP cancels it, a second one cuts its cleaning up short.

    Raises `Interrupted` when a signal ended it, else what `main` raises.
    """
    with asyncio.Runner() as runner:
        return runner.run(_guarded(main))


async def _guarded(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in _STOPPING:
        # nohup ignores SIGHUP on purpose.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)


async def first_of(*awaitables: Coroutine[Any, Any, Any]) -> None:
    """Run all together until the first one ends; stop the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
