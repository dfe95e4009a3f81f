"""Writers that race for facts all the time, and the check of what is owed to them afterwards."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from motet_bus import Bus, Role
from motet_bus.bus import open_bus
from motet_schemas import ConflictError, Fact, Namespace, TaskCancel
from motet_schemas.subjects import build
from tests.bus.servers import until
from tests.bus.support import options, stored
from tests.cluster.nodes import Cluster

PATIENCE_S = 60.0


@asynccontextmanager
async def on_node(cluster: Cluster, namespace: Namespace, role: Role, *nodes: str) -> AsyncGenerator[Bus]:
    """A bus in `role`, connected to one of the nodes (all by default), on streams with three copies."""
    url = ",".join(cluster.nodes[node].url for node in nodes) or cluster.url
    how = replace(options(url), replicas=3)
    async with open_bus(how, role=role, name=role, namespace=namespace.name) as bus:
        yield bus


@dataclass
class Load:
    """Clients that write the same facts at the same time: of each, one is recorded."""

    namespace: Namespace
    acknowledged: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])
    refused: Counter[str] = field(default_factory=Counter[str])
    waits_s: list[float] = field(default_factory=list[float])
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, bus: Bus) -> None:
        """Append fact after fact until told to stop; whoever is refused goes on with the next."""
        for number in itertools.count():
            if self.stop.is_set():
                return
            fact = Fact(build("task.cancel", f"c{number}", "race"), TaskCancel(requested_by=bus.instance))
            began = time.monotonic()
            try:
                seq = await bus.journal.append(fact, patience_s=PATIENCE_S)
            except ConflictError:
                self.refused[str(fact.subject)] += 1
            else:
                assert str(fact.subject) not in self.acknowledged, "two writers were told that theirs is recorded"
                self.acknowledged[str(fact.subject)] = (seq, fact.id)
            self.waits_s.append(time.monotonic() - began)
            await asyncio.sleep(0.005)

    async def goes_on(self, *, by: int = 50, within_s: float = 40.0) -> None:
        """Wait until that many more facts are acknowledged."""
        before = len(self.acknowledged)
        await until(lambda: len(self.acknowledged) >= before + by, within_s=within_s)

    async def check(self, bus: Bus) -> None:
        """Assert that what was acknowledged is there, once, where it was said to be, and nothing else is."""
        last = max(seq for seq, _ in self.acknowledged.values())
        await bus.journal.read_kind("task.>", at_least=last)
        found = await stored(bus.link, self.namespace, "task.>")
        twice = [name for name, times in Counter(message.subject for message in found).items() if times > 1]
        assert twice == []
        there = {self.namespace.strip(message.subject): (message.seq, message.headers["ce-id"]) for message in found}
        lost = {name: told for name, told in self.acknowledged.items() if there.get(name) != told}
        assert lost == {}
        # Whoever was refused was so because another's fact is there, told or not.
        assert set(self.refused) <= set(there)


@asynccontextmanager
async def writing(cluster: Cluster, namespace: Namespace, nodes: list[list[str]]) -> AsyncGenerator[Load]:
    """One writer for each list of nodes that it may be connected to; at the end all have come to rest."""
    load = Load(namespace)
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(on_node(cluster, namespace, "client", *one)) for one in nodes]
        tasks = [asyncio.create_task(load.write(bus)) for bus in buses]
        try:
            yield load
        finally:
            load.stop.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
