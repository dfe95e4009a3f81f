"""How fast is one hop: take a message, handle nothing, publish its result behind a fence, acknowledge it.

`python -m benchmarks.hop` does it through the bus's Link and Puller and, in turn with that, on nats-py bare
with the least that can do the job (the limit of the client), and prints one JSON object with both and their ratio.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from motet_bus.connect import ConnectOptions, connect
from motet_bus.embedded import start_embedded
from motet_bus.link import Link
from motet_bus.pull import Puller
from motet_bus.topology import ConsumerSpec, ensure_consumer

IN_FLIGHT: Final = 100
HOPS: Final = 5_000
ROUNDS: Final = 3
BODY: Final = b"x" * 300
STREAM: Final = "HOPS"
FENCE: Final = {"Nats-Expected-Last-Subject-Sequence": "0"}


async def hop_through_the_bus(link: Link, run: str) -> float:
    """Return hops a second with Link and Puller."""
    await _prepare(link, run)
    puller = Puller(link, STREAM, run, limit=IN_FLIGHT, batch=IN_FLIGHT // 2)
    counter = itertools.count(1)

    async def work() -> None:
        while next(counter) <= HOPS:
            delivery = await puller.next()
            out = delivery.subject.replace(".in.", ".out.")
            await link.publish_stored(out, delivery.body, {"Nats-Msg-Id": out, **FENCE})
            await delivery.ack()
            puller.release()

    await puller.start()
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    elapsed_s = time.perf_counter() - began
    await puller.stop()
    return HOPS / elapsed_s


class BareHop:
    """The least that hops on nats-py's connection: two inboxes and callbacks, no reconnect."""

    def __init__(self, client: Client, run: str) -> None:
        self._client, self._run = client, run
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._taken: dict[str, Msg] = {}
        self._tokens = itertools.count(1)
        self._done = 0
        self._asked = 0
        self._finished = asyncio.Event()

    async def run(self) -> float:
        """Return hops a second."""
        subscribe = cast("Callable[..., Awaitable[Subscription]]", self._client.subscribe)  # pyright: ignore[reportUnknownMemberType]
        unbounded = {"pending_msgs_limit": 0, "pending_bytes_limit": 0}
        work = await subscribe(f"{self._inbox}.work", cb=self._on_work, **unbounded)
        acks = await subscribe(f"{self._inbox}.ack.*", cb=self._on_ack, **unbounded)
        began = time.perf_counter()
        await self._ask(IN_FLIGHT)
        await self._finished.wait()
        elapsed_s = time.perf_counter() - began
        await work.unsubscribe()
        await acks.unsubscribe()
        return HOPS / elapsed_s

    async def _ask(self, number: int) -> None:
        request = json.dumps({"batch": number, "expires": 30_000_000_000}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._run}"
        await self._client.publish(subject, request, reply=f"{self._inbox}.work")

    async def _on_work(self, message: Msg) -> None:
        token = str(next(self._tokens))
        self._taken[token] = message
        out = message.subject.replace(".in.", ".out.")
        await self._client.publish(
            out, message.data, reply=f"{self._inbox}.ack.{token}", headers={"Nats-Msg-Id": out, **FENCE}
        )

    async def _on_ack(self, message: Msg) -> None:
        if "error" in json.loads(message.data):
            raise RuntimeError(message.data)
        await self._client.publish(self._taken.pop(message.subject.rpartition(".")[2]).reply, b"")
        self._done += 1
        if self._done % (IN_FLIGHT // 2) == 0:
            await self._ask(IN_FLIGHT // 2)
        if self._done >= HOPS:
            self._finished.set()


async def _prepare(link: Link, run: str) -> None:
    await ensure_consumer(
        link,
        ConsumerSpec(stream=STREAM, durable=run, filter_subjects=(f"hop.{run}.in.*",), max_ack_pending=10 * IN_FLIGHT),
    )
    for first in range(0, HOPS, 1000):
        await asyncio.gather(
            *(link.publish_stored(f"hop.{run}.in.{number}", BODY, {}) for number in range(first, first + 1000))
        )


async def measure() -> dict[str, Any]:
    """Run both in turn and return the figures: hops a second (median of the rounds) and their ratio."""
    bus: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        async with await start_embedded(Path(directory) / "store") as server:
            link = await connect(ConnectOptions(url=server.url))
            await link.api(f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": ["hop.>"]})
            client = Client()
            await client.connect(server.url)
            for number in range(ROUNDS):
                bus.append(await hop_through_the_bus(link, f"bus{number}"))
                await _prepare(link, f"bare{number}")
                bare.append(await BareHop(client, f"bare{number}").run())
            await client.close()
            await link.close()
    return {
        "bus_hops_per_s": round(statistics.median(bus)),
        "bare_hops_per_s": round(statistics.median(bare)),
        "ratio": round(statistics.median(a / b for a, b in zip(bus, bare, strict=True)), 3),
        "settings": {"in_flight": IN_FLIGHT, "hops": HOPS, "rounds": ROUNDS, "body_bytes": len(BODY)},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure())) + "\n")
