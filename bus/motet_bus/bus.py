"""What an agent's parts share: the connection, the journal, the conversations, and who this process is."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from motet_bus.connect import ConnectOptions, connect
from motet_bus.conversations import Conversations
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.ended import EndedConversations
from motet_bus.grants import Role
from motet_bus.journal import Journal
from motet_bus.link import Link
from motet_bus.objects import Objects
from motet_bus.topology import OBJECTS, apply_streams
from motet_schemas import Namespace

TRACE_HOPS: Final = "trace_hops"
"""The setting of a process that gives each fact it records a PRODUCER span, not only those that come in by a door."""


@dataclass(frozen=True, slots=True)
class Bus:
    """One process's place on the bus. Open it with `open_bus`."""

    link: Link
    namespace: Namespace
    journal: Journal
    conversations: Conversations
    objects: Objects
    ended: EndedConversations
    role: Role
    name: str
    instance: str
    settings: Mapping[str, str]
    replicated: bool = False
    """Whether several nodes keep the stream of conversations: then a fence does not see what is on its way to them."""


@asynccontextmanager
async def open_bus(
    options: ConnectOptions,
    *,
    role: Role,
    name: str,
    namespace: str = "",
    settings: Mapping[str, str] | None = None,
    crash: CrashPoint = no_crash,
) -> AsyncGenerator[Bus]:
    """Connect as `name` in `role`, create the streams that are missing, and close at the end. `crash` is for tests.

    Raises what `connect` and `apply_streams` raise.
    """
    space = Namespace(namespace)
    link = await connect(options)
    try:
        copies = await apply_streams(link, space, replicas=options.replicas)
        replicated = max(copies, options.replicas) > 1
        objects = Objects(link, space.bucket(OBJECTS), replicated=replicated)
        instance = f"{name}-{secrets.token_hex(4)}"
        every_hop = TRACE_HOPS in (settings or {})
        journal = Journal(link, space, objects, role=role, instance=instance, every_hop=every_hop, crash=crash)
        conversations = Conversations(journal)
        ended = EndedConversations(link, space, conversations)
        await ended.listen()
        yield Bus(
            link=link,
            namespace=space,
            journal=journal,
            conversations=conversations,
            objects=objects,
            ended=ended,
            role=role,
            name=name,
            instance=instance,
            settings=settings or {},
            replicated=replicated,
        )
    finally:
        await link.close()
