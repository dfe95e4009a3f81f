"""Nothing that an outsider can publish breaks a connection: not its subject, not its headers."""

from __future__ import annotations

import pytest
from nats.errors import ProtocolError

from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_bus.pull import Puller
from motet_bus.topology import ConsumerSpec, ensure_consumer
from motet_bus.wire_client import WireClient, WireParser
from motet_schemas.subjects import Namespace
from tests.bus.servers import NatsServer, publish_raw, raw_message

ODD_SUBJECTS = [b"\xff\xfe", b"v\x0bt", b"f\x0cf", b"nul\x00", "naïve".encode(), b"7"]
ODD_HEADERS = [
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: x\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0",
    b"garbage",
    b"x",
    b"NATS/1.0\r\nA: 1\r\nA: 2\r\nno colon\r\n\xff: 3\r\n two words : 4\r\nB: \xff\r\n: 5\r\n\r\n",
]


@pytest.mark.open_server
async def test_odd_subjects_and_headers_are_delivered_and_break_nothing(
    link: Link, nats_server: NatsServer, namespace: Namespace
) -> None:
    stream = f"odd{namespace.name}"
    await link.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.>"], "allow_direct": True})
    prefix = f"{stream}.".encode()
    said = publish_raw(
        nats_server.address,
        *(b"PUB %s 1\r\nz\r\n" % (prefix + subject) for subject in ODD_SUBJECTS),
        *(raw_message(prefix + b"h%d" % number, headers) for number, headers in enumerate(ODD_HEADERS)),
    )
    assert b"-ERR" not in said
    await link.publish_stored(f"{stream}.last", b"good", {})
    expected = len(ODD_SUBJECTS) + len(ODD_HEADERS) + 1

    stored = await link.read_batch(stream, f"{stream}.>")
    assert [message.seq for message in stored] == list(range(1, expected + 1))

    disconnects: list[None] = []
    link.on_reconnect(lambda: disconnects.append(None))
    await ensure_consumer(
        link, ConsumerSpec(stream=stream, durable="all", filter_subjects=(f"{stream}.>",), max_ack_pending=100)
    )
    puller = Puller(link, stream, "all", limit=5, batch=5)
    await puller.start()
    seen: list[str] = []
    for _ in range(expected):
        delivery = await puller.next()
        seen.append(delivery.subject)
        await delivery.ack()
        puller.release()
    await puller.stop()
    assert seen == [message.subject for message in stored]
    assert seen[-1] == f"{stream}.last"
    assert "\ufffd" in seen[0]
    assert not disconnects

    twice = next(message for message in stored if message.subject == f"{stream}.h{len(ODD_HEADERS) - 1}")
    assert twice.headers["A"] == "2"
    assert twice.headers["B"] == "\ufffd"


@pytest.mark.open_server
async def test_a_plain_subscriber_survives_them_too(
    nats_url: str, nats_server: NatsServer, namespace: Namespace
) -> None:
    link = await connect(ConnectOptions(url=nats_url))
    heard: list[str] = []

    async def hear(message: object) -> None:
        heard.append(repr(message))

    await link.subscribe(namespace.wire("signal.>"), hear)
    await link.request("$JS.API.INFO", b"", timeout_s=5)
    prefix = namespace.wire("signal.").encode()
    publish_raw(
        nats_server.address,
        *(b"PUB %s 1\r\nz\r\n" % (prefix + subject) for subject in ODD_SUBJECTS),
        *(raw_message(prefix + b"h%d" % number, headers) for number, headers in enumerate(ODD_HEADERS)),
    )
    await link.request("$JS.API.INFO", b"", timeout_s=5)
    assert len(heard) == len(ODD_SUBJECTS) + len(ODD_HEADERS)
    await link.close()


@pytest.mark.parametrize("line", [b"WHAT 1\r\n", b"MSG only\r\n", b"MSG a b 5\r\n", b"HMSG a 1 x 5\r\n"])
async def test_what_is_no_protocol_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await WireParser(WireClient()).parse(line)


async def test_an_endless_control_line_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        await WireParser(WireClient()).parse(b"x" * (1 << 21))


async def test_an_inbox_handler_that_breaks_is_reported_and_the_link_lives(nats_url: str, namespace: Namespace) -> None:
    reports: list[str] = []
    link = await connect(ConnectOptions(url=nats_url), on_error=lambda error: reports.append(str(error)))

    def handle(subject: str, headers: dict[str, str], reply: str, body: bytes) -> None:
        raise ValueError(f"cannot take {body!r}")

    await link.subscribe_inbox(namespace.wire("signal.x"), handle)
    await link.publish(namespace.wire("signal.x"), b"this")
    assert (await link.request("$JS.API.INFO", b"", timeout_s=5)).status == 0
    assert reports == ["cannot take b'this'"]
    await link.close()
