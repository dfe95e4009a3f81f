"""A real server full of rubbish, and the real agents: they take it out of the way, and the next task is done."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from motet_bus import Client
from motet_schemas import Namespace, Task
from tests.agents.test_whole_conversations import all_agents, until_ended
from tests.bus.servers import NatsServer, publish_raw, raw_message
from tests.bus.support import eventually, is_settled
from tests.doors.hostile import BODIES, BY_REFERENCE, HEADERS, RAW_HEADERS, REFERENCES, subjects

_CONSUMERS = ("orchestrator", "planner", "verifier", "step-tone", "step-compliance", "step-links")
_SIGNALS = ("signal.ended.good", "signal.ended.*x", "signal.ended.a.b", "signal.roll-call", "signal.unheard-of")
_TASK = Task(
    kind="content-qa",
    input={"draft": "Terms apply."},
    checklist={"tone": {}, "compliance": {"required": ["Terms apply"]}},
)


def _flatten(headers: dict[str, str]) -> bytes:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode("utf-8", "replace")


def _frames(namespace: Namespace) -> list[bytes]:
    """Return protocol lines: every subject with some body, every body and header with some subject, and signals."""
    wires = [namespace.wire(name).encode() for name in (*subjects("bad"), *subjects("good"))]
    small = [body for body in BODIES if len(body) < 100_000]
    frames: list[bytes] = []
    for number, wire in enumerate(wires):
        frames.append(raw_message(wire, _flatten(HEADERS[number % len(HEADERS)]), small[number % len(small)]))
        frames.append(raw_message(wire, _flatten(BY_REFERENCE), REFERENCES[number % len(REFERENCES)]))
    for number, body in enumerate(BODIES):
        frames.append(raw_message(wires[number % len(wires)], b"NATS/1.0\r\n\r\n", body))
    frames += [raw_message(wires[number], headers) for number, headers in enumerate(RAW_HEADERS)]
    for signal in _SIGNALS:
        frames += [raw_message(namespace.wire(signal).encode(), RAW_HEADERS[0], body) for body in small[:6]]
    dead = namespace.wire("dead.verifier.bad.1").encode()
    frames += [raw_message(dead + b".x", b"NATS/1.0\r\n\r\n", body) for body in small]
    odd = namespace.wire("task.submitted.").encode()
    frames += [b"PUB %s%s.x 1\r\nz\r\n" % (odd, name) for name in (b"\xff", b"\x1b[31m", b"n\x00l", "é".encode())]
    bucket = namespace.bucket("motet-objects")
    for number, body in enumerate((b"[" * 10_000, b"null", b'{"nuid": ">"}')):
        name = base64.urlsafe_b64encode(f"{number}".encode()).decode()
        frames.append(raw_message(f"$O.{bucket}.M.{name}".encode(), b"NATS/1.0\r\n\r\n", body))
    return frames


@pytest.mark.timeout(120)
async def test_rubbish_on_every_subject_stops_nobody(
    nats_server: NatsServer, nats_url: str, namespace: Namespace
) -> None:
    async with all_agents(nats_url, namespace) as client:
        said = publish_raw(nats_server.address, *_frames(namespace))
        assert said.count(b"-ERR") == 0
        await client.submit(_TASK, "clean")
        clean = await until_ended(client, "clean")
        cards = await client.roll_call()
        await eventually(lambda: _all_settled(client), within_s=60)
        listed = await client.conversations()
        await client.submit(_TASK, "afterwards")
        afterwards = await until_ended(client, "afterwards")
    for state in (clean, afterwards):
        assert state.ending is not None
        assert (state.ending.status, state.ending.report.verdict) == ("completed", "approved")
    assert {card.role for card in cards} == {"orchestrator", "planner", "executor", "verifier"}
    by_id = {one.conversation: one for one in listed}
    assert by_id["bad"].status in ("failed", "waiting", "completed", "cancelled")
    assert json.dumps([one.kind for one in listed])


async def _all_settled(client: Client) -> Any:
    done = [await is_settled(client.link, client.namespace, consumer) for consumer in _CONSUMERS]
    return all(done)
