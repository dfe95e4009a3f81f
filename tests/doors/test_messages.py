"""Whatever stands on the stream, comes as an answer or lies in the object store: it is read, and bounded."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet_bus import Bus
from motet_bus.answers import Reply, json_object, read_puback, read_stored, server_time
from motet_bus.delivery import Delivery
from motet_bus.link import Link
from motet_bus.presence import roll_call
from motet_bus.wire_client import encode_headers
from motet_schemas import (
    Fact,
    Handled,
    InvalidInputError,
    MotetError,
    Namespace,
    NotFoundError,
    Output,
    PermanentError,
    Reference,
    TaskCancel,
    Unreadable,
    decode,
    encode,
)
from motet_schemas.subjects import build, parse
from tests.bus.support import bus_as, dead_letters
from tests.doors.hostile import BY_REFERENCE, REFERENCES
from tests.doors.measured import MOST_MIB, in_a_child
from tests.schemas.rubbish import any_subject, json_values

_AT = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
async def bus(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "executor") as opened:
        yield opened


# Bodies and headers


def test_every_hostile_body_under_every_subject_is_read_with_little_memory() -> None:
    done = in_a_child("tests.doors.messages:read_all")
    assert done.result["read"] > 300
    assert done.result["unreadable"] > done.result["read"] * 0.6
    assert done.result["at"] == done.result["read"]
    assert done.peak_mib < MOST_MIB


def test_the_largest_bodies_are_read_only_when_they_fit_in_memory() -> None:
    done = in_a_child("tests.doors.messages:read_the_largest")
    assert done.result == {
        **dict.fromkeys(("lists", "objects", "numbers", "texts", "a million problems"), True),
        "a long text": False,
    }
    assert done.peak_mib < MOST_MIB


@given(subject=any_subject(), body=st.binary(max_size=200) | json_values.map(lambda one: json.dumps(one).encode()))
def test_any_body_is_read_and_its_reason_has_an_end(subject: Any, body: bytes) -> None:
    event = decode(subject, {"ce-type": "motet.x.v1"}, body, seq=1, time=_AT)
    if isinstance(event.data, Unreadable):
        assert len(event.data.reason) < 2_000


@given(name=st.text(max_size=20), value=st.text(max_size=40))
def test_no_header_can_bring_another_along(name: str, value: str) -> None:
    try:
        sent = encode_headers({name: value})
    except InvalidInputError:
        return
    lines = sent.split(b"\r\n")
    assert len(lines) == 4
    assert b"\n" not in sent.replace(b"\r\n", b"")
    assert b"\r" not in sent.replace(b"\r\n", b"")


@given(value=st.text(max_size=30) | st.sampled_from(["a\r\nNats-Rollup: all", "a\nb", "*", ">", "a.b", " "]))
def test_no_text_of_ours_reaches_a_subject_or_header_unchecked(value: str) -> None:
    try:
        subject = build("task.cancel", value, "ann")
    except InvalidInputError:
        subject = build("task.cancel", "c", "ann")
    headers, _ = encode(Fact(subject, TaskCancel(requested_by="ann")), source="/agents/client/c-1")
    assert encode_headers(headers).count(b"\r\n") == len(headers) + 2
    assert len(str(subject).split(".")) == 4


@pytest.mark.parametrize("name", ["a\r\nb2345678", "aaaa bbbb", "ééééééééé", "\x1b[31maaaa", ""])
def test_an_output_cannot_name_itself_so_that_a_header_breaks(name: str) -> None:
    body = json.dumps({"outputs": [{"subject": "step.ready.c.a.1.q", "id": name, "data": {}}]}).encode()
    data = decode(parse("handled.orchestrator.c.1"), {}, body, seq=1, time=_AT).data
    assert isinstance(data, Unreadable)


def test_a_record_lists_a_bounded_number_of_outputs() -> None:
    output = Output(subject="step.ready.c.a.1.q", id="01234567", data={})
    assert len(Handled(outputs=(output,) * 2_000).outputs) == 2_000
    with pytest.raises(ValueError, match="2000"):
        Handled(outputs=(output,) * 2_001)


# Answers


_ANSWERS = st.binary(max_size=60) | json_values.map(lambda one: json.dumps(one).encode()) | st.just(b"[" * 100_000)
_NUMBERS = st.text(max_size=10) | st.sampled_from(["-1", "9" * 5_000, "٣", "1.5", "0001-01-01T00:00:00+23:59", ""])


@given(body=_ANSWERS)
def test_an_answer_of_jetstream_is_an_object_or_an_error_of_ours(body: bytes) -> None:
    for read in (lambda: json_object(body, "x"), lambda: read_puback(Reply({}, body), "x")):
        try:
            read()
        except MotetError as error:
            _has_an_end(error)


def _has_an_end(error: MotetError) -> None:
    assert len(error.message) < 2_000


@given(numbers=st.lists(_NUMBERS, min_size=3, max_size=3))
def test_a_stored_message_with_numbers_that_are_none_is_an_error_of_ours(numbers: list[str]) -> None:
    headers = dict(zip(("Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending"), numbers, strict=True))
    try:
        read_stored(Reply({"Nats-Subject": "x", **headers}, b""))
    except MotetError as error:
        _has_an_end(error)


@given(tokens=st.lists(_NUMBERS.filter(lambda text: "." not in text), max_size=12))
def test_the_reply_subject_of_a_delivery_is_read_or_refused(tokens: list[str]) -> None:
    class Nobody:
        async def publish(self, *_: object, **__: object) -> None:
            """Send nothing."""

    try:
        Delivery(Nobody(), "x", {}, b"", ".".join(["$JS", "ACK", *tokens]))
    except ValueError:
        return


def test_a_time_of_the_server_is_one() -> None:
    assert server_time("2026-11-21T09:00:00.123456789Z").microsecond == 123456


# The object store


async def _forge_entry(bus: Bus, name: str, body: bytes) -> None:
    bucket = bus.namespace.bucket("motet-objects")
    subject = f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
    await bus.link.publish_stored(subject, body, {})


@pytest.mark.parametrize("body", REFERENCES, ids=range(len(REFERENCES)))
async def test_a_body_by_a_reference_that_lies_is_unreadable(bus: Bus, body: bytes) -> None:
    await bus.link.publish_stored(bus.namespace.wire("task.submitted.c.content-qa"), body, BY_REFERENCE)
    [event] = await bus.journal.read_conversation("c")
    assert isinstance(event.data, Unreadable)
    assert len(event.data.reason) < 2_000


ENTRIES: list[dict[str, Any]] = [
    {},
    {"nuid": ">", "size": 10, "chunks": 1},
    {"nuid": "*", "size": 10, "chunks": 1},
    {"nuid": "../x", "size": 10, "chunks": 1},
    {"nuid": 7, "size": 10, "chunks": 1},
    {"nuid": "abc", "size": 1 << 40, "chunks": 1 << 40},
    {"nuid": "abc", "size": -1, "chunks": -1},
    {"nuid": "abc", "size": 10, "chunks": 0},
    {"nuid": "abc", "size": "10", "chunks": None},
    {"deleted": True},
]


@pytest.mark.parametrize("entry", [*ENTRIES, None], ids=str)
async def test_an_entry_of_the_object_store_that_lies_leads_nowhere(bus: Bus, entry: dict[str, Any] | None) -> None:
    reference = Reference(name="a" * 64, sha256="a" * 64, size_bytes=10)
    other = await bus.objects.put(b"somebody else's", "text/plain")
    await _forge_entry(bus, reference.name, b"[" * 50_000 if entry is None else json.dumps(entry).encode())
    with pytest.raises(NotFoundError):
        await bus.objects.get(reference)
    assert await bus.objects.get(other) == b"somebody else's"


def test_an_upload_with_more_in_it_than_its_entry_says_is_not_read_to_its_end(nats_url: str) -> None:
    done = in_a_child("tests.doors.uploads:read_a_flood", nats_url)
    assert done.result == "NotFoundError"
    assert done.peak_mib < 300


async def test_texts_by_reference_are_fetched_up_to_a_limit_and_must_be_text(bus: Bus) -> None:
    from motet_bus.inputs import fetch_texts

    large = Reference(name="b" * 64, sha256="b" * 64, size_bytes=40 << 20, media_type="text/plain")
    with pytest.raises(PermanentError, match="83886080 bytes together"):
        await fetch_texts(bus.objects, {"one": large, "other": large})
    latin = await bus.objects.put("café".encode("latin-1"), "text/plain")
    with pytest.raises(PermanentError, match="not UTF-8"):
        await fetch_texts(bus.objects, {"draft": latin})


# Plain messages


async def test_answers_to_a_roll_call_that_are_no_cards_are_passed_over(link: Link, namespace: Namespace) -> None:
    subscription = await link.subscribe(namespace.wire("signal.roll-call"), _answers(link))
    assert await roll_call(link, namespace, for_s=0.5) == []
    await subscription.unsubscribe()


def _answers(link: Link) -> Any:
    async def answer(message: Any) -> None:
        for body in (b"", b"[" * 100_000, b'{"role": 7}', b"\xff", b"x" * 500_000):
            await link.publish(message.reply, body)

    return answer


async def test_a_letter_has_room_for_headers_of_any_size(bus: Bus, nats_url: str, namespace: Namespace) -> None:
    from motet_agents.planner import agent as planner
    from tests.bus.support import eventually, running

    headers = {f"x-{number}": "\x01" * 8_000 for number in range(7)}
    async with running(planner, nats_url, namespace):
        wire = namespace.wire("plan.requested.c.1")
        await bus.link.publish_stored(wire, b"x" * 260_000, headers)
        await eventually(lambda: dead_letters(bus.link, namespace))
    [letter] = await dead_letters(bus.link, namespace)
    assert letter.failure.code == "unreadable"
    assert letter.headers
    assert len(letter.to_json()) < 500_000
