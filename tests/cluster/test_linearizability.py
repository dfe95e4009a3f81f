"""Histories of concurrent appends to a replicated stream: sequential under equal fences, also when leaders die."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from motet_bus import Bus
from motet_schemas import Namespace
from tests.bus.appending import Writer, order_of
from tests.bus.sequential import Append
from tests.bus.support import new_conversation
from tests.cluster.load import on_node
from tests.cluster.nodes import NAMES, Cluster, in_step, leader_of

pytestmark = pytest.mark.slow

EQUAL_FENCES = ("contested", "renewal")


async def write(
    cluster: Cluster, namespace: Namespace, kinds: Sequence[str], number: int, *, kills: int = 0, seed: int = 0
) -> tuple[list[Append], list[Append] | None]:
    """Have a writer on each node append to one conversation; return what they did, and an order that explains it."""
    conversation = new_conversation()
    async with AsyncExitStack() as stack:
        buses: list[Bus] = []
        for node in NAMES:
            nodes = [node, *cluster.others(node)] if kills else [node]
            buses.append(await stack.enter_async_context(on_node(cluster, namespace, "specialist", *nodes)))
        stream = namespace.stream("CONVERSATIONS")
        await in_step(buses[0].link, stream)
        rngs = [random.Random(10 * seed + number) for number in range(len(buses))]  # noqa: S311
        writers = [Writer(bus, conversation, rng, kinds) for bus, rng in zip(buses, rngs, strict=True)]
        writing = [asyncio.create_task(writer.write(number)) for writer in writers]
        for _ in range(kills):
            await asyncio.sleep(0.05)
            dead = await leader_of(buses[0].link, stream)
            cluster.nodes[dead].restart()
            await in_step(buses[0].link, stream)
        await asyncio.gather(*writing)
        operations = [one for writer in writers for one in writer.operations]
        return operations, await order_of(buses[0], conversation, operations)


async def test_appends_under_equal_fences_have_an_order_that_explains_every_answer(
    cluster: Cluster, namespace: Namespace
) -> None:
    operations, order = await write(cluster, namespace, EQUAL_FENCES, 60)
    assert order is not None
    assert {one.answer for one in operations} == {"recorded", "refused"}


@pytest.mark.chaos
async def test_appends_under_overlapping_fences_have_none(cluster: Cluster, namespace: Namespace) -> None:
    """The search says no to the real thing. `fold` makes decisions that passed so void; see test_fences.py."""
    for seed in range(20):
        _, order = await write(cluster, namespace, ("contested", "renewal", "decision"), 60, seed=seed)
        if order is None:
            return
    raise AssertionError("overlapping fences exclude each other on replicated streams now")


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
async def test_appends_have_an_order_although_the_leader_is_killed_again_and_again(
    tmp_path: Path, namespace: Namespace, seed: int
) -> None:
    with Cluster(tmp_path / "cluster") as own:
        await own.ready()
        operations, order = await write(own, namespace, EQUAL_FENCES, 1_000, kills=3, seed=seed)
    assert order is not None
    assert max(one.answered - one.invoked for one in operations) > 1, "nobody waited for an election"
