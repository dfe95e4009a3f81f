"""`motet doctor`: looks at the bus from outside, and says of each thing whether it is well and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from motet_bus import AgentCard, Client
from motet_bus.connect import connect
from motet_bus.link import Link
from motet_bus.topology import StreamSpec, conversations_stream, dead_letters_stream, ensure_stream, objects_stream
from motet_gateway.config import Settings
from motet_gateway.consumers import ConsumerState, consumer_states
from motet_gateway.places import Place, any_place
from motet_gateway.session import connected
from motet_schemas import Conversation, MotetError, Namespace, NotFoundError

Status = Literal["ok", "warning", "problem"]

LEAST_FREE_BYTES: Final = 1 << 30
SKEW_WARNING_S: Final = 2.0
SKEW_PROBLEM_S: Final = 30.0
_CONVERSATIONS: Final = 200
_ROLES: Final = ("orchestrator", "planner", "executor", "verifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one thing, and what to do when it is not well."""

    check: str
    status: Status
    found: str
    advice: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return it as `motet doctor --json` shows it."""
        return asdict(self)


async def examine(settings: Settings) -> list[Finding]:
    """Return all findings; those that need what is broken are left out."""
    namespace = Namespace(settings.namespace)
    try:
        async with any_place(settings) as place:
            link = await connect(settings.connect_options(place.url, "motet-doctor"))
            try:
                findings = [_server(link, place), *await _streams(link, namespace), *await _clock(link, namespace)]
            finally:
                await link.close()
            findings += await _storage(place)
            if all(finding.status != "problem" for finding in findings):
                async with connected(settings, place) as client:
                    findings += await _life(client, place)
            return findings
    except MotetError as error:
        return [
            Finding(
                check="server",
                status="problem",
                found=error.message,
                advice="see `motet doctor --help` for how to say where it is",
            )
        ]


def _server(link: Link, place: Place) -> Finding:
    whose = "embedded" if place.embedded else "run by `motet up` or `motet run`" if place.discovery else "external"
    return Finding(
        check="server", status="ok", found=f"nats-server {link.server_version} with JetStream answers ({whose})"
    )


async def _streams(link: Link, namespace: Namespace) -> list[Finding]:
    return [
        await _stream(link, conversations_stream(namespace)),
        await _stream(link, dead_letters_stream(namespace), dead=True),
        await _stream(link, objects_stream(namespace)),
    ]


async def _stream(link: Link, spec: StreamSpec, *, dead: bool = False) -> Finding:
    check = f"stream {spec.name}"
    try:
        info = await link.api(f"STREAM.INFO.{spec.name}", {})
        await ensure_stream(link, spec)
    except NotFoundError:
        return Finding(check=check, status="ok", found="not there yet; it is created at the first use")
    except MotetError as error:
        return Finding(
            check=check,
            status="problem",
            found=error.message,
            advice="set the stream back, or use another namespace (MOTET_NAMESPACE)",
        )
    state = info["state"]
    if dead and state["messages"]:
        return dead_letters_finding(check, int(state["messages"]))
    found = f"as it must be; {state['messages']:,} messages, {state['bytes'] / 1e6:,.1f} MB"
    return Finding(check=check, status="ok", found=found)


def dead_letters_finding(check: str, letters: int) -> Finding:
    """Tell of messages that could not be handled: how many, and where each can be seen."""
    return Finding(
        check=check,
        status="warning",
        found=f"{letters:,} dead letter{'s' if letters != 1 else ''}, messages that could not be handled",
        advice=(
            "each reached a human as a question, unless its conversation had ended: `motet inbox` lists the open ones, "
            "`motet show CONVERSATION` tells which letter and why (letter.dead); the letters stay in this stream"
        ),
    )


async def _clock(link: Link, namespace: Namespace) -> list[Finding]:
    """Compare the clocks: half of the round trip is what the measurement can be wrong by."""
    before = datetime.now(UTC)
    try:
        info = await link.api(f"STREAM.INFO.{conversations_stream(namespace).name}", {})
    except NotFoundError:
        return []
    after = datetime.now(UTC)
    server = datetime.fromisoformat(str(info["ts"]))
    skew_s = (server - (before + (after - before) / 2)).total_seconds()
    return [clock_finding(skew_s)]


def clock_finding(skew_s: float) -> Finding:
    """Judge how far the server's clock is ahead of this machine's, in seconds."""
    found = f"the server's clock is {abs(skew_s):.2f} s {'ahead of' if skew_s >= 0 else 'behind'} this machine's"
    status: Status = "ok"
    if abs(skew_s) > SKEW_WARNING_S:
        status = "problem" if abs(skew_s) > SKEW_PROBLEM_S else "warning"
    advice = "claims and due dates go by the server's clock: let NTP set both" if status != "ok" else ""
    return Finding(check="clock", status=status, found=found, advice=advice)


async def _storage(place: Place) -> list[Finding]:
    if place.embedded is None and place.discovery is None:
        return []
    return [disk_finding(place.store, shutil.disk_usage(place.store).free)]


def disk_finding(store: Path, free_bytes: int) -> Finding:
    """Judge the space left for the store, in bytes."""
    found = f"{free_bytes / 1e9:,.1f} GB free for {store}"
    if free_bytes < LEAST_FREE_BYTES:
        advice = "the server stops recording when the disk is full: free some space, or name another store"
        return Finding(check="disk", status="problem", found=found, advice=advice)
    return Finding(check="disk", status="ok", found=found)


async def _life(client: Client, place: Place) -> list[Finding]:
    cards = await client.roll_call()
    findings = [] if place.embedded is not None else [roles_finding(cards)]
    states = await consumer_states(client.link, client.namespace)
    findings += consumer_findings(states, cards)
    now = datetime.now(UTC)
    open_ones = [one for one in await client.conversations() if one.status in ("running", "waiting")]
    loaded = [await client.load(one.conversation) for one in open_ones[:_CONVERSATIONS]]
    return [*findings, claims_finding(loaded, now)]


def roles_finding(cards: Sequence[AgentCard]) -> Finding:
    """Judge whether every built-in role is played by somebody."""
    missing = [role for role in _ROLES if all(card.role != role for card in cards)]
    found = f"{len(cards)} agents answer"
    if missing:
        return Finding(
            check="agents",
            status="problem",
            found=f"{found}; none is {', '.join(missing)}",
            advice=f"start what is missing: `motet up`, or `motet agent motet_agents.{missing[0]}:agent`",
        )
    return Finding(check="agents", status="ok", found=found)


def consumer_findings(states: Sequence[ConsumerState], cards: Sequence[AgentCard]) -> list[Finding]:
    """Judge each consumer: is there lag, and does anybody serve it?"""
    served = {consumer.name for card in cards for consumer in card.consumers}
    findings: list[Finding] = []
    for state in states:
        waiting = state.pending + state.unacknowledged
        found = f"{state.pending} waiting, {state.unacknowledged} in work, {state.redelivered} redelivered"
        nobody = state.name not in served and state.asking == 0
        findings.append(
            Finding(
                check=f"consumer {state.name}",
                status="problem" if nobody and waiting else "ok",
                found=f"{found}{'; nobody serves it' if nobody else ''}",
                advice="start an agent that serves it: `motet up`, or `motet agent MODULE:OBJECT`"
                if nobody and waiting
                else "",
            )
        )
    return findings


def claims_finding(conversations: Sequence[Conversation], now: datetime) -> Finding:
    """Judge the claims of conversations that have not ended: one long out of date has an owner that is gone."""
    live = lost = 0
    for conversation in conversations:
        for attempts in conversation.attempts.values():
            for attempt in attempts:
                if attempt.claim is None or attempt.ended:
                    continue
                if attempt.claim.live_until + timedelta(seconds=SKEW_PROBLEM_S) < now:
                    lost += 1
                else:
                    live += 1
    found = f"{live} live, {lost} out of date, in {len(conversations)} open conversations"
    if lost:
        return Finding(
            check="claims",
            status="warning",
            found=found,
            advice="their owners are gone; another executor takes over as soon as one runs (`motet up`)",
        )
    return Finding(check="claims", status="ok", found=found)
