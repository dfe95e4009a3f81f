"""The puller against a real server: its bound, its end, and what its deliveries can do."""

from __future__ import annotations

import asyncio

import pytest

from motet_bus import pull
from motet_bus.answers import ClosedError
from motet_bus.connect import ConnectOptions, connect
from motet_bus.delivery import Delivery
from motet_bus.link import Link
from motet_bus.pull import Puller
from motet_schemas.errors import (
    BusUnavailableError,
    InvalidInputError,
)
from motet_schemas.subjects import Namespace
from tests.bus.servers import NatsServer, until
from tests.bus.work import Work, finish

# The bound


async def test_what_is_held_and_asked_for_never_exceeds_the_limit(work: Work) -> None:
    await work.publish(200)
    puller = work.puller(limit=7, batch=3)
    await puller.start()
    most = 0
    held: list[Delivery] = []
    done = 0
    while done < 200:
        held.append(await puller.next())
        most = max(most, puller.held + puller.asked)
        assert puller.held + puller.asked <= 7
        if len(held) == 7 or done + len(held) == 200:
            for delivery in held:
                await delivery.ack()
                puller.release()
                assert puller.held + puller.asked <= 7
                done += 1
            held.clear()
    assert most == 7
    await puller.stop()


async def test_nothing_more_is_taken_while_all_is_held(work: Work) -> None:
    await work.publish(20)
    puller = work.puller(limit=4, batch=4)
    await puller.start()
    first = [await puller.next() for _ in range(4)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await puller.next()
    assert (await work.state())["num_ack_pending"] == 4
    for delivery in first:
        await delivery.ack()
        puller.release()
    assert len(await finish(puller, 16)) == 16
    await puller.stop()


async def test_answers_to_pulls_that_were_given_up_do_not_break_the_bound(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "_SILENCE_S", 0.05)
    monkeypatch.setattr(pull, "_TICK_S", 0.05)
    puller = work.puller(limit=2, batch=2)
    await puller.start()

    async def pulls_pile_up() -> bool:
        return (await work.state())["num_waiting"] >= 3

    await until(pulls_pile_up)
    await work.publish(30)
    seen: set[int] = set()
    async with asyncio.timeout(20):
        while len(seen) < 30:
            delivery = await puller.next()
            assert puller.held <= 2
            seen.add(delivery.stream_seq)
            await delivery.ack()
            puller.release()
    await puller.stop()


async def test_a_batch_that_does_not_fit_the_limit_is_refused(link: Link) -> None:
    for limit, batch in ((5, 6), (5, 0), (0, 0)):
        with pytest.raises(InvalidInputError, match="batch"):
            Puller(link, "S", "d", limit=limit, batch=batch)


# The end


async def test_stopping_hands_back_what_nobody_took(work: Work, nats_url: str) -> None:
    await work.publish(8)
    first = work.puller(limit=8, batch=8)
    await first.start()
    taken = await first.next()
    await until(lambda: first.held == 8)
    await first.stop()
    with pytest.raises(ClosedError, match="stopped"):
        await first.next()
    await first.stop()
    other_link = await connect(ConnectOptions(url=nats_url))
    second = work.puller(link=other_link)
    await second.start()
    async with asyncio.timeout(5):  # far less than the ack wait
        assert sorted(await finish(second, 7)) == [2, 3, 4, 5, 6, 7, 8]
    await taken.ack()
    first.release()
    await second.stop()
    await other_link.close()


async def test_whoever_waits_is_told_that_the_puller_stopped(work: Work) -> None:
    puller = work.puller()
    await puller.start()
    waiting = asyncio.create_task(puller.next())
    await asyncio.sleep(0)
    await puller.stop()
    with pytest.raises(ClosedError):
        await waiting


async def test_whoever_waits_is_told_that_the_link_was_closed(work: Work, nats_url: str) -> None:
    link = await connect(ConnectOptions(url=nats_url))
    puller = work.puller(link=link)
    await puller.start()
    waiting = asyncio.create_task(puller.next())
    await asyncio.sleep(0)
    await link.close()
    with pytest.raises(BusUnavailableError, match="closed"):
        await asyncio.wait_for(waiting, 5)
    await puller.stop()


async def test_a_puller_stops_while_the_server_is_away(own_server: NatsServer, namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    work = await Work(link, namespace).prepare(5)
    puller = work.puller()
    await puller.start()
    await until(lambda: puller.held == 5)
    own_server.kill()
    async with asyncio.timeout(5):
        await puller.stop()
        await link.close()


async def test_two_pullers_share_the_work_without_overlap(work: Work, nats_url: str) -> None:
    await work.publish(100)
    other_link = await connect(ConnectOptions(url=nats_url))
    pullers = [work.puller(limit=4, batch=2), work.puller(limit=4, batch=2, link=other_link)]
    seen: list[int] = []

    async def take(puller: Puller) -> None:
        await puller.start()
        while True:
            delivery = await puller.next()
            seen.append(delivery.stream_seq)
            await delivery.ack()
            puller.release()

    tasks = [asyncio.create_task(take(puller)) for puller in pullers]
    await until(lambda: len(seen) >= 100)
    for puller in pullers:
        await puller.stop()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(seen) == list(range(1, 101))
    await other_link.close()


async def test_a_delivery_says_when_and_how_often(work: Work) -> None:
    await work.publish(2)
    puller = work.puller()
    await puller.start()
    first = await puller.next()
    stored = await work.link.read_one(work.spec.stream, 1)
    assert stored is not None
    assert (first.stream_seq, first.consumer_seq, first.deliveries, first.pending) == (1, 1, 1, 1)
    assert first.time == stored.time
    assert first.subject == stored.subject
    assert "deliveries=1" in repr(first)
    await (await puller.next()).ack()
    await first.nak(0.2)
    puller.release()
    puller.release()
    again = await asyncio.wait_for(puller.next(), 5)
    assert (again.stream_seq, again.deliveries) == (1, 2)
    await again.in_progress()
    await again.nak()
    puller.release()
    third = await asyncio.wait_for(puller.next(), 5)
    assert third.deliveries == 3
    await third.term("nobody can\r\ndo this")
    puller.release()

    async def all_settled() -> bool:
        return (await work.state())["num_ack_pending"] == 0

    await until(all_settled)
    await puller.stop()
