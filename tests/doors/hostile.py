"""Bodies, headers and subjects as only an outsider would write them."""

from __future__ import annotations

import json
from typing import Final

from motet_schemas.envelope import BODY_REFERENCE
from motet_schemas.subjects import KINDS

NAME: Final = "f" * 64
LARGEST: Final = 1_000_000


def _json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


REFERENCES: Final[list[bytes]] = [
    _json(name=NAME, sha256=NAME, size_bytes=1 << 30),
    _json(name=NAME, sha256=NAME, size_bytes=10**30),
    _json(name=NAME, sha256=NAME, size_bytes=-1),
    _json(name=NAME, sha256=NAME, size_bytes=10),
    _json(name="../../etc/passwd", sha256=NAME, size_bytes=10),
    _json(name="/etc/passwd", sha256="/etc/passwd", size_bytes=10),
    _json(name="*", sha256="*", size_bytes=10),
    _json(name=">", sha256=">", size_bytes=10),
    _json(name=NAME.upper(), sha256=NAME.upper(), size_bytes=10),
    b"null",
    b"[" * 10_000,
    b"",
]
BODIES: Final[list[bytes]] = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe\x00",
    b'{"kind": "\xed\xa0\x80"}',
    b'{"kind": "\\ud800"}',
    b"[" * LARGEST,
    b'{"a":' * (LARGEST // 5),
    b'{"kind": "content-qa", "input": {"n": ' + b"9" * 5_000 + b"}}",
    b'{"kind": "content-qa", "input": {"n": 1e999}}',
    b'{"kind": "content-qa", "input": {"n": NaN}}',
    b'{"kind": "content-qa", "input": {"n": ' + b"[" * 150 + b"]" * 150 + b"}}",
    b'{"kind": "content-qa", "kind": 7}',
    b'{"outputs": [' + b"{}," * 10_000 + b"{}]}",
    b'{"\\u001b]0;owned\\u0007": "\\u001b[2J"}',
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
]
HEADERS: Final[list[dict[str, str]]] = [
    {},
    {"ce-type": "motet.task.submitted.v0"},
    {"ce-type": "motet..v1", "ce-id": "x" * 5_000, "ce-source": "\x1b[31m"},
    {"motet-cause": "9" * 5_000, "ce-time": "yesterday"},
    {"motet-cause": "-1", "traceparent": "00-" + "f" * 32 + "-" + "f" * 16 + "-ff", "tracestate": "a=b," * 500},
    {"traceparent": "\x1b[31m", "tracestate": "\x00\x01\x02"},
    {"Status": "503", "Description": "No Messages"},
    {"Nats-Subject": "task.submitted.forged.x", "Nats-Sequence": "1", "Nats-Time-Stamp": "never"},
    {f"x-{number}": "y" * 60 for number in range(500)},
]
RAW_HEADERS: Final[list[bytes]] = [
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"garbage",
    b"NATS/1.0\r\nce-type: motet.task.submitted.v1\nfolded: yes\r\nno colon\r\n\xff: 1\r\nce-id: a\rb\r\n\r\n",
]
BY_REFERENCE: Final = {BODY_REFERENCE: "1"}


def subjects(conversation: str) -> list[str]:
    """Return one subject of every kind of event that a stream keeps, and some that are none."""
    details = {1: "1", 2: "tone.1", 3: "tone.1.tone"}
    known: list[str] = []
    for kind, allowed in KINDS.items():
        least = allowed if isinstance(allowed, int) else allowed[0]
        known.append(f"{kind}.{conversation}.{details[least]}")
    return [
        *known,
        f"handled.orchestrator.{conversation}.1",
        f"handled.verifier.{conversation}.1",
        f"task.submitted.{conversation}.content-qa",
        f"task.submitted.{conversation}.content-qa.and.more",
        f"task.unheard-of.{conversation}.1",
        f"step.ready.{conversation}.tone.0.tone",
        f"step.executed.{conversation}.tone.{'9' * 60}",
        f"letter.dead.{conversation}.{'x' * 200}",
        "task.submitted",
    ]
