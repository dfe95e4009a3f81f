"""`motet doctor`: looks at the bus from outside, and says of each thing whether it is well and what to do."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from motet_bus import Bus, Client, open_bus
from motet_bus.connect import connect
from motet_bus.letters import DeadLetters, LetterFilter
from motet_bus.link import Link
from motet_bus.presence import roll_call
from motet_bus.topology import conversations_stream, dead_letters_stream, objects_stream, timers_stream
from motet_gateway.config import Settings
from motet_gateway.consumers import consumer_states
from motet_gateway.doctor_consumers import Look, consumer_findings
from motet_gateway.doctor_finding import Finding, attempted
from motet_gateway.doctor_server import (
    account_findings,
    clock_findings,
    no_server_finding,
    permissions_finding,
    server_finding,
    stream_findings,
    sync_finding,
)
from motet_gateway.doctor_work import claims_finding, letters_finding, questions_finding, roles_finding
from motet_gateway.places import Place, any_place
from motet_schemas import MotetError, Namespace

MOST_CONVERSATIONS: Final = 200
"""How many open conversations are looked into at most, newest first."""
_BETWEEN_LOOKS_S: Final = 1.0
_MOST_LETTERS: Final = 100_000


async def examine(settings: Settings) -> list[Finding]:
    """Return all findings; those that need what is not there are left out. Takes about two seconds."""
    try:
        async with any_place(settings) as place:
            link = await connect(settings.connect_options(place.url, "motet-doctor"))
            try:
                return await _findings(settings, place, link)
            finally:
                await link.close()
    except MotetError as error:
        return [no_server_finding(error)]


async def _findings(settings: Settings, place: Place, link: Link) -> list[Finding]:
    namespace, denied = Namespace(settings.namespace), list[str]()
    link.on_denied(denied.append)
    findings = [server_finding(link, place), sync_finding(place)]
    findings += await attempted("storage", lambda: account_findings(link, place))
    streams: list[Finding] = []
    replicas = settings.connect_options(place.url, "motet-doctor").replicas
    for kind in (conversations_stream, timers_stream, dead_letters_stream, objects_stream):
        spec = kind(namespace)
        streams += await attempted(f"stream {spec.name}", partial(stream_findings, link, spec, replicas=replicas))
    findings += streams
    findings += await attempted("clock", lambda: clock_findings(link, namespace))
    findings += await attempted("agents", lambda: _agents(place, link, namespace))
    if await _recorded(link, namespace) and all(finding.status == "ok" for finding in streams):
        findings += await _work(settings, place, denied)
    return [*findings, permissions_finding(denied, conversations_stream(namespace).name)]


async def _agents(place: Place, link: Link, namespace: Namespace) -> list[Finding]:
    """Look at the consumers twice, with a roll call between, so that lag that moves is told from lag that does not."""
    before = await consumer_states(link, namespace)
    cards = await roll_call(link, namespace)
    after = await consumer_states(link, namespace)
    if any(state.pending for state in after):
        await asyncio.sleep(_BETWEEN_LOOKS_S)
        after = await consumer_states(link, namespace)
    alone = place.embedded is not None
    stream = conversations_stream(namespace).name
    look = Look(stream=stream, namespace=namespace, before=before, after=after, cards=cards, alone=alone)
    return [*([] if alone else [roles_finding(cards)]), *consumer_findings(look)]


async def _recorded(link: Link, namespace: Namespace) -> bool:
    """Say whether there is a stream to look into: the doctor creates none."""
    try:
        await link.api(f"STREAM.INFO.{conversations_stream(namespace).name}", {})
    except MotetError:
        return False
    return True


async def _work(settings: Settings, place: Place, denied: list[str]) -> list[Finding]:
    options = settings.connect_options(place.url, "motet-doctor")
    async with open_bus(options, role="client", name="doctor", namespace=settings.namespace) as bus:
        bus.link.on_denied(denied.append)
        findings = await attempted("conversations", lambda: _conversations(bus))
        return findings + await attempted("dead letters", lambda: _letters(bus))


async def _conversations(bus: Bus) -> list[Finding]:
    client = Client(bus)
    cards = await client.roll_call()
    open_ones = [one.conversation for one in await client.conversations() if one.status in ("running", "waiting")]
    loaded = [await client.load(one) for one in open_ones[:MOST_CONVERSATIONS]]
    now = await bus.journal.server_time()
    findings = [claims_finding(loaded, now, cards), questions_finding(loaded, now)]
    if len(open_ones) > len(loaded):
        found = f"of {len(open_ones):,} open conversations the {len(loaded)} newest were looked into"
        findings.append(Finding(name="conversations", status="unknown", found=found))
    return findings


async def _letters(bus: Bus) -> list[Finding]:
    count = 0
    async for _ in DeadLetters(bus).find_all(LetterFilter()):
        count += 1
        if count >= _MOST_LETTERS:
            break
    return [letters_finding(count)]
