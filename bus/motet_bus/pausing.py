"""Pausing a kind of work: the server hands out none of it, whoever asks, until it is resumed or the time is over.

Who paused it and why is kept with the consumer on the server, as is who resumed it last.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from motet_bus.answers import server_time
from motet_bus.bus import Bus
from motet_bus.topology import update_consumer
from motet_schemas import BusUnavailableError, InvalidInputError

log = structlog.get_logger(__name__)

ENDLESS: Final = timedelta(days=36_500)
"""For how long "until it is resumed" is: the server wants an end."""
_OPEN_END: Final = timedelta(days=3_650)
_SOON: Final = timedelta(seconds=0.1)
"""A pause that runs out wakes those who wait for work; one that is taken back leaves them asleep for up to 5 s."""
_LONGEST: Final = 2_000
_LOOKS: Final = 50
_LOOK_S: Final = 0.1
_BY: Final = "motet-paused-by"
_WHY: Final = "motet-paused-reason"
_AT: Final = "motet-paused-at"
_UNTIL: Final = "motet-paused-until"
_RESUMED_BY: Final = "motet-resumed-by"
_RESUMED_AT: Final = "motet-resumed-at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A consumer that is held back. `until` None: until it is resumed. `by` is empty when no tool of ours did it."""

    consumer: str
    until: datetime | None
    by: str = ""
    reason: str = ""
    at: datetime | None = None


def pause_of(info: dict[str, Any]) -> Pause | None:
    """Return the pause of a consumer as `CONSUMER.INFO` shows it, None when it is not paused."""
    config: dict[str, Any] = info.get("config") or {}
    if not info.get("paused") or "pause_until" not in config:
        return None
    stamp = str(config["pause_until"])
    notes: dict[str, str] = config.get("metadata") or {}
    until = server_time(stamp)
    ends = until if timedelta(seconds=int(info.get("pause_remaining", 0)) / 1e9) < _OPEN_END else None
    if notes.get(_UNTIL) != stamp:  # what is noted is about another pause
        return Pause(consumer=str(info["name"]), until=ends)
    return Pause(
        consumer=str(info["name"]),
        until=ends,
        by=str(notes.get(_BY, "")),
        reason=str(notes.get(_WHY, "")),
        at=server_time(str(notes[_AT])) if _AT in notes else None,
    )


async def pause(
    bus: Bus, consumer: str, *, by: str, reason: str, for_: timedelta | None = None, until: datetime | None = None
) -> Pause:
    """Hold a consumer back from now on: until a time, for a length of time, or until it is resumed.

    What was handed out is finished as ever. Pausing again replaces the end and the reason. Raises `NotFoundError` for
    an unknown consumer, `InvalidInputError` for a time that has passed, or words without measure.
    """
    if not by or len(by) > _LONGEST or len(reason) > _LONGEST:
        raise InvalidInputError(f"by, reason: between 1 and {_LONGEST} characters", field="reason", value=reason[:80])
    stream = bus.journal.stream
    now = await bus.journal.server_time()
    end = until or now + (for_ or ENDLESS)
    if end <= now:
        raise InvalidInputError(f"until: {end.isoformat()} is over by the server's clock", field="until", value=end)
    await _hold(bus, consumer, end)
    config = (await bus.link.api(f"CONSUMER.INFO.{stream}.{consumer}", {}))["config"]
    notes = {_BY: by, _WHY: reason, _AT: now.isoformat(), _UNTIL: str(config.get("pause_until", ""))}
    await _note(bus, config, notes)
    log.warning("consumer.paused", consumer=consumer, until=end.isoformat(), by=by, reason=reason)
    found = pause_of(await bus.link.api(f"CONSUMER.INFO.{stream}.{consumer}", {}))
    return found or Pause(consumer=consumer, until=end, by=by, reason=reason, at=now)


async def resume(bus: Bus, consumer: str, *, by: str) -> Pause | None:
    """Let a consumer go on at once; return the pause that ends, None when there was none.

    Raises `NotFoundError` for an unknown consumer, `BusUnavailableError` when the server does not let it go on.
    """
    stream = bus.journal.stream
    was = pause_of(await bus.link.api(f"CONSUMER.INFO.{stream}.{consumer}", {}))
    if was is None:
        return None
    now = await bus.journal.server_time()
    await _hold(bus, consumer, now + _SOON)
    for _ in range(_LOOKS):
        info = await bus.link.api(f"CONSUMER.INFO.{stream}.{consumer}", {})
        if pause_of(info) is None:
            await _note(bus, info["config"], {_RESUMED_BY: by, _RESUMED_AT: now.isoformat()})
            log.warning("consumer.resumed", consumer=consumer, by=by)
            return was
        await asyncio.sleep(_LOOK_S)
    raise BusUnavailableError(f"consumer {consumer} is still paused; somebody may have paused it again, else try again")


async def _hold(bus: Bus, consumer: str, until: datetime) -> None:
    stamp = until.isoformat().replace("+00:00", "Z")
    await bus.link.api(f"CONSUMER.PAUSE.{bus.journal.stream}.{consumer}", {"pause_until": stamp})


async def _note(bus: Bus, config: dict[str, Any], notes: dict[str, str]) -> None:
    """Keep `notes` with the consumer; the pause itself, an API call of its own, does not depend on them."""
    changed = {name: value for name, value in config.items() if name != "pause_until"}
    changed["metadata"] = {**(config.get("metadata") or {}), **notes}
    await update_consumer(bus.link, bus.journal.stream, changed)
