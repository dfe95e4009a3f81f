"""The one connection of a process: publishes that are stored, requests, batched reads, all through one reply inbox.

Nothing here retries a publish: who knows what a fact means (the journal) decides that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

import nats.errors
import structlog
from nats.aio.msg import Msg

from motet_bus import direct
from motet_bus.answers import (
    Message,
    PubAck,
    Reply,
    StoredMessage,
    json_object,
    raise_server_error,
    read_puback,
    server_time,
)
from motet_bus.reply_inbox import ReplyInbox
from motet_bus.subscription import Subscription
from motet_bus.wire_client import InboxHandler, WireClient, encode_headers, raise_unsent
from motet_schemas.errors import BusUnavailableError, InvalidInputError, NotAllowedError

log = structlog.get_logger(__name__)

ErrorCallback = Callable[[Exception], None]
MessageCallback = Callable[[Message], Awaitable[None]]

_CLOSE_S: Final = 2.0
_LONGEST_SUBJECT: Final = 2048
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f]")


class Link:
    """One connection to the bus; `motet_bus.connect.connect` makes it.

    Every method that talks to the server has a time-out in seconds and raises `BusUnavailableError` (retryable) when no
    answer came, `NotAllowedError` when the server's permissions forbid the subject.
    """

    def __init__(
        self, client: WireClient, *, inbox_prefix: str, api_prefix: str, on_error: ErrorCallback | None = None
    ) -> None:
        self._client = client
        self._inbox_prefix = inbox_prefix
        self._api_prefix = api_prefix
        self._inbox = ReplyInbox(self.new_inbox())
        self._reconnect_callbacks: list[Callable[[], None]] = []
        self._denial_callbacks: list[Callable[[str], None]] = []
        self._on_error = on_error
        self._closing = False

    @property
    def server_version(self) -> str:
        """The version of the connected server, for example `2.15.1`."""
        return self._client.server_version_text

    @property
    def delivery_epoch(self) -> str:
        """Who counts deliveries: a cluster, or one run of a single server; killed, it counts some of them anew."""
        return self._client.delivery_epoch

    @property
    def max_payload(self) -> int:
        """How many bytes the server takes in one message, headers included."""
        return self._client.max_payload

    @property
    def connected(self) -> bool:
        """Whether the connection stands right now (it is made anew for ever while the link is open)."""
        return self._client.is_connected

    @property
    def closed(self) -> bool:
        """Whether the link has ended for good: by `close`, or because the server put this user out."""
        return self._closing or self._client.is_closed

    def new_inbox(self) -> str:
        """Return a fresh subject under this link's inbox prefix."""
        return f"{self._inbox_prefix}.{secrets.token_hex(11)}"

    def api_subject(self, op: str) -> str:
        """Return the subject of one operation of JetStream's API, for example `STREAM.INFO.CONVERSATIONS`."""
        return f"{self._api_prefix}.{op}"

    # Publishing and asking

    async def publish(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send a message and wait for nothing: it may be lost. While the connection is down it waits in a buffer.

        Raises `InvalidInputError` for a subject, header or size that cannot be sent, `BusUnavailableError` when the
        link is closed or the buffer is full.
        """
        if len(subject) > _LONGEST_SUBJECT or not subject or _UNSAFE.search(subject):
            raise InvalidInputError(f"subject: {subject[:80]!r} cannot be sent", field="subject", value=subject[:80])
        encoded = encode_headers(headers) if headers else b""
        if (size := len(encoded) + len(body)) > self._client.max_payload:
            raise InvalidInputError(
                f"body: {size} bytes with headers; the server takes {self.max_payload}", field="body", value=size
            )
        try:
            await self._client.send(subject, reply, encoded, body)
        except (nats.errors.Error, OSError) as error:
            raise_unsent(error, subject)

    async def publish_stored(
        self, subject: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float = 5.0
    ) -> PubAck:
        """Publish once and wait until the server says that it stored the message.

        Raises `ConflictError` when a fence refused it; `BusUnavailableError` when no answer came: then it may or may
        not be stored, and sending it again with the same `Nats-Msg-Id` and the same fence settles that.
        """
        return read_puback(await self.request(subject, body, headers=headers, timeout_s=timeout_s), subject)

    async def request(
        self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout_s: float
    ) -> Reply:
        """Ask and return the first answer; nobody listening is an answer with `status` 503."""
        replies = await self._inbox.ask(
            subject,
            lambda reply: self.publish(subject, body, headers, reply),
            None,
            connected=self.connected,
            timeout_s=timeout_s,
        )
        return replies[0]

    async def request_many(
        self, subject: str, body: bytes, *, complete: Callable[[Reply], bool], timeout_s: float
    ) -> list[Reply]:
        """Ask and return every answer up to the one that `complete` accepts as the last."""
        return await self._inbox.ask(
            subject,
            lambda reply: self.publish(subject, body, None, reply),
            complete,
            connected=self.connected,
            timeout_s=timeout_s,
        )

    async def scatter(self, subject: str, body: bytes, *, for_s: float) -> list[Reply]:
        """Ask all who listen and return what they answered within `for_s` seconds, at once when nobody listens."""
        return await self._inbox.gather(lambda reply: self.publish(subject, body, None, reply), for_s=for_s)

    async def api(self, op: str, payload: dict[str, Any], *, timeout_s: float = 5.0) -> dict[str, Any]:
        """Call one operation of JetStream's API; an error it answers with is raised (`NotFoundError`, …)."""
        reply = await self.request(self.api_subject(op), json.dumps(payload).encode(), timeout_s=timeout_s)
        if reply.status == 503:
            raise BusUnavailableError(f"JetStream does not answer {op}: it is starting, or it is not enabled")
        answer = json_object(reply.body, op)
        if "error" in answer:
            raise_server_error(answer["error"], op)
        return answer

    # Reading what is stored

    async def read_batch(
        self,
        stream: str,
        filter_subject: str,
        *,
        start_seq: int = 1,
        timeout_s: float = 5.0,
        most: int | None = None,
        most_bytes: int | None = None,
    ) -> list[StoredMessage]:
        """Return all messages on `filter_subject` from sequence `start_seq` on, in order; see `direct.read_batch`."""
        bounds = {"most": most, "most_bytes": most_bytes}
        return await direct.read_batch(self, stream, filter_subject, start_seq=start_seq, timeout_s=timeout_s, **bounds)

    async def read_last(
        self, stream: str, subject_filters: list[str], *, timeout_s: float = 5.0
    ) -> list[StoredMessage]:
        """Return the last message of every subject that the filters match, in order of sequence."""
        return await direct.read_last(self, stream, subject_filters, timeout_s=timeout_s)

    async def read_one(self, stream: str, seq: int, *, timeout_s: float = 5.0) -> StoredMessage | None:
        """Return the message at sequence `seq`, None when there is none (any more)."""
        return await direct.read_single(self, stream, {"seq": seq}, timeout_s=timeout_s)

    async def read_last_for(self, stream: str, subject: str, *, timeout_s: float = 5.0) -> StoredMessage | None:
        """Return the last message on `subject` (wildcards allowed), None when there is none."""
        return await direct.read_single(self, stream, {"last_by_subj": subject}, timeout_s=timeout_s)

    async def server_time(self, stream: str, *, timeout_s: float = 5.0) -> datetime:
        """Return the server's clock (aware, UTC): the one that stored times are measured by."""
        return server_time(str((await self.api(f"STREAM.INFO.{stream}", {}, timeout_s=timeout_s))["ts"]))

    # Listening

    async def subscribe(self, subject: str, callback: MessageCallback, *, queue: str = "") -> Subscription:
        """Call `callback` with every message on `subject`, one after the other.

        Of all who subscribe with the same `queue`, one gets each message. What comes while 65,536 messages or 64 MiB
        wait is dropped and reported to `on_error`, as is what it raises.
        """

        async def receive(message: Msg) -> None:
            await callback(Message(message.subject, message.headers or {}, message.data, message.reply))

        try:
            return Subscription(await self._client.listen(subject, receive, queue=queue))
        except (nats.errors.Error, OSError) as error:
            raise_unsent(error, subject)

    async def subscribe_inbox(self, subject: str, handler: InboxHandler) -> Subscription:
        """Call `handler` the moment a message on `subject` is read, without a bound; it must not block."""
        try:
            return Subscription(await self._client.listen_inbox(subject, handler))
        except (nats.errors.Error, OSError) as error:
            raise_unsent(error, subject)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect; it must not block. Returns a function that undoes this."""
        self._reconnect_callbacks.append(callback)
        return lambda: self._reconnect_callbacks.remove(callback)

    def on_denied(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback` with each subject whose use the server refused. Returns a function that undoes this."""
        self._denial_callbacks.append(callback)
        return lambda: self._denial_callbacks.remove(callback)

    # The life of the connection

    async def open(self) -> None:
        """Listen on the reply inbox. Raises `NotAllowedError` when the server does not let this user do so."""
        denied: list[str] = []
        undo = self.on_denied(denied.append)
        try:
            await self._client.listen_inbox(self._inbox.subject, self._inbox.receive)
            # nats-py's first ping may overtake the subscription that is still buffered; the second cannot.
            await self._client.flush(timeout=5)
            await self._client.flush(timeout=5)
        except (nats.errors.Error, OSError) as error:
            raise_unsent(error, self._inbox.subject)
        finally:
            undo()
        if denied:
            raise NotAllowedError(
                f"the server does not allow this user to listen on {self._inbox.subject}; "
                "set the inbox prefix that its permissions name"
            )

    async def close(self) -> None:
        """Send what is buffered and close, within 2 s. Whoever still waits gets `BusUnavailableError`."""
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_S / 2):
                if self._client.is_connected:
                    await self._client.flush(timeout=1)
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_S / 2):
                await self._client.close()
        self._inbox.fail("the connection was closed", unsent_too=True)

    async def on_disconnected(self) -> None:
        """For nats-py: answers to what was sent over the lost connection will not come."""
        if self._closing or not self.server_version:  # it never stood: whoever connects says so
            return
        log.warning("link.disconnected", server=self.server_version)
        self._inbox.fail("the connection was lost before the answer came; try again", unsent_too=False)

    async def on_reconnected(self) -> None:
        """For nats-py: the connection stands again."""
        log.info("link.reconnected", server=self.server_version)
        for callback in list(self._reconnect_callbacks):
            callback()

    async def on_closed(self) -> None:
        """For nats-py: the connection has ended for good."""
        self._inbox.fail("the connection was closed", unsent_too=True)
        for callback in list(self._reconnect_callbacks):
            callback()

    async def on_client_error(self, error: Exception) -> None:
        """For nats-py: an error that no call is waiting for."""
        if (subject := self._inbox.denied(str(error))) is not None:
            log.warning("link.denied", subject=subject)
            for callback in list(self._denial_callbacks):
                callback(subject)
        elif self._on_error is not None:
            self._on_error(error)
        elif not self._closing:
            log.warning("link.error", error=str(error) or type(error).__name__)
