"""Ends of conversations, told by a plain broadcast: whoever works for an ended one stops.

The broadcast may be lost: then work goes on that nobody counts. It is never needed for correctness.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from motet_bus.answers import Message
from motet_bus.conversations import Conversations
from motet_bus.link import Link
from motet_schemas import MotetError, Namespace

log = structlog.get_logger(__name__)

ENDED: Final = "signal.ended.*"
_REMEMBERED: Final = 10_000


class EndedConversations:
    """The conversations that this process heard of ending, and the tasks that work for those that have not."""

    def __init__(self, link: Link, namespace: Namespace, conversations: Conversations) -> None:
        self._link = link
        self._conversations = conversations
        self._namespace = namespace
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._working: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)

    async def listen(self) -> None:
        """Begin to listen for ends."""
        await self._link.subscribe(self._namespace.wire(ENDED), self._on_end)

    async def tell(self, conversation: str) -> None:
        """Tell everybody that a conversation has ended."""
        await self._link.publish(self._namespace.wire(ENDED.replace("*", conversation)), b"")

    def forget(self, conversation: str) -> None:
        """Unhear of an end that the conversation's record does not show."""
        self._ended.pop(conversation, None)

    def __contains__(self, conversation: str) -> bool:
        return conversation in self._ended

    @contextmanager
    def cancels(self, conversation: str, task: asyncio.Task[Any]) -> Generator[None]:
        """Cancel `task` when the conversation ends while the context lasts."""
        if conversation in self._ended:
            task.cancel()
        self._working[conversation].add(task)
        try:
            yield
        finally:
            self._working[conversation].discard(task)
            if not self._working[conversation]:
                del self._working[conversation]

    async def _on_end(self, message: Message) -> None:
        conversation = message.subject.rpartition(".")[2]
        self._ended[conversation] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        if conversation in self._working and await self._has_ended(conversation):
            for task in list(self._working.get(conversation, ())):
                task.cancel()

    async def _has_ended(self, conversation: str) -> bool:
        """Believe the record, not the broadcast."""
        try:
            return (await self._conversations.load(conversation)).ending is not None
        except MotetError as error:
            log.warning("ended.not_confirmed", conversation=conversation, error=error.message)
            return False
