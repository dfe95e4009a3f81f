"""What finished conversations cost the server, and what archiving them gives back.

`python -m benchmarks.archive [--conversations N] [--to DIR]` fills a private server, archives everything with the
real command, and prints one JSON object: memory, disk and the time of a restart, before and after, and the speed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tests.gateway.recorded import COMPLIANCE, TONE, Recorded

from motet_bus import Bus, ConnectOptions, open_bus
from motet_bus.archiver import Archiver
from motet_bus.embedded import EmbeddedServer, start_embedded
from motet_bus.fences import EXPECTED_SEQUENCE
from motet_gateway.archiving import Order, Tally, archive_all
from motet_observability import set_up_logs
from motet_schemas import Fact, Handled, Manifest, PlanStep, Unreadable, encode
from motet_schemas.subjects import handled

SMALL: Final = 500
LINKS: Final = PlanStep(id="links", capability="links", goal="Check links", manifest=Manifest(objective="links work"))
_AT_ONCE: Final = 40
_FENCE: Final = {EXPECTED_SEQUENCE: "0"}


async def fill(bus: Bus, conversations: int) -> int:
    """Record so many finished conversations, some at the same time; return the number of messages."""
    story = Recorded("id").submitted().planned().done(TONE).done(COMPLIANCE).done(LINKS)
    for cause in (1, 3, 7, 11):  # as many records of decisions as a real run makes
        story.store(handled("orchestrator", "id", cause), Handled())
    messages = [
        (str(event.subject), *encode(Fact(event.subject, event.data), source=event.source, cause=event.cause))
        for event in story.completed().events
        if not isinstance(event.data, Unreadable)
    ]
    for first in range(0, conversations, _AT_ONCE):
        ids = [f"c-{number:08}" for number in range(first, min(first + _AT_ONCE, conversations))]
        for subject, headers, body in messages:
            sending = (
                bus.link.publish_stored(subject.replace(".id.", f".{one}."), body, {**headers, **_FENCE}, timeout_s=60)
                for one in ids
            )
            await asyncio.gather(*sending)
    return conversations * len(messages)


async def look(server: EmbeddedServer) -> dict[str, Any]:
    """Restart the server and return what it costs then: seconds to serve, megabytes of memory and of disk."""
    before_mb = _memory_mb(server.pid)
    directory = server.store
    await server.stop()
    began = time.perf_counter()
    again = await start_embedded(directory)
    async with again:
        async with open_bus(ConnectOptions(url=again.url), role="client", name="look") as bus:
            info = await bus.link.api(f"STREAM.INFO.{bus.journal.stream}", {}, timeout_s=60)
        restart_s = time.perf_counter() - began
        state = info["state"]
        return {
            "memory_mb": before_mb,
            "memory_after_restart_mb": _memory_mb(again.pid),
            "restart_s": round(restart_s, 2),
            "disk_mb": _disk_mb(directory),
            "messages": state["messages"],
            "subjects": state["num_subjects"],
        }


def _memory_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024)


def _disk_mb(directory: Path) -> int:
    return round(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6)


async def measure(conversations: int, folder: Path | None) -> dict[str, Any]:
    """Return the figures for so many conversations."""
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        async with await start_embedded(store) as server:
            empty_mb = _memory_mb(server.pid)
            async with open_bus(ConnectOptions(url=server.url), role="client", name="fill") as bus:
                began = time.perf_counter()
                messages = await fill(bus, conversations)
                fill_s = time.perf_counter() - began
            before = await look(server)
        async with await start_embedded(store) as server:
            options = ConnectOptions(url=server.url)
            async with open_bus(options, role="operator", name="archive") as bus:
                tally = Tally(dry_run=False, to=str(folder or "object store"))
                began = time.perf_counter()
                order = Order(older_than=timedelta())
                await archive_all(bus, Archiver(bus, by="benchmark", folder=folder), order, tally, lambda _: None)
                archive_s = time.perf_counter() - began
            after = await look(server)
    return {
        "conversations": conversations,
        "messages": messages,
        "to": tally.to,
        "empty_server_memory_mb": empty_mb,
        "before": before,
        "after": after,
        "archived": len(tally.conversations),
        "failed": len(tally.failed),
        "archive_mb": round(tally.archive_bytes / 1e6, 1),
        "fill_s": round(fill_s, 1),
        "archive_s": round(archive_s, 1),
        "conversations_per_s": round(len(tally.conversations) / archive_s, 1),
    }


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=SMALL)
    parser.add_argument("--to", type=Path, default=None)
    given = parser.parse_args()
    set_up_logs("warning", "console")
    sys.stdout.write(json.dumps(asyncio.run(measure(given.conversations, given.to)), indent=2) + "\n")


if __name__ == "__main__":
    main()
