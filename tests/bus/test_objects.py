"""Objects: stored once by content, read back whole or not at all, in the format of the NATS object store."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.object_store import ObjectStore

from motet_bus.answers import PubAck
from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_bus.objects import LARGEST_OBJECT_BYTES, Objects
from motet_bus.topology import OBJECTS, apply_streams
from motet_schemas.errors import BusUnavailableError, InvalidInputError, MotetError, NotFoundError
from motet_schemas.subjects import Namespace
from motet_schemas.task import Reference
from tests.bus.servers import NatsServer

FIVE_MB = random.Random(7).randbytes(5 << 20)  # noqa: S311


@pytest.fixture
async def bucket(link: Link, namespace: Namespace) -> str:
    await apply_streams(link, namespace)
    return namespace.bucket(OBJECTS)


def reference_to(data: bytes) -> Reference:
    digest = hashlib.sha256(data).hexdigest()
    return Reference(name=digest, sha256=digest, size_bytes=len(data))


def entry_subject(bucket: str, reference: Reference) -> str:
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(reference.name.encode()).decode()}"


@asynccontextmanager
async def nats_object_store(url: str, bucket: str) -> AsyncGenerator[ObjectStore]:
    """The bucket as nats-py's own object store sees it."""
    client = Client()
    await client.connect(url)
    try:
        yield await JetStreamContext(client).object_store(bucket)
    finally:
        await client.close()


async def messages_in(link: Link, bucket: str) -> int:
    state: dict[str, Any] = (await link.api(f"STREAM.INFO.OBJ_{bucket}", {}))["state"]
    return int(state["messages"])


@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, 1_000_000])
async def test_what_was_put_is_got_by_another_process(link: Link, bucket: str, size: int) -> None:
    data = FIVE_MB[:size]
    reference = await Objects(link, bucket).put(data, "text/markdown")
    assert reference == Reference(
        name=reference.sha256,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=size,
        media_type="text/markdown",
    )
    assert await Objects(link, bucket).get(reference) == data


async def test_five_megabytes_come_back_whole_and_a_second_time_from_memory(link: Link, bucket: str) -> None:
    reference = await Objects(link, bucket).put(FIVE_MB, "text/plain")
    reader = Objects(link, bucket)
    assert await reader.get(reference) == FIVE_MB
    assert await reader.get(reference) is await reader.get(reference)


async def test_the_same_content_is_stored_once_even_by_racers(link: Link, bucket: str) -> None:
    references = await asyncio.gather(*(Objects(link, bucket).put(FIVE_MB[:300_000], "text/plain") for _ in range(5)))
    assert len(set(map(str, references))) == 1
    assert await messages_in(link, bucket) == 3 + 1
    await Objects(link, bucket).put(FIVE_MB[:300_000], "text/plain")
    assert await messages_in(link, bucket) == 3 + 1


async def test_half_an_upload_is_no_object(link: Link, bucket: str) -> None:
    data = FIVE_MB[:300_000]
    reference = reference_to(data)
    await link.publish_stored(f"$O.{bucket}.C.halfway", data[:131_072], {})
    with pytest.raises(NotFoundError, match="no object"):
        await Objects(link, bucket).get(reference)
    await Objects(link, bucket).put(data, "text/plain")
    assert await Objects(link, bucket).get(reference) == data


@pytest.mark.open_server
async def test_other_clients_read_the_format_of_the_nats_object_store(link: Link, bucket: str, nats_url: str) -> None:
    data = FIVE_MB[:400_000]
    reference = await Objects(link, bucket).put(data, "text/html")
    async with nats_object_store(nats_url, bucket) as store:
        found = await store.get(reference.name)
    assert found.data == data
    assert (found.info.size, found.info.chunks) == (400_000, 4)


@pytest.mark.parametrize(
    "headers", [{"Nats-Rollup": "sub"}, {"Nats-Rollup": "all"}], ids=lambda one: one["Nats-Rollup"]
)
async def test_no_writer_can_remove_what_others_wrote(link: Link, bucket: str, headers: dict[str, str]) -> None:
    reference = await Objects(link, bucket).put(FIVE_MB[:1000], "text/plain")
    with pytest.raises(MotetError):
        await link.publish_stored(entry_subject(bucket, reference), b"{}", headers)
    assert await Objects(link, bucket).get(reference) == FIVE_MB[:1000]


async def test_another_writer_s_entries_and_chunks_hide_no_body(link: Link, bucket: str) -> None:
    data = FIVE_MB[:300_000]
    reference = await Objects(link, bucket).put(data, "text/plain")
    [entry] = await link.read_batch(f"OBJ_{bucket}", f"$O.{bucket}.M.>")
    known = json.loads(entry.body)
    await link.publish_stored(f"$O.{bucket}.C.{known['nuid']}", b"one more chunk", {})
    forged = [
        {**known, "deleted": True, "size": 0, "chunks": 0, "nuid": ""},
        {**known, "nuid": "elsewhere"},
        {**known, "nuid": ">"},
        {**known, "chunks": 1_000_000_000},
        {**known, "size": -1},
    ]
    for one in forged:
        await link.publish_stored(entry_subject(bucket, reference), json.dumps(one).encode(), {})
        assert await Objects(link, bucket).get(reference) == data


async def test_damage_is_noticed(link: Link, bucket: str) -> None:
    data = FIVE_MB[:300_000]
    reference = await Objects(link, bucket).put(data, "text/plain")
    stored = await link.read_batch(f"OBJ_{bucket}", f"$O.{bucket}.C.>")
    await link.api(f"STREAM.MSG.DELETE.OBJ_{bucket}", {"seq": stored[1].seq})
    with pytest.raises(NotFoundError, match="SHA-256"):
        await Objects(link, bucket).get(reference)


async def test_a_reference_that_lies_about_the_size_is_refused(link: Link, bucket: str) -> None:
    objects = Objects(link, bucket)
    reference = await objects.put(b"four", "text/plain")
    with pytest.raises(NotFoundError, match="4 bytes"):
        await objects.get(reference.model_copy(update={"size_bytes": 5}))


@pytest.mark.parametrize("entry", [b"not json", b"[]", json.dumps({"nuid": None, "deleted": False}).encode()])
async def test_an_entry_that_is_none_is_no_object_and_is_replaced(link: Link, bucket: str, entry: bytes) -> None:
    reference = reference_to(b"body")
    await link.publish_stored(entry_subject(bucket, reference), entry, {})
    with pytest.raises(NotFoundError):
        await Objects(link, bucket).get(reference)
    assert await Objects(link, bucket).put(b"body", "application/octet-stream") == reference
    assert await Objects(link, bucket).get(reference) == b"body"


async def test_more_than_64_mib_is_refused_before_anything_is_sent(link: Link, bucket: str) -> None:
    with pytest.raises(InvalidInputError, match="the largest"):
        await Objects(link, bucket).put(bytes(LARGEST_OBJECT_BYTES + 1), "text/plain")
    with pytest.raises(InvalidInputError, match="the largest"):
        await Objects(link, bucket).get(reference_to(b"").model_copy(update={"size_bytes": LARGEST_OBJECT_BYTES + 1}))
    assert await messages_in(link, bucket) == 0


async def test_the_cache_is_bounded(link: Link, bucket: str) -> None:
    objects = Objects(link, bucket)
    references = [await objects.put(bytes([number]) * (24 << 20), "text/plain") for number in range(3)]
    await link.api(f"STREAM.PURGE.OBJ_{bucket}", {})
    assert len(await objects.get(references[2])) == 24 << 20
    assert len(await objects.get(references[1])) == 24 << 20
    with pytest.raises(NotFoundError):
        await objects.get(references[0])


async def test_without_a_bucket_storing_is_a_retryable_error(nats_url: str, namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=nats_url))
    with pytest.raises(BusUnavailableError, match="OBJ_"):
        await Objects(link, namespace.bucket(OBJECTS)).put(b"x", "text/plain")
    await link.close()


async def test_a_server_killed_during_an_upload_only_costs_time(own_server: NatsServer, namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=own_server.url))
    await apply_streams(link, namespace)
    bucket = namespace.bucket(OBJECTS)
    own_server.pause()
    putting = asyncio.create_task(Objects(link, bucket).put(FIVE_MB, "text/plain"))
    await asyncio.sleep(0)
    own_server.restart()
    reference = await putting
    assert await Objects(link, bucket).get(reference) == FIVE_MB
    await link.close()


class _AnswersGetLost(Link):
    """Stores, and then pretends that the answer for an object's entry did not come."""

    lose = True

    async def publish_stored(
        self, subject: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float = 5.0
    ) -> PubAck:
        ack = await super().publish_stored(subject, body, headers, timeout_s=timeout_s)
        if self.lose and ".M." in subject:
            self.lose = False
            raise BusUnavailableError("the answer was lost")
        return ack


async def test_a_lost_answer_loses_no_body(link: Link, bucket: str) -> None:
    link.__class__ = _AnswersGetLost
    reference = await Objects(link, bucket).put(FIVE_MB, "application/octet-stream")
    assert await Objects(link, bucket).get(reference) == FIVE_MB


async def test_an_object_whose_chunks_are_gone_is_stored_again(link: Link, bucket: str) -> None:
    reference = await Objects(link, bucket).put(FIVE_MB, "application/octet-stream")
    await link.api(f"STREAM.PURGE.OBJ_{bucket}", {"filter": f"$O.{bucket}.C.>"})
    with pytest.raises(NotFoundError):
        await Objects(link, bucket).get(reference)
    await Objects(link, bucket).put(FIVE_MB, "application/octet-stream")
    assert await Objects(link, bucket).get(reference) == FIVE_MB
