"""An upload that never ends, under an entry that says little: read in a process whose memory is measured."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets

from motet_bus import ConnectOptions, open_bus
from motet_schemas import MotetError, Reference


def read_a_flood(url: str) -> str:
    """Store 80 MB of chunks under an entry that says 5 MB; return what reading the object raised."""
    return asyncio.run(_read_a_flood(url))


async def _read_a_flood(url: str) -> str:
    namespace = f"t-{secrets.token_hex(6)}"
    async with open_bus(ConnectOptions(url=url), role="executor", name="reader", namespace=namespace) as bus:
        bucket, name = bus.namespace.bucket("motet-objects"), "c" * 64
        chunk = b"x" * 1_000_000
        for _ in range(8):
            sending = (bus.link.publish_stored(f"$O.{bucket}.C.flood", chunk, {}) for _ in range(10))
            await asyncio.gather(*sending)
        entry = {"nuid": "flood", "size": 5_000_000, "chunks": 80, "name": name}
        subject = f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
        await bus.link.publish_stored(subject, json.dumps(entry).encode(), {})
        try:
            await bus.objects.get(Reference(name=name, sha256=name, size_bytes=5_000_000))
        except MotetError as error:
            return type(error).__name__
        finally:
            await bus.link.api(f"STREAM.DELETE.OBJ_{bucket}", {})
    return "nothing"
