"""Batched reads against a real server: whole and in order, whatever is stored and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_schemas.errors import BusUnavailableError, InvalidInputError
from motet_schemas.subjects import Namespace
from tests.bus.servers import NatsServer, make_stream, publish_raw, raw_message


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


@pytest.mark.open_server
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
