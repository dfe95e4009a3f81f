"""A delivery reads its numbers from the server's reply subject, and reaches one taker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from motet_bus.delivery import Delivery
from motet_bus.handover import Handover


class Recorder:
    """Records what a delivery publishes."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    async def publish(self, subject: str, body: bytes, headers: object = None, reply: str = "") -> None:
        self.sent.append((subject, body))


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.S.worker.2.7.9.1700000000123456789.4",
        "$JS.ACK._.hash.S.worker.2.7.9.1700000000123456789.4",
        "$JS.ACK.domain.hash.S.worker.2.7.9.1700000000123456789.4.random",
    ],
)
async def test_all_forms_of_the_ack_subject_are_read(reply: str) -> None:
    recorder = Recorder()
    delivery = Delivery(recorder, "a.b", {}, b"", reply)
    assert (delivery.stream, delivery.consumer) == ("S", "worker")
    assert (delivery.deliveries, delivery.stream_seq, delivery.consumer_seq, delivery.pending) == (2, 7, 9, 4)
    assert delivery.time == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    await delivery.nak(1.5)
    assert recorder.sent == [(reply, b'-NAK {"delay": 1500000000}')]


@pytest.mark.parametrize("reply", ["", "$JS.ACK.S.w.1", "_INBOX.x", "$JS.ACK.S.w.x.7.9.17.4"])
def test_another_reply_is_no_delivery(reply: str) -> None:
    with pytest.raises(ValueError, match=r"delivery|invalid literal"):
        Delivery(Recorder(), "a.b", {}, b"", reply)


async def test_a_cancelled_taker_leaves_its_message_to_the_next() -> None:
    handover = Handover()
    first, second = asyncio.create_task(handover.take()), asyncio.create_task(handover.take())
    await asyncio.sleep(0)
    delivery = Delivery(Recorder(), "a.b", {}, b"", "$JS.ACK.S.worker.2.7.9.1700000000123456789.4")
    handover.put(delivery)
    first.cancel()
    assert await asyncio.wait_for(second, 1) is delivery
