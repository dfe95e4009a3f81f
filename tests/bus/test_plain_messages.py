"""Messages that nobody stores: roll calls and broadcasts."""

from __future__ import annotations

from motet_bus.answers import Message, Reply
from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_schemas.subjects import Namespace
from tests.bus.servers import until


async def test_scatter_gathers_what_comes_in_time(link: Link, nats_url: str, namespace: Namespace) -> None:
    subject = namespace.wire("signal.roll-call")
    assert await link.scatter(subject, b"", for_s=5) == []
    others = [await connect(ConnectOptions(url=nats_url)) for _ in range(3)]

    for number, other in enumerate(others):

        async def answer(message: Message, other: Link = other, number: int = number) -> None:
            await other.publish(message.reply, b"%d" % number)

        await other.subscribe(subject, answer)
        await other.request("$JS.API.INFO", b"", timeout_s=5)
    replies = await link.scatter(subject, b"who?", for_s=0.5)
    assert sorted(reply.body for reply in replies) == [b"0", b"1", b"2"]
    for other in others:
        await other.close()


async def test_nobody_there_is_an_answer_with_status_503(link: Link, namespace: Namespace) -> None:
    reply = await link.request(namespace.wire("signal.nobody"), b"", timeout_s=5)
    assert (reply.status, reply.body) == (503, b"")


async def test_a_subscription_hears_until_it_ends_and_its_errors_are_reported(
    nats_url: str, namespace: Namespace
) -> None:
    reports: list[Exception] = []
    link = await connect(ConnectOptions(url=nats_url), on_error=reports.append)
    heard: list[Message] = []

    async def hear(message: Message) -> None:
        heard.append(message)
        if message.body == b"bad":
            raise ValueError("a listener broke")

    subject = namespace.wire("signal.ended.c1")
    subscription = await link.subscribe(subject, hear)
    await link.publish(subject, b"bad", {"Why": "test"})
    await link.publish(subject, b"good")
    await until(lambda: len(heard) == 2)
    assert heard[0].headers == {"Why": "test"}
    await until(lambda: [str(report) for report in reports] == ["a listener broke"])
    await subscription.drain()
    await subscription.unsubscribe()
    await link.publish(subject, b"after")
    assert isinstance(await link.request("$JS.API.INFO", b"", timeout_s=5), Reply)
    assert len(heard) == 2
    await link.close()
