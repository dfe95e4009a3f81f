"""The link against a real server: fences, lost answers, refusals, batched reads, a server that dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from motet_bus.answers import Message, Reply, ServerRefusedError
from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_bus.topology import apply_streams
from motet_schemas.errors import (
    BusUnavailableError,
    BusUnsuitableError,
    ConflictError,
    InvalidInputError,
    MotetError,
    NotAllowedError,
    NotFoundError,
)
from motet_schemas.subjects import Namespace

from tests.bus.servers import NatsServer, publish_raw, raw_message, until

EMPTY = {"Nats-Expected-Last-Subject-Sequence": "0"}


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "own") as server:
        yield server


async def make_stream(link: Link, name: str, **settings: object) -> str:
    """Create a stream on `<name>.>` and return its name."""
    await link.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "allow_direct": True, **settings})
    return name


# Publishing behind a fence


async def test_a_fence_on_a_filter_refuses_the_second_writer(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    rivals = {**EMPTY, "Nats-Expected-Last-Subject-Sequence-Subject": namespace.wire("verify.*.c1.s1.1")}
    first = await link.publish_stored(namespace.wire("verify.passed.c1.s1.1"), b"{}", rivals)
    with pytest.raises(ConflictError) as refused:
        await link.publish_stored(namespace.wire("verify.failed.c1.s1.1"), b"{}", rivals)
    assert refused.value.last_sequence == first.seq
    assert not refused.value.retryable
    assert first.stream == namespace.stream("CONVERSATIONS")


async def test_one_of_a_hundred_racers_records_the_fact(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    subject = namespace.wire("step.claimed.c1.s1.1")
    results = await asyncio.gather(
        *(link.publish_stored(subject, b"%d" % racer, EMPTY) for racer in range(100)), return_exceptions=True
    )
    winners = [result for result in results if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(result, ConflictError) for result in results if isinstance(result, BaseException))


async def test_the_fence_is_checked_before_the_message_id(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    subject, headers = namespace.wire("plan.created.c1.1"), {"Nats-Msg-Id": "fact-1", **EMPTY}
    ack = await link.publish_stored(subject, b"{}", headers)
    assert not ack.duplicate
    with pytest.raises(ConflictError) as refused:  # so a lost answer is settled by reading, not by `duplicate`
        await link.publish_stored(subject, b"{}", headers)
    assert refused.value.last_sequence == ack.seq


async def test_a_message_id_that_is_used_again_elsewhere_is_acknowledged_but_not_stored(
    link: Link, namespace: Namespace
) -> None:
    await apply_streams(link, namespace)
    first = await link.publish_stored(namespace.wire("plan.created.c1.1"), b"{}", {"Nats-Msg-Id": "same"})
    second = await link.publish_stored(namespace.wire("plan.created.c1.2"), b"{}", {"Nats-Msg-Id": "same", **EMPTY})
    assert (second.duplicate, second.seq) == (True, first.seq)
    assert await link.read_last_for(first.stream, namespace.wire("plan.created.c1.2")) is None


async def test_publishing_where_no_stream_listens_says_what_to_do(link: Link, namespace: Namespace) -> None:
    with pytest.raises(BusUnavailableError, match="no stream stores .*motet up"):
        await link.publish_stored(namespace.wire("plan.created.c1.1"), b"{}", {})


async def test_a_full_stream_is_a_retryable_error_with_advice(link: Link, namespace: Namespace) -> None:
    stream = await make_stream(link, f"full{namespace.name}", max_bytes=4096, discard="new")
    await link.publish_stored(f"{stream}.a", b"x" * 3000, {})
    with pytest.raises(BusUnavailableError, match="no room") as refused:
        await link.publish_stored(f"{stream}.b", b"x" * 3000, {})
    assert refused.value.retryable


async def test_a_message_larger_than_the_stream_takes_is_invalid_input(link: Link, namespace: Namespace) -> None:
    stream = await make_stream(link, f"small{namespace.name}", max_msg_size=100)
    with pytest.raises(InvalidInputError, match="object store"):
        await link.publish_stored(f"{stream}.a", b"x" * 200, {})


@pytest.mark.parametrize(
    ("subject", "headers", "field"),
    [
        ("ok", {"X": "a\r\nNats-Msg-Id: forged"}, "X"),
        ("ok", {"X": "a\nb"}, "X"),
        ("ok", {"X: Y\r\n": "a"}, "X: Y\r\n"),
        ("two words", {}, "subject"),
        ("line\r\nPUB forged 0\r\n", {}, "subject"),
        ("", {}, "subject"),
        ("x" * 3000, {}, "subject"),
    ],
)
async def test_what_would_break_the_protocol_is_refused_before_it_is_sent(
    link: Link, subject: str, headers: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await link.publish(subject, b"", headers)
    assert refused.value.field == field


async def test_a_body_with_headers_larger_than_the_server_takes_is_refused_and_the_link_lives(link: Link) -> None:
    with pytest.raises(InvalidInputError, match="the server takes"):
        await link.publish("big", b"x" * (link.max_payload - 10), {"X": "header"})
    assert link.connected


# Answers that do not come


async def test_an_unanswered_publish_ends_in_a_retryable_error(own_server: NatsServer, namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    await apply_streams(link, namespace)
    own_server.pause()
    subject = namespace.wire("plan.created.c1.1")
    with pytest.raises(BusUnavailableError, match="no answer") as lost:
        await link.publish_stored(subject, b"{}", {"Nats-Msg-Id": "one", **EMPTY}, timeout_s=0.2)
    assert lost.value.retryable
    own_server.resume()
    with pytest.raises(ConflictError):  # it was stored after all: the same fence says so
        await link.publish_stored(subject, b"{}", {"Nats-Msg-Id": "one", **EMPTY})
    await link.close()


async def test_whoever_waits_is_told_at_once_when_the_server_dies(own_server: NatsServer, namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    await apply_streams(link, namespace)
    own_server.pause()
    waiting = asyncio.create_task(link.publish_stored(namespace.wire("plan.created.c1.1"), b"{}", {}, timeout_s=30))
    await asyncio.sleep(0)
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(BusUnavailableError, match="lost"):
        await waiting
    assert time.monotonic() - began < 2
    await link.close()


async def test_whoever_waits_is_told_when_the_link_is_closed(own_server: NatsServer, namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    await apply_streams(link, namespace)
    own_server.pause()
    waiting = asyncio.create_task(link.publish_stored(namespace.wire("plan.created.c1.1"), b"{}", {}, timeout_s=30))
    await asyncio.sleep(0)
    began = time.monotonic()
    await link.close()
    with pytest.raises(BusUnavailableError, match="closed"):
        await waiting
    assert time.monotonic() - began < 2.5
    assert link.closed
    with pytest.raises(BusUnavailableError):
        await link.publish("anything", b"")


async def test_after_a_restart_the_link_reconnects_and_sends_what_waited(
    own_server: NatsServer, namespace: Namespace
) -> None:
    reports: list[Exception] = []
    link = await connect(ConnectOptions(url=own_server.url), on_error=reports.append)
    await apply_streams(link, namespace)
    reconnects: list[bool] = []
    undo = link.on_reconnect(lambda: reconnects.append(link.connected))
    own_server.kill()
    await until(lambda: not link.connected)
    waiting = asyncio.create_task(link.publish_stored(namespace.wire("plan.created.c1.1"), b"{}", EMPTY, timeout_s=20))
    await asyncio.sleep(0)
    own_server.start()
    assert (await waiting).seq == 1
    assert reconnects == [True]
    assert reports
    undo()
    own_server.restart()
    await until(lambda: link.connected)
    assert reconnects == [True]
    await link.close()


# Permissions


LEAST = """
authorization {
  users: [
    {user: admin, password: admin}
    {user: worker, password: secret, permissions: {
      publish: ["s.allowed.>", "$JS.API.DIRECT.GET.s"], subscribe: ["_INBOX_worker.>"]}}
  ]
}
"""


@pytest.fixture
def guarded_server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "guarded", config=LEAST, user_info="admin:admin") as server:
        yield server


async def test_a_denied_publish_is_a_clear_error_at_once(guarded_server: NatsServer) -> None:
    admin = await connect(ConnectOptions(url=guarded_server.url))
    await make_stream(admin, "s")
    worker = await connect(
        ConnectOptions(url=f"nats://worker:secret@{guarded_server.address}", inbox_prefix="_INBOX_worker")
    )
    denied: list[str] = []
    worker.on_denied(denied.append)
    assert (await worker.publish_stored("s.allowed.x", b"", {})).seq == 1
    began = time.monotonic()
    with pytest.raises(NotAllowedError, match=r"s\.Forbidden\.x"):
        await worker.publish_stored("s.Forbidden.x", b"", {}, timeout_s=20)
    assert time.monotonic() - began < 5
    assert denied == ["s.Forbidden.x"]
    assert [message.subject for message in await worker.read_batch("s", "s.>")] == ["s.allowed.x"]
    await worker.close()
    await admin.close()


async def test_an_inbox_that_the_user_may_not_read_is_a_clear_error(guarded_server: NatsServer) -> None:
    with pytest.raises(NotAllowedError, match="inbox prefix"):
        await connect(ConnectOptions(url=f"nats://worker:secret@{guarded_server.address}"))


# Reading


async def test_a_long_conversation_is_read_in_order_over_several_rounds(link: Link, namespace: Namespace) -> None:
    stream = await make_stream(link, f"long{namespace.name}")
    for first in range(0, 700, 100):
        await asyncio.gather(
            *(link.publish_stored(f"{stream}.{n % 2}.c1.{n}", b"%d" % n, {}) for n in range(first, first + 100))
        )
    await link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 300})
    found = await link.read_batch(stream, "*.0.c1.>")
    assert [int(message.body) for message in found] == [n for n in range(0, 700, 2) if n != 299]
    assert [message.seq for message in found] == sorted(message.seq for message in found)
    everything = await link.read_batch(stream, f"{stream}.>")
    assert len(everything) == 699
    assert len(await link.read_batch(stream, f"{stream}.>", start_seq=601)) == 100
    assert await link.read_batch(stream, "*.*.other.>") == []
    assert await link.read_batch(stream, f"{stream}.>", start_seq=5000) == []


async def test_single_messages_are_read_by_sequence_and_by_subject(link: Link, namespace: Namespace) -> None:
    stream = await make_stream(link, f"single{namespace.name}")
    for number in (1, 2, 3):
        await link.publish_stored(f"{stream}.a", b"%d" % number, {"Number": str(number)})
    await link.publish_stored(f"{stream}.b", b"4", {})
    second = await link.read_one(stream, 2)
    assert second is not None
    assert (second.body, second.seq, second.headers) == (b"2", 2, {"Number": "2"})
    assert abs(second.time - datetime.now(UTC)) < timedelta(seconds=30)
    assert await link.read_one(stream, 9) is None
    last = await link.read_last_for(stream, f"{stream}.a")
    assert last is not None
    assert last.body == b"3"
    assert await link.read_last_for(stream, f"{stream}.nothing") is None
    assert [message.seq for message in await link.read_last(stream, [f"{stream}.>"])] == [3, 4]
    assert [message.seq for message in await link.read_last(stream, ["*.b", "*.nothing"])] == [4]
    assert await link.read_last(stream, ["*.nothing"]) == []


async def test_the_last_of_too_many_subjects_is_a_clear_error(link: Link, namespace: Namespace) -> None:
    stream = await make_stream(link, f"many{namespace.name}")
    await asyncio.gather(*(link.publish_stored(f"{stream}.{n}", b"", {}) for n in range(1030)))
    with pytest.raises(InvalidInputError, match="1024"):
        await link.read_last(stream, [f"{stream}.>"])


async def test_a_stored_message_cannot_lie_about_its_place(
    link: Link, nats_server: NatsServer, namespace: Namespace
) -> None:
    stream = await make_stream(link, f"lies{namespace.name}")
    lies = {"Nats-Sequence": "999", "Nats-Subject": "forged", "Nats-Num-Pending": "50", "Nats-Time-Stamp": "never"}
    await link.publish_stored(f"{stream}.a", b"", {**lies, "Status": "404"})
    publish_raw(nats_server.address, raw_message(f"{stream}.b".encode(), b"NATS/1.0 204 EOB\r\n\r\n"))
    await link.publish_stored(f"{stream}.c", b"", {})
    found = await link.read_batch(stream, f"{stream}.>")
    assert [(message.subject, message.seq) for message in found] == [
        (f"{stream}.a", 1),
        (f"{stream}.b", 2),
        (f"{stream}.c", 3),
    ]
    assert "Nats-Subject" not in found[0].headers


async def test_reading_a_stream_that_is_not_there_fails_soon(link: Link) -> None:
    with pytest.raises(BusUnavailableError, match="NOWHERE"):
        await link.read_batch("NOWHERE", ">")
    with pytest.raises(BusUnavailableError, match="NOWHERE"):
        await link.read_one("NOWHERE", 1)


async def test_reading_goes_on_when_the_server_is_killed_meanwhile(own_server: NatsServer) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    await make_stream(link, "s")
    await asyncio.gather(*(link.publish_stored(f"s.{n}", b"x" * 1000, {}) for n in range(2000)))
    own_server.pause()
    reading = asyncio.create_task(link.read_batch("s", "s.>", timeout_s=15))
    await asyncio.sleep(0)
    own_server.restart()
    assert len(await reading) == 2000
    await link.close()


async def test_the_servers_clock_is_aware_and_now(link: Link, namespace: Namespace) -> None:
    stream = await make_stream(link, f"clock{namespace.name}")
    assert abs(await link.server_time(stream) - datetime.now(UTC)) < timedelta(seconds=30)


async def test_errors_of_the_api_have_their_meaning_and_code(link: Link, namespace: Namespace) -> None:
    with pytest.raises(NotFoundError, match="10059"):
        await link.api("STREAM.INFO.NOWHERE", {})
    stream = await make_stream(link, f"api{namespace.name}")
    with pytest.raises(ServerRefusedError) as refused:
        await make_stream(link, stream, max_msgs=5)
    assert refused.value.err_code == 10058
    with pytest.raises(BusUnsuitableError):
        await make_stream(link, f"other{stream}", subjects=[f"{stream}.a"])
    with pytest.raises(MotetError):
        await link.api("NO.SUCH.CALL", {}, timeout_s=0.5)


# Plain messages


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
