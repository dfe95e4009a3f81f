"""What the secured configuration costs a hop: take a message, publish its result behind a fence, acknowledge it.

`python -m benchmarks.secured` does it in turn on an open server, on one that adds TLS, and on one with TLS, keys and
an account for each role, where the worker has the rights of an executor; prints one JSON object with the ratios.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.hop import BODY, FENCE, IN_FLIGHT
from tests.bus.secured import EveryNamespace, god_info, options_as, principals, secured_config
from tests.bus.servers import NatsServer

from motet_bus.connect import connect
from motet_bus.link import Link
from motet_bus.pull import Puller
from motet_bus.topology import ConsumerSpec, apply_streams, conversations_stream, ensure_consumer
from motet_schemas import Namespace

HOPS: Final = 5_000
ROUNDS: Final = 3


async def hops_per_s(server: NatsServer, run: str) -> float:
    """Return hops a second of one worker, as an executor where there are roles."""
    space = Namespace(run)
    above = await connect(options_as(server.url, "god", None))
    await apply_streams(above, space)
    stream, durable = conversations_stream(space).name, "step-work"
    ready = space.wire("step.ready.*.*.*.work")
    spec = ConsumerSpec(stream=stream, durable=durable, filter_subjects=(ready,), max_ack_pending=1_000)
    await ensure_consumer(above, spec)
    for first in range(0, HOPS, 500):
        names = [space.wire(f"step.ready.c{number}.s.1.work") for number in range(first, first + 500)]
        await asyncio.gather(*(above.publish_stored(name, BODY, {}) for name in names))
    worker = await connect(options_as(server.url, "worker", "executor"))
    try:
        return await _work(worker, stream, durable, space)
    finally:
        await worker.close()
        await above.close()


async def _work(link: Link, stream: str, durable: str, space: Namespace) -> float:
    puller = Puller(link, stream, durable, limit=IN_FLIGHT, batch=IN_FLIGHT // 2)
    counter = itertools.count(1)

    async def work() -> None:
        while next(counter) <= HOPS:
            delivery = await puller.next()
            out = space.wire(f"step.executed.{delivery.subject.split('.')[3]}.s.1")
            await link.publish_stored(out, delivery.body, {"Nats-Msg-Id": out, **FENCE})
            await delivery.ack()
            puller.release()

    await puller.start()
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    elapsed_s = time.perf_counter() - began
    await puller.stop()
    return HOPS / elapsed_s


async def measure() -> dict[str, object]:
    """Return the median of each server's hops a second, measured in turn, and what is left of the open one's."""
    with tempfile.TemporaryDirectory() as folder:
        rooms = {name: Path(folder) / name for name in ("open", "tls", "secured")}
        for room in rooms.values():
            room.mkdir()
        secured = secured_config(rooms["secured"], principals(), EveryNamespace())
        tls = {"cert_file": str(rooms["secured"] / "server.pem"), "key_file": str(rooms["secured"] / "server.key")}
        servers = {
            "open": NatsServer(rooms["open"]),
            "tls": NatsServer(rooms["tls"], config=f"tls: {json.dumps(tls)}", scheme="tls"),
            "secured": NatsServer(rooms["secured"], config=secured, user_info=god_info(rooms["secured"]), scheme="tls"),
        }
        found: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(ROUNDS):
            for name, server in servers.items():
                with server:
                    found[name].append(await hops_per_s(server, f"r{number}"))
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    return {
        "hops_per_s": {name: round(rate) for name, rate in medians.items()},
        "of_open": {name: round(rate / medians["open"], 2) for name, rate in medians.items()},
        "settings": {"hops": HOPS, "rounds": ROUNDS, "in_flight": IN_FLIGHT, "body_bytes": len(BODY)},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure())) + "\n")
