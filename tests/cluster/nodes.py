"""A cluster of nats-servers on loopback: nodes are killed, started again, cut off from the others, and healed."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any, Final

from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_schemas import MotetError
from tests.bus.servers import NatsServer, free_port, until
from tests.cluster.routes import Routes

NAMES: Final = ("n1", "n2", "n3")
SETTLE_S: Final = 40.0
"""How long an election may take: a follower waits 4 to 9 s before it stands for one."""


class Cluster:
    """Three nodes with JetStream. With `partitions`, routes go through proxies, so that nodes can be cut off."""

    def __init__(self, directory: Path, *, partitions: bool = False) -> None:
        self._ports = {name: free_port() for name in NAMES}
        self.routes = Routes(self._ports) if partitions else None
        self.nodes = {name: NatsServer(directory / name, config=self._config(name)) for name in NAMES}

    @property
    def url(self) -> str:
        """All nodes, as `MOTET_NATS_URL` names them."""
        return ",".join(node.url for node in self.nodes.values())

    def _config(self, name: str) -> str:
        others = [other for other in NAMES if other != name]
        if self.routes is None:
            routes = [f"nats-route://127.0.0.1:{self._ports[other]}" for other in others]
        else:
            routes = [f"nats-route://127.0.0.1:{self.routes.port(name, other)}" for other in others]
        block = {
            "name": "test",
            "listen": f"127.0.0.1:{self._ports[name]}",
            "routes": routes,
            "no_advertise": True,  # a client knows the nodes that it was told, and no others
            "pool_size": -1,
        }
        if self.routes is not None:
            block["advertise"] = f"127.0.0.1:{free_port()}"  # whoever hears of a node from another reaches nobody
        return f"server_name: {name}\ncluster: {json.dumps(block)}"

    def start(self) -> Cluster:
        """Start all nodes; see `ready`."""
        if self.routes is not None:
            self.routes.start()
        for node in self.nodes.values():
            node.start()
        return self

    def kill(self) -> None:
        """End everything."""
        for node in self.nodes.values():
            node.kill()
        if self.routes is not None:
            self.routes.stop()

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def others(self, name: str) -> list[str]:
        """The names of the other nodes."""
        return [other for other in NAMES if other != name]

    async def link(self, *names: str) -> Link:
        """Connect to one of the nodes named (all by default)."""
        url = ",".join(self.nodes[name].url for name in names or NAMES)
        return await connect(ConnectOptions(url=url, name="cluster test"))

    async def ready(self) -> None:
        """Wait until JetStream of all nodes has a leader and knows its peers."""
        for name in NAMES:
            link = await self.link(name)
            try:
                await until(partial(answers, link), within_s=SETTLE_S)
            finally:
                await link.close()


async def answers(link: Link) -> bool:
    """Say whether JetStream of the connected node answers: the cluster has elected who leads it."""
    try:
        await link.api("INFO", {}, timeout_s=1)
    except MotetError:
        return False
    return True


async def stream_info(link: Link, stream: str) -> dict[str, Any] | None:
    """Return what the stream's leader says of it, None when nobody leads."""
    try:
        return await link.api(f"STREAM.INFO.{stream}", {}, timeout_s=1)
    except MotetError:
        return None


async def leader_of(link: Link, stream: str) -> str:
    """Wait until the stream has a leader; its name."""
    found: list[str] = []

    async def led() -> bool:
        info = await stream_info(link, stream)
        if info is not None and (name := info["cluster"].get("leader")):
            found.append(name)
        return bool(found)

    await until(led, within_s=SETTLE_S)
    return found[0]


async def in_step(link: Link, stream: str) -> None:
    """Wait until all replicas are there and hold what the leader holds."""

    async def current() -> bool:
        info = await stream_info(link, stream)
        replicas: list[dict[str, Any]] = info["cluster"].get("replicas", []) if info is not None else []
        return len(replicas) == len(NAMES) - 1 and all(
            one["current"] and not one.get("offline") and not one.get("lag") for one in replicas
        )

    await until(current, within_s=SETTLE_S)


async def move_leader(link: Link, stream: str, name: str) -> None:
    """Have another node lead the stream."""

    async def moved() -> bool:
        if await leader_of(link, stream) == name:
            return True
        try:
            await link.api(f"STREAM.LEADER.STEPDOWN.{stream}", {"placement": {"preferred": name}}, timeout_s=1)
        except MotetError:
            await asyncio.sleep(0.1)
        return False

    await until(moved, within_s=SETTLE_S)
