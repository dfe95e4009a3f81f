"""nats-py's client behind a parser that nothing an outsider publishes can break.

The server stores subjects with control characters or broken UTF-8 and headers that are no headers; nats-py's own parser
answers each of them with a lost connection or a dead read loop, again at every redelivery.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Final, NoReturn, cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, Parser

from motet_schemas.errors import BusUnavailableError, InvalidInputError

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"

InboxHandler = Callable[[str, dict[str, str], str, bytes], None]
"""Takes subject, headers, reply and body of one message."""

_CRLF: Final = b"\r\n"
_LONGEST_LINE: Final = 1 << 20
_PENDING_MESSAGES: Final = 65_536
_PENDING_BYTES: Final = 64 << 20
_HEADER_VERSION: Final = b"NATS/1.0"
_DENIED: Final = "permissions violation"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class WireParser(Parser):
    """Reads the server's side of the NATS protocol: a control line, and after MSG and HMSG a payload."""

    nc: WireClient

    async def parse(self, data: bytes = b"") -> None:
        """Take in `data` and hand on every complete operation. Raises `ProtocolError` for what is none."""
        self.buf.extend(data)
        while self.buf:
            if self.state == AWAITING_MSG_PAYLOAD:
                if len(self.buf) < self.needed + len(_CRLF):
                    return
                await self._payload()
                continue
            end = self.buf.find(_CRLF)
            if end < 0:
                if len(self.buf) > _LONGEST_LINE:
                    raise nats.errors.ProtocolError("nats: control line too long")
                return
            line = bytes(self.buf[:end])
            del self.buf[: end + len(_CRLF)]
            await self._control_line(line)

    async def _control_line(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        if operation in (b"MSG", b"HMSG"):
            self._message_line(operation, rest)
        else:
            await self.nc.control(operation, rest)

    def _message_line(self, operation: bytes, rest: bytes) -> None:
        fields = rest.split(b" ")
        try:
            self.needed = int(fields.pop())
            self.header_needed = int(fields.pop()) if operation == b"HMSG" else 0
            subject, sid, *reply = fields
            self.msg_arg = {"subject": subject, "sid": int(sid), "reply": reply[0] if reply else b""}
        except (ValueError, IndexError):
            raise nats.errors.ProtocolError("nats: malformed message line") from None
        self.state = AWAITING_MSG_PAYLOAD

    async def _payload(self) -> None:
        headers = bytes(self.buf[: self.header_needed])
        body = bytes(self.buf[self.header_needed : self.needed])
        del self.buf[: self.needed + len(_CRLF)]
        self.header_needed = 0
        self.state = AWAITING_CONTROL_LINE
        arg = self.msg_arg
        await self.nc.message(arg["sid"], arg["subject"], arg["reply"], body, headers)


class WireClient(Client):
    """A nats-py client with the parser above, headers read leniently, and two facts about its server."""

    def __init__(self, *, require_tls: bool = False) -> None:
        super().__init__()
        self._require_tls = require_tls
        self._ps: Parser = WireParser(self)
        self._handlers: dict[int, InboxHandler] = {}

    @property
    def server_has_jetstream(self) -> bool:
        """Whether the server this client is connected to runs JetStream itself."""
        return self._server_info.get("jetstream") is True

    @property
    def delivery_epoch(self) -> str:
        """Who counts deliveries: the cluster, or this one run of a single server, which may forget counts."""
        return str(self._server_info.get("cluster") or self._server_info.get("server_id", ""))

    @property
    def server_version_text(self) -> str:
        """The version that the server told, for example `2.15.1`; empty when it told none."""
        return str(self._server_info.get("version", ""))

    async def listen(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]], *, queue: str = ""
    ) -> Subscription:
        """Subscribe; what comes while 65,536 messages or 64 MiB wait for `callback` is dropped and reported."""
        subscribe = cast("Callable[..., Awaitable[Subscription]]", self.subscribe)  # pyright: ignore[reportUnknownMemberType]
        return await subscribe(
            subject,
            queue=queue,
            cb=callback,
            pending_msgs_limit=_PENDING_MESSAGES,
            pending_bytes_limit=_PENDING_BYTES,
        )

    async def listen_inbox(self, subject: str, handler: InboxHandler) -> Subscription:
        """Subscribe without queue or bound: `handler` runs as soon as a message is read, and must not block.

        For inboxes, which get no more than what was asked for.
        """
        subscription = await self.listen(subject, _nothing_queued)
        self._handlers[subscription._id] = handler  # pyright: ignore[reportPrivateUsage]
        return subscription

    async def send(self, subject: str, reply: str, headers: bytes, body: bytes) -> None:
        """Put one message into the buffer that goes to the server. `headers` as `encode_headers` makes them."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if not self.is_connected and len(body) + self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        to = f"{subject} {reply}" if reply else subject
        line = f"HPUB {to} {len(headers)} {len(headers) + len(body)}\r\n" if headers else f"PUB {to} {len(body)}\r\n"
        await self._send_command(b"".join((line.encode(), headers, body, _CRLF)))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def close(self) -> None:
        """Close; what waits for a connection that is down is dropped: over TLS nats-py would break on it."""
        if not self.is_connected:
            self._pending = []
            self._pending_data_size = 0
        try:
            await super().close()
        finally:
            if (writer := self._writer()) is not None:
                writer.transport.abort()  # TLS would wait for the other side's goodbye

    def _writer(self) -> asyncio.StreamWriter | None:
        """Return what nats-py writes to; None over WebSockets."""
        return getattr(self._transport, "_io_writer", None)

    async def message(self, sid: int, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        """Hand one message to its subscription."""
        handler = self._handlers.get(sid)
        if handler is None:
            await self._process_msg(sid, subject, reply, body, headers)
        elif sid in self._subs:
            try:
                handler(
                    subject.decode(errors="replace"), self._read_headers(headers), reply.decode(errors="replace"), body
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the read loop
                await self._error_cb(error)

    async def control(self, operation: bytes, rest: bytes) -> None:
        """Handle one operation other than a message. Raises `ProtocolError` for an unknown one."""
        match operation:
            case b"PING":
                await self._process_ping()
            case b"PONG":
                await self._process_pong()
            case b"-ERR":
                await self._server_error(rest.strip().strip(b"'").decode(errors="replace"))
            case b"INFO":
                await self._process_info(json.loads(rest))
            case b"+OK":
                pass
            case _:
                raise nats.errors.ProtocolError("nats: unknown protocol")

    async def _server_error(self, text: str) -> None:
        """A refused subject reaches the error callback in its own spelling and closes nothing."""
        if _DENIED in text.lower():
            await self._error_cb(nats.errors.Error(text))
        else:
            await self._process_err(text.lower())

    def _connect_command(self) -> bytes:
        if self._require_tls and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError  # nats-py would send the credentials in the clear
        writer = self._writer()
        if writer is not None and writer.get_extra_info("ssl_object") is not None:
            # nats-py upgrades the connection without telling asyncio, which then warns at its end.
            protocol = writer.transport.get_protocol()
            if isinstance(protocol, asyncio.StreamReaderProtocol):
                vars(protocol)["_over_ssl"] = True
        return super()._connect_command()

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._handlers.pop(sid, None)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        return self._read_headers(headers) if headers else None

    def _read_headers(self, headers: bytes) -> dict[str, str]:
        """Read what can be read; the last of a name counts. An inline status is under `Status` and `Description`."""
        if not headers:
            return {}
        first, _, rest = headers.partition(_CRLF)
        parsed = _parse_header_lines(rest)
        if first != _HEADER_VERSION:
            status, _, description = first.removeprefix(_HEADER_VERSION).strip().partition(b" ")
            if status.isdigit():
                parsed[STATUS] = status.decode()
                parsed[DESCRIPTION] = description.decode(errors="replace")
        return parsed

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        return Msg(
            _client=self,
            _sid=sid,
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
        )


async def _nothing_queued(_: Msg) -> None:
    """Stand in for the callback of an inbox: its messages go to its handler and never into a queue."""


def _parse_header_lines(raw: bytes) -> dict[str, str]:
    """Read `Name: value` lines as nats-py does, and pass over what is none. This is on the path of every message."""
    parsed: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and (key := _read_name(name)) is not None:
            parsed[key] = value.strip()
    return parsed


@lru_cache(maxsize=1_024)
def _read_name(name: str) -> str | None:
    key = name.strip()
    return key if key.isascii() and not any(map(str.isspace, key)) else None


@lru_cache(maxsize=256)
def _check_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise InvalidInputError(f"header {name!r}: not a header name", field=name, value=name)
    return name


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return the headers as they go over the wire. Raises `InvalidInputError` for a name or value that cannot."""
    lines = ["NATS/1.0\r\n"]
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise InvalidInputError(f"header {name}: holds a line break", field=name, value=value, rule="one line")
        lines.append(f"{_check_name(name)}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode()


def raise_unsent(error: Exception, subject: str) -> NoReturn:
    """Raise what nats-py's `error` on sending to `subject` means."""
    if isinstance(error, nats.errors.BadSubjectError):
        raise InvalidInputError(f"subject: {subject!r} cannot be sent", field="subject", value=subject) from error
    if isinstance(error, nats.errors.OutboundBufferLimitError):
        raise BusUnavailableError("the connection is down and its buffer full; try again later") from error
    raise BusUnavailableError(f"{subject}: not sent: {str(error) or type(error).__name__}") from error
