"""The commands as an outsider has them: submit, ask how it stands, ask for a stop. Everything else takes a reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from motet_bus.outsider import Outsider, open_outsider
from motet_gateway.config import Settings
from motet_gateway.places import running_place
from motet_gateway.taskfile import LoadedTask
from motet_gateway.trace_export import traced
from motet_schemas import BusUnavailableError, NotFoundError

_ASK_AGAIN_S: Final = (0.2, 2.0)
_SILENT: Final = 30
"""How often in a row nobody may answer, with a pause of 2 s between."""


async def submit(settings: Settings, loaded: LoadedTask) -> bool:
    """Submit a task; False when the same one had been submitted before. Raises as `Outsider.submit`."""
    async with _outsider(settings) as outsider:
        return await outsider.submit(loaded.task, loaded.conversation)


async def submit_and_wait(settings: Settings, loaded: LoadedTask) -> dict[str, Any]:
    """Submit a task and return its document once it has ended or waits for a human."""
    async with _outsider(settings) as outsider:
        await outsider.submit(loaded.task, loaded.conversation)
        return await _over(outsider, loaded.conversation)


async def show(settings: Settings, conversation: str) -> dict[str, Any]:
    """Return the document of a conversation. Raises as `Outsider.show`."""
    async with _outsider(settings) as outsider:
        return await outsider.show(conversation)


async def cancel(settings: Settings, conversation: str, reason: str) -> dict[str, Any]:
    """Ask for a stop and return the conversation's document once it has ended."""
    async with _outsider(settings) as outsider:
        await outsider.cancel(conversation, reason=reason)
        return await _over(outsider, conversation, but="waiting")


async def _over(outsider: Outsider, conversation: str, *, but: str = "") -> dict[str, Any]:
    """Ask, first often and then every 2 s, until the conversation runs no more nor is in the state `but`."""
    pause_s, silent = _ASK_AGAIN_S[0], 0
    while True:
        try:
            shown = await outsider.show(conversation)
            silent = 0
            if shown["status"] not in ("running", but):
                return shown
        except (BusUnavailableError, NotFoundError) as error:  # not yet read there, or nobody to read it
            silent += 1
            if silent > _SILENT:
                raise BusUnavailableError(f"{conversation} was submitted, but: {error.message}") from error
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _ASK_AGAIN_S[1])


@asynccontextmanager
async def _outsider(settings: Settings) -> AsyncGenerator[Outsider]:
    async with running_place(settings, wanted_for="an outsider") as place:
        options = settings.connect_options(place.url, f"motet-{settings.outsider}")
        async with (
            traced("motet-cli"),
            open_outsider(options, name=settings.outsider, namespace=settings.namespace) as outsider,
        ):
            yield outsider
