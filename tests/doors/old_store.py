"""A store as an older Motet left it, recorded message by message, and put on a new server."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from motet_bus import Bus
from tests.schemas.histories import FOLDER

STORE: Final = FOLDER / "stores" / "ec47ea4.jsonl"
CONVERSATION: Final = "by-motet-0-1"
_BUCKET: Final = "$O.motet-objects."


@dataclass(frozen=True)
class Kept:
    """One message of the old store."""

    stream: str
    subject: str
    headers: dict[str, str]
    body: bytes


def kept(path: Path = STORE) -> list[Kept]:
    """Return the old store's messages in order."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Kept(one["stream"], one["subject"], one["headers"], base64.b64decode(one["body"])) for one in lines]


async def put_on(bus: Bus, messages: list[Kept]) -> None:
    """Store the messages on today's streams as they were: subject, body, and the headers that are not the server's."""
    for message in messages:
        own = {name: value for name, value in message.headers.items() if not name.startswith("Nats-")}
        if message.subject.startswith(_BUCKET):
            wire = f"$O.{bus.namespace.bucket('motet-objects')}.{message.subject.removeprefix(_BUCKET)}"
        else:
            wire = bus.namespace.wire(message.subject)
        await bus.link.publish_stored(wire, message.body, own)
