"""The consumer: bounded, patient, never blocked by one bad message, and gone within ten seconds when told to stop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from motet_bus import Bus
from motet_bus.consumer import Consumer, ConsumerSettings, HandBackError
from motet_bus.delivery import Delivery
from motet_bus.link import Link
from motet_schemas import (
    BusUnavailableError,
    BusUnsuitableError,
    Event,
    Namespace,
    PermanentError,
    TransientError,
)
from tests.bus.secured import prepare_consumer
from tests.bus.servers import NatsServer, publish_raw, raw_message, until
from tests.bus.support import (
    body_of,
    bus_as,
    dead_letters,
    eventually,
    is_settled,
    kinds,
    last_of,
    outsider_writes,
    submit,
)

Act = Callable[[Event, Delivery], Awaitable[None]]


class Doing:
    """A handler that does what it is told, and remembers what it was given."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self.seen: list[str] = []
        self.deliveries: Counter[str] = Counter()
        self.running = 0
        self.most = 0

    async def handle(self, event: Event, delivery: Delivery) -> None:
        conversation = event.subject.conversation
        self.seen.append(conversation)
        self.deliveries[conversation] = max(self.deliveries[conversation], delivery.deliveries)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._act(event, delivery)
        finally:
            self.running -= 1


async def nothing(event: Event, delivery: Delivery) -> None:
    """Handle an event by doing nothing."""


@pytest.fixture
async def bus(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "specialist") as opened:
        yield opened


def settings(**changes: object) -> ConsumerSettings:
    values: dict[str, object] = {
        "durable": "tasks",
        "filters": ("task.submitted.>",),
        "concurrency": 4,
        "ack_wait_s": 1.0,
        **changes,
    }
    return ConsumerSettings(**values)  # type: ignore[arg-type]


@asynccontextmanager
async def consuming(bus: Bus, handler: Doing, **changes: object) -> AsyncGenerator[Consumer]:
    """Run a consumer until the context ends, then drain it."""
    await prepare_consumer(bus, settings(**changes))
    consumer, stop = Consumer(bus, settings(**changes), handler), asyncio.Event()
    task = asyncio.create_task(consumer.run(stop))
    try:
        yield consumer
    finally:
        stop.set()
        await task


async def submit_many(bus: Bus, count: int) -> list[str]:
    names = [f"c{number}" for number in range(count)]
    await asyncio.gather(*(submit(bus, name) for name in names))
    return names


# Each message is seen through


async def test_every_message_is_handled_once_when_all_goes_well(bus: Bus, link: Link, namespace: Namespace) -> None:
    names = await submit_many(bus, 40)
    doing = Doing(nothing)
    async with consuming(bus, doing, batch=4):
        await eventually(lambda: is_settled(link, namespace, "tasks"))
        await until(lambda: len(doing.seen) == 40)
    assert sorted(doing.seen) == sorted(names)


@pytest.mark.parametrize(("concurrency", "batch"), [(1, 0), (1, 3), (3, 0), (3, 5)])
async def test_no_more_than_allowed_run_at_once_and_no_more_than_a_batch_is_fetched_ahead(
    bus: Bus, link: Link, namespace: Namespace, concurrency: int, batch: int
) -> None:
    gate = asyncio.Event()

    async def act(event: Event, delivery: Delivery) -> None:
        await gate.wait()

    async def ack_pending() -> int:
        info = await link.api(f"CONSUMER.INFO.{namespace.stream('CONVERSATIONS')}.tasks", {})
        return int(info["num_ack_pending"])

    await submit_many(bus, 30)
    doing = Doing(act)
    async with consuming(bus, doing, concurrency=concurrency, batch=batch) as consumer:
        await until(lambda: consumer.in_flight == concurrency + batch)
        await asyncio.sleep(0.1)
        assert await ack_pending() == consumer.in_flight == concurrency + batch
        assert doing.running == concurrency
        gate.set()
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    assert doing.most == concurrency
    assert len(doing.seen) == 30


async def test_a_handler_that_takes_longer_than_the_ack_wait_is_not_handed_its_message_twice(
    bus: Bus, link: Link, namespace: Namespace
) -> None:
    async def act(event: Event, delivery: Delivery) -> None:
        await asyncio.sleep(2.5)

    await submit(bus, "c1")
    doing = Doing(act)
    async with consuming(bus, doing, ack_wait_s=1.0):
        await until(lambda: bool(doing.seen))
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    assert doing.seen == ["c1"]


async def test_what_waits_for_its_turn_is_not_redelivered_either(bus: Bus, link: Link, namespace: Namespace) -> None:
    async def act(event: Event, delivery: Delivery) -> None:
        await asyncio.sleep(0.7)

    await submit_many(bus, 4)
    doing = Doing(act)
    async with consuming(bus, doing, concurrency=1, batch=3, ack_wait_s=1.0):
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    assert max(doing.deliveries.values()) == 1


async def test_what_is_handed_back_comes_again_and_counts_as_no_failure(
    bus: Bus, link: Link, namespace: Namespace
) -> None:
    async def act(event: Event, delivery: Delivery) -> None:
        if doing.deliveries["c1"] <= 12:
            raise HandBackError(0.01)

    await submit(bus, "c1")
    doing = Doing(act)
    async with consuming(bus, doing, max_tries=3):
        await eventually(lambda: is_settled(link, namespace, "tasks"))
        await until(lambda: doing.deliveries["c1"] == 13)
    assert await dead_letters(link, namespace) == []


# What fails


async def test_a_failing_message_is_tried_with_growing_pauses_then_buried_with_all_that_helps(
    bus: Bus, link: Link, namespace: Namespace
) -> None:
    at: list[float] = []

    async def act(event: Event, delivery: Delivery) -> None:
        if event.subject.conversation == "bad":
            at.append(time.monotonic())
            raise ValueError(f"the database is shut ({len(at)})")

    bad = await submit(bus, "bad")
    doing = Doing(act)
    async with consuming(bus, doing, max_tries=3, concurrency=1):
        await until(lambda: bool(at))
        await submit(bus, "good")
        await until(lambda: "good" in doing.seen)
        assert len(at) < 3
        notice = await eventually(lambda: bus.journal.read_last("letter.dead.bad.>"))
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    assert len(at) == 3
    first, second = at[1] - at[0], at[2] - at[1]
    assert 0.1 < first < second + 0.6
    [letter] = await dead_letters(link, namespace)
    assert (letter.consumer, letter.subject, letter.sequence) == ("tasks", "task.submitted.bad.content-qa", bad.seq)
    assert (letter.deliveries, letter.instance, letter.stored_at) == (3, bus.instance, bad.time)
    assert (letter.failure.type, letter.failure.retryable) == ("ValueError", True)
    assert "the database is shut (3)" in letter.failure.message
    assert "in act" in letter.stack
    assert letter.headers["ce-id"] == bad.id
    assert b'"kind":"content-qa"' in body_of(letter)
    assert notice.subject.detail == ("tasks", str(bad.seq))
    assert notice.cause == bad.seq


async def test_a_bus_that_fails_a_handler_uses_up_no_try(bus: Bus, link: Link, namespace: Namespace) -> None:
    async def act(event: Event, delivery: Delivery) -> None:
        if delivery.deliveries < 5:
            raise BusUnavailableError("no answer", retry_after_s=0.01)

    await submit(bus, "c1")
    doing = Doing(act)
    async with consuming(bus, doing, max_tries=2):
        await until(lambda: doing.deliveries["c1"] == 5)
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    assert await dead_letters(link, namespace) == []


async def test_a_hint_when_to_try_again_is_followed(bus: Bus, link: Link, namespace: Namespace) -> None:
    at: list[float] = []

    async def act(event: Event, delivery: Delivery) -> None:
        at.append(time.monotonic())
        if len(at) == 1:
            raise TransientError("busy", retry_after_s=1.2)

    await submit(bus, "c1")
    async with consuming(bus, Doing(act)):
        await until(lambda: len(at) == 2)
    assert 1.0 < at[1] - at[0] < 2.0


async def test_a_permanent_failure_is_not_tried_again(bus: Bus, link: Link, namespace: Namespace) -> None:
    async def act(event: Event, delivery: Delivery) -> None:
        raise PermanentError("never")

    await submit(bus, "c1")
    doing = Doing(act)
    async with consuming(bus, doing):
        await eventually(lambda: bus.journal.read_last("letter.dead.c1.>"))
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    assert doing.seen == ["c1"]


RUBBISH: list[tuple[bytes, bytes, bytes]] = [
    (b"task.submitted.r1.content-qa", b"NATS/1.0\r\n\r\n", b"{"),
    (b"task.submitted.r2.content-qa", b"NATS/1.0\r\n\r\n", b'{"kind": "content-qa", "budget": 3}'),
    (b"task.submitted.r3.content-qa", b"NATS/1.0\r\n\r\n", b"[" * 5_000),
    (b"task.submitted.r4.content-qa", b"NATS/1.0\r\n\r\n", b'{"kind": "\xff"}'),
    (b"task.submitted.r6.content-qa", b"NATS/1.0\r\nodd: \xff\xfe\r\nmotet-cause: 9e9\r\n\r\n", b""),
    (b"task.submitted.r7.content-qa.too.long", b"NATS/1.0\r\n\r\n", b"{}"),
    (b"task.submitted.r8", b"NATS/1.0\r\n\r\n", b"{}"),
    (b"task.submitted.r9.content-qa", b"NATS/1.0\r\nbig: " + b"x" * 60_000 + b"\r\n\r\n", b"{"),
    (b"task.submitted.r\xc3\xa4.content-qa", b"NATS/1.0\r\n\r\n", b"{}"),
    (b"task.submitted.r11.content-qa", b"NATS/1.0\r\nmotet-body-ref: 1\r\n\r\n", b'{"name": 1}'),
]


@pytest.mark.open_server
async def test_what_does_not_parse_ends_in_the_dead_letters_with_the_reason_and_blocks_nothing(
    nats_server: NatsServer, bus: Bus, link: Link, namespace: Namespace
) -> None:
    prefix = f"{namespace.name}.".encode()
    frames = [raw_message(prefix + subject, headers, body) for subject, headers, body in RUBBISH]
    assert publish_raw(nats_server.address, *frames) == b""
    await submit(bus, "good")
    doing = Doing(nothing)
    async with consuming(bus, doing, concurrency=1):
        await until(lambda: doing.seen == ["good"])
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    letters = await dead_letters(link, namespace)
    assert len(letters) == len(RUBBISH)
    assert {letter.failure.code for letter in letters} == {"unreadable"}
    assert all(letter.failure.message and not letter.failure.retryable for letter in letters)
    assert [body_of(letter) for letter in letters] == [body for _, _, body in RUBBISH]
    assert await kinds(bus, "r2") == ["task.submitted", "letter.dead"]


async def test_a_large_dead_letter_keeps_its_body_in_the_object_store(
    bus: Bus, link: Link, namespace: Namespace
) -> None:
    body = b"x" * 600_000
    await outsider_writes(link, namespace, "task.submitted.big.content-qa", body)
    async with consuming(bus, Doing(nothing)):
        await eventually(lambda: bus.journal.read_last("letter.dead.big.>"))
    [letter] = await dead_letters(link, namespace)
    assert letter.body == ""
    assert letter.reference is not None
    assert await bus.objects.get(letter.reference) == body


async def test_rubbish_on_the_letters_own_subject_does_not_keep_the_message_alive(
    bus: Bus, link: Link, namespace: Namespace
) -> None:
    seq = await outsider_writes(link, namespace, "task.submitted.c1.content-qa")
    await outsider_writes(link, namespace, f"letter.dead.c1.tasks.{seq}")
    async with consuming(bus, Doing(nothing)):
        await eventually(lambda: is_settled(link, namespace, "tasks"))
    assert len(await dead_letters(link, namespace)) == 1


# Stopping


async def test_a_drain_finishes_what_runs_and_hands_back_what_has_not_begun(
    bus: Bus, link: Link, namespace: Namespace
) -> None:
    begun = asyncio.Event()

    async def act(event: Event, delivery: Delivery) -> None:
        begun.set()
        await asyncio.sleep(0.5)

    await submit_many(bus, 6)
    slow, quick = Doing(act), Doing(nothing)
    async with consuming(bus, slow, concurrency=1, batch=4, ack_wait_s=30.0):
        await asyncio.wait_for(begun.wait(), 10)
        await asyncio.sleep(0.05)
    assert len(slow.seen) == 1
    assert slow.running == 0
    started = time.monotonic()
    async with consuming(bus, quick, ack_wait_s=30.0):
        await until(lambda: len(quick.seen) == 5)
    assert time.monotonic() - started < 5  # at once, not after the ack wait
    assert not set(slow.seen) & set(quick.seen)


async def test_a_drain_ends_within_ten_seconds_and_hands_back_what_does_not(
    bus: Bus, link: Link, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motet_bus.consumer.GRACE_S", 0.3)
    begun = asyncio.Event()

    async def act(event: Event, delivery: Delivery) -> None:
        begun.set()
        await asyncio.sleep(60)

    await submit(bus, "c1")
    started = time.monotonic()
    async with consuming(bus, Doing(act), ack_wait_s=30.0):
        await asyncio.wait_for(begun.wait(), 10)
    assert time.monotonic() - started < 3
    quick = Doing(nothing)
    async with consuming(bus, quick, ack_wait_s=30.0):
        await until(lambda: quick.seen == ["c1"])


def test_the_grace_of_a_drain_leaves_room_within_ten_seconds() -> None:
    from motet_bus.consumer import GRACE_S

    assert GRACE_S + 1.5 < 10


# Server and consumer that go away


async def test_a_consumer_goes_on_when_its_server_was_killed(own_server: NatsServer) -> None:
    space = Namespace("killed")
    async with bus_as(own_server.url, space, "specialist") as bus:
        doing = Doing(nothing)
        async with consuming(bus, doing):
            await submit(bus, "c1")
            await until(lambda: "c1" in doing.seen)
            own_server.restart()
            await submit(bus, "c2")
            await until(lambda: "c2" in doing.seen, within_s=20)


@pytest.mark.open_server
async def test_a_consumer_that_somebody_deleted_is_made_again(bus: Bus, link: Link, namespace: Namespace) -> None:
    doing = Doing(nothing)
    async with consuming(bus, doing):
        await submit(bus, "c1")
        await until(lambda: "c1" in doing.seen)
        await link.api(f"CONSUMER.DELETE.{namespace.stream('CONVERSATIONS')}.tasks", {})
        await submit(bus, "c2")
        await until(lambda: "c2" in doing.seen, within_s=20)


@pytest.mark.open_server
async def test_a_durable_consumer_that_somebody_made_otherwise_is_refused_not_altered(
    bus: Bus, link: Link, namespace: Namespace
) -> None:
    async with consuming(bus, Doing(nothing)) as first:
        await asyncio.wait_for(first.started.wait(), 10)
    other = Consumer(bus, settings(ack_wait_s=7.0), Doing(nothing))
    with pytest.raises(BusUnsuitableError, match="ack_wait"):
        await other.run(asyncio.Event())
    assert (await last_of(bus, str((await submit(bus, "c9")).subject))).kind == "task.submitted"
