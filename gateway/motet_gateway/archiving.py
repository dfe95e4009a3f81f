"""`motet archive`: which conversations leave the stream, a few at a time, and what came of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, get_args

from motet_bus.archiver import Archiver, Done, Outcome
from motet_bus.archives import FolderError
from motet_bus.bus import Bus
from motet_gateway.consumers import consumer_states
from motet_schemas import BusUnavailableError, BusUnsuitableError, InvalidInputError, MotetError, NotAllowedError

AT_ONCE: Final = 4
MOST_PER_S: Final = 200
"""How many conversations a second are taken at most: the bus is there for others, too."""

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DONE: Final[tuple[str, ...]] = get_args(Done)
NOTHING_LEFT: Final = "it was archived before, or there is nothing to archive"
_REASONS: Final[dict[str, str]] = {
    "nothing left": NOTHING_LEFT,
    "unknown": "there is no such conversation; `motet list` shows what there is",
    "running": "it has not ended",
    "too young": "it has not ended long enough ago (--older-than)",
    "awaited": "not all of its events have reached every consumer",
    "unsettled": "it has a dead letter that nobody has retried or discarded (`motet dead list`)",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What shall be archived. Without `conversations` all that ended longer ago than `older_than`, `limit` at most."""

    older_than: timedelta
    conversations: tuple[str, ...] = ()
    limit: int | None = None
    dry_run: bool = False


@dataclass(kw_only=True)
class Tally:
    """What came of it. `skipped` says why a conversation that was asked for by name stays; `failed` what went wrong."""

    dry_run: bool
    to: str
    looked_at: int = 0
    conversations: list[str] = field(default_factory=list[str])
    messages: int = 0
    archive_bytes: int = 0
    awaited: int = 0
    unsettled: int = 0
    awaited_by: list[str] = field(default_factory=list[str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def to_document(self) -> dict[str, Any]:
        """Return it as `motet archive --json` prints it."""
        return asdict(self)

    def add(self, outcome: Outcome) -> None:
        """Count one conversation."""
        self.looked_at += 1
        self.awaited += outcome.status == "awaited"
        self.unsettled += outcome.status == "unsettled"
        if outcome.status in _DONE:
            self.conversations.append(outcome.conversation)
            self.messages += outcome.messages
            self.archive_bytes += outcome.archive_bytes


def parse_span(text: str, option: str) -> timedelta:
    """Return how long `30d` is (s, m, h, d, w). Raises `InvalidInputError` that names the option."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise InvalidInputError(
            f"{option}: {text!r} is no length of time; write a number and s, m, h, d or w, for example 30d",
            field=option,
            value=text,
            rule="[0-9]+[smhdw]",
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


async def archive_all(bus: Bus, archiver: Archiver, order: Order, tally: Tally, tell: Callable[[Tally], None]) -> None:
    """Carry `order` out, counting in `tally`; `tell` is called after every few conversations.

    Raises `BusUnavailableError`, `NotAllowedError` and `FolderError`: nothing else could be archived either. What fails
    for one conversation alone is noted, and the others go on. Stopped at any point, the next run finishes what was
    under way.
    """
    before = await bus.journal.server_time() - order.older_than
    up_to = await _up_to(bus, tally)
    loop = asyncio.get_running_loop()
    async for some in _few(archiver, order, before):
        began = loop.time()
        room = len(some) if order.limit is None else order.limit - len(tally.conversations)
        results = await asyncio.gather(
            *(archiver.archive(one, before, up_to=up_to, dry_run=order.dry_run) for one in some[:room]),
            return_exceptions=True,
        )
        for conversation, result in zip(some, results, strict=False):
            _count(tally, order, conversation, result)
        tell(tally)
        if order.limit is not None and len(tally.conversations) >= order.limit:
            return
        await asyncio.sleep(max(0.0, began + len(some) / MOST_PER_S - loop.time()))


def _count(tally: Tally, order: Order, conversation: str, result: Outcome | BaseException) -> None:
    if isinstance(result, Outcome):
        tally.add(result)
        if order.conversations and (why := _REASONS.get(result.status)) is not None:
            tally.skipped[conversation] = why
    elif isinstance(result, MotetError) and not isinstance(
        result, BusUnavailableError | BusUnsuitableError | NotAllowedError | FolderError
    ):
        tally.looked_at += 1
        tally.failed[conversation] = result.message
    else:
        raise result


async def _few(archiver: Archiver, order: Order, before: datetime) -> AsyncGenerator[list[str]]:
    """Yield the conversations to look at, a few at a time."""
    if order.conversations:
        named = list(dict.fromkeys(order.conversations))
        for first in range(0, len(named), AT_ONCE):
            yield named[first : first + AT_ONCE]
        return
    async for page in archiver.candidates(before):
        for first in range(0, len(page), AT_ONCE):
            yield page[first : first + AT_ONCE]


async def _up_to(bus: Bus, tally: Tally) -> int | None:
    """Return the sequence up to which every consumer has had its events; None when nothing waits for any.

    Handlers of events must see what happened, however late they come. Steps that nobody took are moot once their
    conversation has ended.
    """
    steps = bus.namespace.wire("step.ready.")
    late = [
        state
        for state in await consumer_states(bus.link, bus.namespace)
        if state.durable and state.waiting and not all(name.startswith(steps) for name in state.filters)
    ]
    tally.awaited_by = [state.name for state in late]
    return min((state.acknowledged for state in late), default=None)
