"""What durability costs: facts a second behind a fence, by how often the server syncs and how many nodes keep them.

`python -m benchmarks.durability` writes through the bus's Link on servers side by side, in turn within each round, and
prints one JSON object: medians, and each as a share of one node that syncs ten times a second.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from motet_bus.connect import ConnectOptions, connect
from motet_bus.embedded import find_nats_server
from motet_bus.fences import EXPECTED_FILTER, EXPECTED_SEQUENCE
from motet_bus.link import Link
from motet_schemas import BusUnavailableError

FACTS: Final = 500
IN_FLIGHT: Final = (1, 50)
ROUNDS: Final = 5
BODY: Final = b"x" * 600
STREAM: Final = "FACTS"
BASE: Final = "1 node, 100ms"


@dataclass(frozen=True)
class Setting:
    """How many nodes keep each fact, and how often each of them syncs."""

    nodes: int
    sync_interval: str

    @property
    def name(self) -> str:
        """What the setting is called in the figures."""
        return f"{self.nodes} node{'s' if self.nodes > 1 else ''}, {self.sync_interval}"


SETTINGS: Final = tuple(Setting(nodes, interval) for nodes in (1, 3) for interval in ("2m", "100ms", "always"))


@asynccontextmanager
async def serving(setting: Setting, directory: Path) -> AsyncGenerator[Link]:
    """Run the nodes of a setting; a link to the one that leads the stream."""
    ports, route_ports = [_free_port() for _ in range(setting.nodes)], [_free_port() for _ in range(setting.nodes)]
    async with AsyncExitStack() as stack:
        for number, (port, route_port) in enumerate(zip(ports, route_ports, strict=True)):
            config = _config(setting, directory / str(number), number, port, route_port, route_ports)
            await stack.enter_async_context(_node(config))
        link, leader = await _create(setting, ports)
        await link.close()
        # One hop less: the writer talks to the node that leads.
        led = await connect(ConnectOptions(url=f"nats://127.0.0.1:{ports[leader]}"))
        yield led
        await led.close()


@asynccontextmanager
async def _node(config: Path) -> AsyncGenerator[None]:
    with (config.parent / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(find_nats_server(), "-c", config, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


def _config(setting: Setting, directory: Path, number: int, port: int, route_port: int, route_ports: list[int]) -> Path:
    directory.mkdir(parents=True)
    lines: dict[str, Any] = {
        "server_name": f"n{number}",
        "listen": f"127.0.0.1:{port}",
        "jetstream": {"store_dir": str(directory / "store"), "sync_interval": setting.sync_interval},
    }
    if setting.nodes > 1:
        routes = [f"nats-route://127.0.0.1:{one}" for one in route_ports]
        lines["cluster"] = {"name": "bench", "listen": f"127.0.0.1:{route_port}", "routes": routes}
    path = directory / "server.conf"
    path.write_text(json.dumps(lines))
    return path


async def _create(setting: Setting, ports: list[int]) -> tuple[Link, int]:
    link = await connect(ConnectOptions(url=f"nats://127.0.0.1:{ports[0]}"))
    config = {"name": STREAM, "subjects": ["fact.>"], "num_replicas": setting.nodes, "allow_direct": True}
    async with asyncio.timeout(60):
        while True:
            try:
                await link.api(f"STREAM.CREATE.{STREAM}", config, timeout_s=2)
                info = await link.api(f"STREAM.INFO.{STREAM}", {}, timeout_s=2)
            except BusUnavailableError:
                await asyncio.sleep(0.2)
                continue
            leader = str(info.get("cluster", {}).get("leader") or "n0")
            return link, int(leader[1:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def facts_per_s(link: Link, in_flight: int) -> float:
    """Record facts, each behind a fence on its conversation, so many at a time; how many a second."""
    run = secrets.token_hex(4)
    numbers = iter(range(FACTS))

    async def write() -> None:
        for number in numbers:
            fence = {EXPECTED_SEQUENCE: "0", EXPECTED_FILTER: f"fact.*.{run}-{number}"}
            await link.publish_stored(f"fact.said.{run}-{number}", BODY, fence, timeout_s=30)

    began = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(in_flight)))
    return FACTS / (time.perf_counter() - began)


async def measure() -> dict[str, Any]:
    """Return the medians of all rounds, and of the ratios within each round."""
    rates: dict[str, dict[int, list[float]]] = {one.name: {number: [] for number in IN_FLIGHT} for one in SETTINGS}
    with tempfile.TemporaryDirectory() as directory:
        async with AsyncExitStack() as stack:
            links = {
                one.name: await stack.enter_async_context(serving(one, Path(directory) / str(place)))
                for place, one in enumerate(SETTINGS)
            }
            for _ in range(ROUNDS):
                for number in IN_FLIGHT:
                    for name, link in links.items():
                        rates[name][number].append(await facts_per_s(link, number))
    return {
        "facts_per_s": {
            name: {f"{number} at a time": round(statistics.median(rates[name][number])) for number in IN_FLIGHT}
            for name in rates
        },
        "share": {
            name: {f"{number} at a time": _share(rates[name][number], rates[BASE][number]) for number in IN_FLIGHT}
            for name in rates
        },
        "settings": {"facts": FACTS, "rounds": ROUNDS, "body_bytes": len(BODY)},
    }


def _share(rates: list[float], base: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(rates, base, strict=True)), 3)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure()), indent=2) + "\n")
