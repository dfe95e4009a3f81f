"""The link against a real server: fences, lost answers, refusals, batched reads, a server that dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from motet_bus.answers import ServerRefusedError
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
from tests.bus.servers import NatsServer, make_stream, until

EMPTY = {"Nats-Expected-Last-Subject-Sequence": "0"}


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
    with pytest.raises(BusUnavailableError, match=r"no stream stores .*motet up"):
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


# The rest of the API


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
