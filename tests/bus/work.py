"""Work for a puller: a conversations stream with messages, and the consumer of a worker."""

from __future__ import annotations

import asyncio

from motet_bus.link import Link
from motet_bus.pull import Puller
from motet_bus.topology import ConsumerSpec, apply_streams, ensure_consumer
from motet_schemas.subjects import Namespace


class Work:
    """A conversations stream with messages, and the consumer of a worker."""

    def __init__(self, link: Link, namespace: Namespace, *, ack_wait_s: float = 10.0) -> None:
        self.link = link
        self.spec = ConsumerSpec(
            stream=namespace.stream("CONVERSATIONS"),
            durable="worker",
            filter_subjects=(namespace.wire("step.ready.>"),),
            max_ack_pending=1000,
            ack_wait_s=ack_wait_s,
        )
        self._namespace = namespace
        self._published = 0

    async def prepare(self, number: int) -> Work:
        await apply_streams(self.link, self._namespace)
        await self.recreate()
        await self.publish(number)
        return self

    async def recreate(self) -> None:
        await ensure_consumer(self.link, self.spec)

    async def publish(self, number: int) -> None:
        first = self._published
        self._published += number
        subjects = (self._namespace.wire(f"step.ready.c1.s{n}.1.write") for n in range(first, first + number))
        await asyncio.gather(*(self.link.publish_stored(subject, b"{}", {}) for subject in subjects))

    def puller(self, *, limit: int = 10, batch: int = 5, link: Link | None = None) -> Puller:
        return Puller(
            link or self.link, self.spec.stream, self.spec.durable, limit=limit, batch=batch, recreate=self.recreate
        )

    async def state(self) -> dict[str, int]:
        found: dict[str, int] = await self.link.api(f"CONSUMER.INFO.{self.spec.stream}.{self.spec.durable}", {})
        return found

    async def delete_consumer(self) -> None:
        await self.link.api(f"CONSUMER.DELETE.{self.spec.stream}.{self.spec.durable}", {})


async def finish(puller: Puller, number: int) -> list[int]:
    """Take, acknowledge and release `number` messages; return their sequences."""
    seen: list[int] = []
    async with asyncio.timeout(20):
        while len(seen) < number:
            delivery = await puller.next()
            seen.append(delivery.stream_seq)
            await delivery.ack()
            puller.release()
    return seen
