"""Large bodies, stored once by their SHA-256 in a NATS object store that `nats object get` can read too.

The entry that makes an object exist is written after all its chunks are stored: half an upload is no object.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import secrets
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, Final, cast

import structlog

from motet_bus.answers import StoredMessage
from motet_bus.backoff import Backoff
from motet_bus.fences import EXPECTED_SEQUENCE
from motet_bus.link import Link
from motet_schemas.errors import (
    BusUnavailableError,
    ConflictError,
    InvalidInputError,
    MotetError,
    NotFoundError,
)
from motet_schemas.task import Reference

log = structlog.get_logger(__name__)

LARGEST_OBJECT_BYTES: Final = 64 << 20

_CHUNK_BYTES: Final = 128 << 10
_ROOM_FOR_HEADERS: Final = 1024
_CHUNKS_AT_ONCE: Final = 16
_CACHE_BYTES: Final = 64 << 20
_TRIES: Final = 3
_HASH_ASIDE_BYTES: Final = 1 << 20
_ENTRIES: Final = 64
_REPLICA_BEHIND_S: Final = (0.1, 0.4)
_UPLOAD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Objects:
    """The objects of one bucket, with a cache of what this process put or got (64 MiB at most)."""

    def __init__(self, link: Link, bucket: str, *, replicated: bool = False) -> None:
        """`replicated`: several nodes keep the objects, and the one that answers may be a little behind."""
        self._link = link
        self._looks_again_s = _REPLICA_BEHIND_S if replicated else ()
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._fetching = asyncio.Lock()

    async def put(self, data: bytes, media_type: str) -> Reference:
        """Store `data` (64 MiB at most) unless it is there already, and return the reference to it.

        Raises `InvalidInputError` when it is too large, `BusUnavailableError` when it could not be stored.
        """
        if len(data) > LARGEST_OBJECT_BYTES:
            raise InvalidInputError(
                f"object: {len(data)} bytes; the largest is {LARGEST_OBJECT_BYTES}", field="object", value=len(data)
            )
        digest = await _sha256(data)
        backoff = Backoff(0.2, 2.0)
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._store(digest, data, media_type)
                break
            except (BusUnavailableError, ConflictError) as error:
                if not tries_left:
                    raise BusUnavailableError(f"object {digest.hex()} was not stored: {error.message}") from error
                log.info("object.retried", object=digest.hex(), error=error.message)
            await asyncio.sleep(backoff.next_s())
        self._remember(digest.hex(), data)
        return Reference(name=digest.hex(), sha256=digest.hex(), size_bytes=len(data), media_type=media_type)

    async def get(self, reference: Reference) -> bytes:
        """Return the body, checked against its size and SHA-256.

        Raises `NotFoundError` when there is no such object or its stored copy is damaged, `InvalidInputError` when the
        reference promises more than 64 MiB.
        """
        if reference.size_bytes > LARGEST_OBJECT_BYTES:
            raise InvalidInputError(
                f"object {reference.name}: {reference.size_bytes} bytes; the largest is {LARGEST_OBJECT_BYTES}",
                field="size_bytes",
                value=reference.size_bytes,
            )
        async with self._fetching:
            if (cached := self._cache.get(reference.sha256)) is not None:
                self._cache.move_to_end(reference.sha256)
            else:
                cached = await self._find(reference)
                self._remember(reference.sha256, cached)
        if len(cached) != reference.size_bytes:
            raise NotFoundError(
                f"object {reference.name}: holds {len(cached)} bytes, the reference says {reference.size_bytes}"
            )
        return cached

    def hold(self, sha256: str, data: bytes) -> None:
        """Keep a body at hand that was read elsewhere and has this SHA-256, which the caller has checked."""
        self._remember(sha256, data)

    # Writing

    async def _store(self, digest: bytes, data: bytes, media_type: str) -> None:
        name = digest.hex()
        last = await self._link.read_last_for(self._stream, self._entry_subject(name))
        if last is not None and await self._is_whole(_entry(last), digest, len(data)):
            return
        upload = secrets.token_hex(11)
        try:
            chunks = await self._upload(self._chunk_subject(upload), data)
        except MotetError:
            await self._forget(upload)
            raise
        entry = self._new_entry(name, upload, digest, len(data), chunks, media_type)
        fence = {EXPECTED_SEQUENCE: str(last.seq if last else 0)}
        try:
            await self._link.publish_stored(self._entry_subject(name), json.dumps(entry).encode(), fence)
        except ConflictError:
            await self._forget(upload)  # without an answer the entry may be stored: then its chunks must stay
            raise

    async def _upload(self, subject: str, data: bytes) -> int:
        """Store `data` in chunks, in order, and return their number."""
        size = min(_CHUNK_BYTES, self._link.max_payload - _ROOM_FOR_HEADERS)
        chunks = [data[start : start + size] for start in range(0, len(data), size)]
        before = 0
        for first in range(0, len(chunks), _CHUNKS_AT_ONCE):
            window = chunks[first : first + _CHUNKS_AT_ONCE]
            sending = (self._link.publish_stored(subject, chunk, {}) for chunk in window)
            for ack in await asyncio.gather(*sending, return_exceptions=True):
                if isinstance(ack, BaseException):
                    raise ack
                if ack.seq <= before:
                    raise BusUnavailableError("the chunks were stored out of order")
                before = ack.seq
        return len(chunks)

    def _new_entry(
        self, name: str, upload: str, digest: bytes, size: int, chunks: int, media_type: str
    ) -> dict[str, Any]:
        return {
            "name": name,
            "bucket": self._bucket,
            "nuid": upload,
            "size": size,
            "chunks": chunks,
            "digest": _digest_text(digest),
            "mtime": datetime.now(UTC).isoformat(),
            "headers": {"Content-Type": [media_type]},
            "options": {"max_chunk_size": _CHUNK_BYTES},
        }

    async def _forget(self, upload: str) -> None:
        """Remove the chunks of an upload that did not come to its end; left behind they only cost room."""
        try:
            await self._link.api(f"STREAM.PURGE.{self._stream}", {"filter": self._chunk_subject(upload)}, timeout_s=2)
        except MotetError as error:
            log.info("object.chunks_left", upload=upload, error=error.message)

    # Reading

    async def _is_whole(self, entry: dict[str, Any] | None, digest: bytes, size: int) -> bool:
        """Say whether the object is there: an entry that says the right thing, and its chunks."""
        if entry is None or not _says(entry, digest, size):
            return False
        if size == 0:
            return True
        return await self._link.read_last_for(self._stream, self._chunk_subject(str(entry.get("nuid")))) is not None

    async def _find(self, reference: Reference) -> bytes:
        for wait_s in self._looks_again_s:
            with contextlib.suppress(NotFoundError):
                return await self._fetch(reference)
            await asyncio.sleep(wait_s)
        return await self._fetch(reference)

    async def _fetch(self, reference: Reference) -> bytes:
        """Read the body that the last entry leads to, else that of the first that leads to the right one.

        Whoever may store objects may write another entry for one that is there, or more chunks: neither hides a body.
        """
        subject = self._entry_subject(reference.name)
        last = await self._link.read_last_for(self._stream, subject)
        if last is None:
            raise NotFoundError(f"there is no object {reference.name} in {self._bucket}")
        if (body := await self._body(last, reference.sha256)) is not None:
            return body
        for message in await self._link.read_batch(self._stream, subject, most=_ENTRIES):
            if message.seq != last.seq and (body := await self._body(message, reference.sha256)) is not None:
                log.warning("object.entry_passed_over", object=reference.name, entry=last.seq)
                return body
        raise NotFoundError(
            f"object {reference.name}: what is stored is damaged or has another SHA-256; store it again"
        )

    async def _body(self, message: StoredMessage, sha256: str) -> bytes | None:
        """Return the body that an entry leads to, None when it is not the one with this SHA-256."""
        entry = _entry(message) or {}
        chunks, size, upload = entry.get("chunks"), entry.get("size"), entry.get("nuid")
        if not isinstance(chunks, int) or not isinstance(size, int) or not isinstance(upload, str):
            return None
        if not 0 <= size <= LARGEST_OBJECT_BYTES or not 0 <= chunks <= size or not _UPLOAD.fullmatch(upload):
            return None
        subject = self._chunk_subject(upload)
        bounds = {"most": chunks, "most_bytes": size}
        stored = await self._link.read_batch(self._stream, subject, timeout_s=10, **bounds) if chunks else []
        if sum(len(chunk.body) for chunk in stored) != size:
            return None
        body = b"".join(chunk.body for chunk in stored)
        return body if (await _sha256(body)).hex() == sha256 else None

    def _remember(self, name: str, data: bytes) -> None:
        self._cache[name] = data
        self._cache.move_to_end(name)
        total = sum(map(len, self._cache.values()))
        while total > _CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            total -= len(dropped)

    def _entry_subject(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def _chunk_subject(self, upload: str) -> str:
        return f"$O.{self._bucket}.C.{upload}"


def _entry(message: StoredMessage) -> dict[str, Any] | None:
    """Return the object entry, None when an outsider wrote something else there."""
    try:
        entry: object = json.loads(message.body)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", entry) if isinstance(entry, dict) else None


def _says(entry: dict[str, Any], digest: bytes, size: int) -> bool:
    return not entry.get("deleted") and entry.get("size") == size and entry.get("digest") == _digest_text(digest)


def _digest_text(digest: bytes) -> str:
    return f"SHA-256={base64.urlsafe_b64encode(digest).decode()}"


async def _sha256(data: bytes) -> bytes:
    """Hash `data`, in a thread when that would hold up the event loop."""
    if len(data) <= _HASH_ASIDE_BYTES:
        return hashlib.sha256(data).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
