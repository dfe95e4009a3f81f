"""An operator's place on the bus, what a name that nobody bears may have meant, and how a pause is shown."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from motet_bus import Bus, open_bus
from motet_bus.pausing import Pause
from motet_gateway.config import Settings
from motet_gateway.places import Place
from motet_gateway.terminal import one_line


@asynccontextmanager
async def operating(settings: Settings, place: Place, *, by: str) -> AsyncGenerator[Bus]:
    """Open the bus at `place` as an operator whose connection is called `by`. Raises what `open_bus` raises."""
    options = settings.connect_options(place.url, f"motet-{by}")
    async with open_bus(options, role="operator", name=by, namespace=settings.namespace) as bus:
        yield bus


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for names that are like `name`; else what there is, if there is anything."""
    names = sorted(set(known))
    if near := difflib.get_close_matches(name, names, n=3, cutoff=0.4):
        return f"; did you mean {' or '.join(near)}?"
    return f"; there is {', '.join(names)}" if names else ""


def pause_document(pause: Pause) -> dict[str, Any]:
    """Return a pause as `--json` shows it; `until` is null when only `motet resume` ends it."""
    return {
        "until": pause.until.isoformat() if pause.until else None,
        "by": pause.by or None,
        "reason": pause.reason or None,
        "at": pause.at.isoformat() if pause.at else None,
    }


def pause_line(pause: Pause) -> str:
    """Return a pause in a line."""
    until = f"until {pause.until:%Y-%m-%d %H:%M:%S} UTC" if pause.until else f"until `motet resume {pause.consumer}`"
    why = f" ({one_line(pause.reason)})" if pause.reason else ""
    return f"{pause.consumer} is paused by {one_line(pause.by) or 'somebody'} {until}{why}"
