"""nats-py's client behind a parser that nothing an outsider publishes can break.

The server stores subjects with control characters or broken UTF-8 and headers that are no headers; nats-py's own parser
answers each of them with a lost connection or a dead read loop, again at every redelivery.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, Parser

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"

_CRLF: Final = b"\r\n"
_LONGEST_LINE: Final = 1 << 20
_HEADER_VERSION: Final = b"NATS/1.0"
_DENIED: Final = "permissions violation"


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
        match operation.upper():
            case b"MSG" | b"HMSG":
                self._message_line(operation, rest)
            case b"PING":
                await self.nc._process_ping()
            case b"PONG":
                await self.nc._process_pong()
            case b"-ERR":
                await self.nc.server_error(rest.strip().strip(b"'").decode(errors="replace"))
            case b"INFO":
                await self.nc._process_info(json.loads(rest))
            case b"+OK":
                pass
            case _:
                raise nats.errors.ProtocolError("nats: unknown protocol")

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
        await self.nc._process_msg(arg["sid"], arg["subject"], arg["reply"], body, headers)


class WireClient(Client):
    """A nats-py client with the parser above, headers read leniently, and two facts about its server."""

    def __init__(self) -> None:
        super().__init__()
        self._ps: Parser = WireParser(self)

    @property
    def server_has_jetstream(self) -> bool:
        """Whether the server this client is connected to runs JetStream itself."""
        return self._server_info.get("jetstream") is True

    @property
    def server_version_text(self) -> str:
        """The version that the server told, for example `2.15.1`; empty when it told none."""
        return str(self._server_info.get("version", ""))

    async def server_error(self, text: str) -> None:
        """Handle `-ERR`. A refused subject reaches the error callback in its own spelling and closes nothing."""
        if _DENIED in text.lower():
            await self._error_cb(nats.errors.Error(text))
        else:
            await self._process_err(text.lower())

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        if not headers:
            return None
        first, _, rest = headers.partition(_CRLF)
        parsed = self._parse_header_lines(rest)
        status, _, description = first.removeprefix(_HEADER_VERSION).strip().partition(b" ")
        if status.isdigit():
            parsed[STATUS] = status.decode()
            parsed[DESCRIPTION] = description.decode(errors="replace")
        return parsed

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        return cast("type[Any]", Msg)(
            _client=self,
            _sid=sid,
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
        )
