"""Everything that may end a pull, or the consumer, or the server, while work goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from motet_bus import pull, pull_protocol
from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_bus.pull import Puller
from motet_schemas.errors import (
    BusUnavailableError,
    BusUnsuitableError,
    NotAllowedError,
    NotFoundError,
)
from motet_schemas.subjects import Namespace
from tests.bus.servers import NatsServer, until
from tests.bus.work import Work, finish


async def test_everything_is_delivered_although_the_server_is_killed_again_and_again(
    own_server: NatsServer, namespace: Namespace
) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    work = await Work(link, namespace, ack_wait_s=1).prepare(600)
    puller = work.puller(limit=20, batch=10)
    await puller.start()
    seen: set[int] = set()

    async def take_all() -> None:
        while len(seen) < 601:
            delivery = await puller.next()
            assert puller.held <= 20
            seen.add(delivery.stream_seq)
            await delivery.ack()
            puller.release()

    taking = asyncio.create_task(take_all())
    for enough in (50, 200, 400):
        await until(lambda enough=enough: len(seen) >= enough)  # type: ignore[misc]
        own_server.restart()
    await until(lambda: len(seen) >= 600, within_s=30)
    await work.publish(1)
    async with asyncio.timeout(20):
        await taking
    assert seen == set(range(1, 602))
    await puller.stop()
    await link.close()


async def test_an_idle_puller_wakes_up_after_a_restart(own_server: NatsServer, namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    work = await Work(link, namespace).prepare(0)
    puller = work.puller()
    await puller.start()
    await until(lambda: puller.asked > 0)
    own_server.restart()
    await until(lambda: not link.connected)
    await until(lambda: link.connected and puller.asked > 0)
    await work.publish(3)
    assert await finish(puller, 3) == [1, 2, 3]
    await puller.stop()
    await link.close()


async def test_pulls_that_expire_are_asked_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pull, pull_protocol):
        monkeypatch.setattr(module, "EXPIRES_S", 0.3)
        monkeypatch.setattr(module, "HEARTBEAT_S", 0.15)
    puller = work.puller()
    await puller.start()
    for _ in range(3):
        await asyncio.sleep(0.35)  # longer than a pull lives
        await work.publish(1)
        await finish(puller, 1)
        assert puller.held + puller.asked <= 10
    await puller.stop()


async def test_a_deleted_consumer_is_made_again_and_work_goes_on(work: Work) -> None:
    await work.publish(3)
    puller = work.puller()
    await puller.start()
    assert await finish(puller, 3) == [1, 2, 3]
    await work.delete_consumer()
    assert sorted(await finish(puller, 3)) == [1, 2, 3]  # the new consumer begins at the beginning
    await work.publish(1)
    assert await finish(puller, 1) == [4]
    await puller.stop()


async def test_a_consumer_that_does_not_exist_yet_is_made(work: Work) -> None:
    await work.delete_consumer()
    await work.publish(2)
    puller = work.puller()
    await puller.start()
    assert await finish(puller, 2) == [1, 2]
    await puller.stop()


async def test_recreating_is_tried_again_while_that_may_help(work: Work) -> None:
    await work.publish(1)
    await work.delete_consumer()
    tries: list[int] = []

    async def recreate() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise BusUnavailableError("not yet")
        await work.recreate()

    puller = Puller(work.link, work.spec.stream, work.spec.durable, limit=2, batch=1, recreate=recreate)
    await puller.start()
    assert await finish(puller, 1) == [1]
    assert len(tries) == 3
    await puller.stop()


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (BusUnsuitableError("the stream was changed"), BusUnsuitableError, "the stream was changed"),
        (ValueError("a bug"), BusUnavailableError, "broke.*a bug"),
    ],
)
async def test_what_cannot_be_mended_surfaces_where_work_is_taken(
    work: Work, error: Exception, expected: type[Exception], text: str
) -> None:
    await work.delete_consumer()

    async def recreate() -> None:
        raise error

    puller = Puller(work.link, work.spec.stream, work.spec.durable, limit=2, batch=1, recreate=recreate)
    await puller.start()
    with pytest.raises(expected, match=text):
        await asyncio.wait_for(puller.next(), 10)
    await puller.stop()


async def test_a_consumer_that_stays_away_is_a_clear_error(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "_PAUSE_S", (0.01, 0.05))
    puller = Puller(work.link, work.spec.stream, "nobody", limit=2, batch=1)
    await puller.start()
    with pytest.raises(NotFoundError, match="no consumer nobody"):
        await asyncio.wait_for(puller.next(), 10)
    await puller.stop()


async def test_a_pull_that_is_not_allowed_is_a_clear_error(tmp_path: Path, namespace: Namespace) -> None:
    users = """authorization { users: [
      {user: admin, password: admin}
      {user: worker, password: secret, permissions: {publish: ["nothing"], subscribe: ["_INBOX.>"]}}] }"""
    with NatsServer(tmp_path / "guarded", config=users, user_info="admin:admin") as server:
        admin = await connect(ConnectOptions(url=server.url))
        work = await Work(admin, namespace).prepare(1)
        worker = await connect(ConnectOptions(url=f"nats://worker:secret@{server.address}"))
        puller = work.puller(link=worker)
        await puller.start()
        with pytest.raises(NotAllowedError, match="pull from worker"):
            await asyncio.wait_for(puller.next(), 10)
        await puller.stop()
        await worker.close()
        await admin.close()


async def test_a_consumer_that_refuses_pulls_is_asked_less_and_less_often(link: Link, namespace: Namespace) -> None:
    work = await Work(link, namespace).prepare(3)
    await work.delete_consumer()
    config = {"durable_name": "worker", "name": "worker", "ack_policy": "explicit", "max_batch": 1}
    await link.api(f"CONSUMER.CREATE.{work.spec.stream}.worker", {"stream_name": work.spec.stream, "config": config})
    puller = Puller(link, work.spec.stream, "worker", limit=4, batch=4)
    await puller.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await puller.next()
    assert puller.held + puller.asked <= 4
    await puller.stop()
