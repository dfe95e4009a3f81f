"""The words of a pull: what is asked of the server, and what its status messages mean."""

from __future__ import annotations

import json
from enum import Enum
from typing import Final

EXPIRES_S: Final = 30.0
HEARTBEAT_S: Final = 5.0

_MOST_BYTES: Final = 16 << 20
_NANOSECONDS: Final = 1_000_000_000
_OVER: Final = (
    "request timeout",
    "no messages",
    "batch completed",
    "message size exceeds maxbytes",
    "server shutdown",
    "leadership change",
)


class Verdict(Enum):
    """What a status says. Every verdict but `ALIVE` ends the pull it came for."""

    ALIVE = "the server has nothing to deliver"
    OVER = "the pull is over; ask again"
    MISSING = "nobody answers for the consumer"
    REFUSED = "the server will not serve this pull; wait before asking again"


def next_operation(stream: str, durable: str) -> str:
    """Return the operation of JetStream's API that pulls from this consumer."""
    return f"CONSUMER.MSG.NEXT.{stream}.{durable}"


def pull_request(number: int) -> bytes:
    """Return the body that asks for `number` messages, 16 MiB at most, for 30 s, with a sign of life every 5 s."""
    request = {
        "batch": number,
        "expires": round(EXPIRES_S * _NANOSECONDS),
        "idle_heartbeat": round(HEARTBEAT_S * _NANOSECONDS),
        "max_bytes": _MOST_BYTES,
    }
    return json.dumps(request).encode()


def judge(status: str, description: str) -> Verdict:
    """Return what an inline status (`"408"`, …) with its description says."""
    text = description.lower()
    if status == "100":
        return Verdict.ALIVE
    if status == "503" or "consumer deleted" in text:
        return Verdict.MISSING
    return Verdict.OVER if any(known in text for known in _OVER) else Verdict.REFUSED
