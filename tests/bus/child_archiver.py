"""An archiver in a process of its own, which dies where it is told: URL, namespace, folder or "", ids, point."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from motet_bus import open_bus
from motet_bus.archiver import Archiver
from tests.bus.recorded_conversations import die_at, now
from tests.bus.support import options


async def main() -> None:
    """Archive what is named."""
    url, namespace, folder, conversations, _ = sys.argv[1:]
    async with open_bus(options(url), role="operator", name="archive", namespace=namespace) as bus:
        archiver = Archiver(bus, by="ann", folder=Path(folder) if folder else None, crash=die_at)
        for conversation in conversations.split(","):
            await archiver.archive(conversation, now())


if __name__ == "__main__":
    asyncio.run(main())
