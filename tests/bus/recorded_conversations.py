"""Conversations as a run records them, written straight into the stream, and archivers to kill."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from motet_bus import Client
from motet_bus.link import Link
from motet_schemas import Event, Fact, Namespace, Unreadable, encode
from tests.gateway.recorded import COMPLIANCE, TONE, Recorded


def finished(conversation: str) -> Recorded:
    """A conversation with two steps that has ended."""
    return running(conversation).done(COMPLIANCE).completed()


def running(conversation: str) -> Recorded:
    """The same, before its end."""
    return Recorded(conversation).submitted().planned().done(TONE)


def waiting(conversation: str) -> Recorded:
    """One that asks a human."""
    return running(conversation).done(COMPLIANCE, confidence=0.1).asked()


def now() -> datetime:
    """Return a time that all that is recorded lies before."""
    return datetime.now(UTC) + timedelta(seconds=60)


async def write(link: Link, namespace: Namespace, *stories: Recorded) -> None:
    """Store what the stories tell, in their order; their fences are not asked for."""
    for story in stories:
        for event in story.events:
            await write_event(link, namespace, event)


async def write_event(link: Link, namespace: Namespace, event: Event) -> int:
    """Store one event as its writer would; return its sequence."""
    assert not isinstance(event.data, Unreadable)
    fact = Fact(event.subject, event.data, id=event.id)
    headers, body = encode(fact, source=event.source, cause=event.cause)
    return (await link.publish_stored(namespace.wire(event.subject), body, headers)).seq


async def shown(client: Client, conversation: str) -> list[Event]:
    """Return what `motet show` shows: everything but the fact that it was archived."""
    return [event for event in await client.events(conversation) if event.kind != "task.archived"]


def kinds_of(events: Iterable[Event]) -> list[str]:
    """Return the kinds of events."""
    return [event.kind for event in events]


def die_at(point: str) -> None:
    """Die as `kill -9` does when the process passes the point named on its command line."""
    wanted, _, times = sys.argv[-1].partition("*")
    if point == wanted:
        _PASSED.append(point)
        if len(_PASSED) >= int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)


_PASSED: list[str] = []
