"""Loads conversations by one batched read, from where the cached state ends."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from motet_bus.journal import Journal
from motet_schemas import BusUnavailableError, Conversation, fold
from motet_schemas.envelope import TRACEPARENT

_READS: Final = 8


class Conversations:
    """Conversations as this process last read them; at most `size` are kept, the least recently used go first."""

    def __init__(self, journal: Journal, *, size: int = 1_000) -> None:
        self._journal = journal
        self._size = size
        self._known: OrderedDict[str, Conversation] = OrderedDict()
        self._verdicts: dict[str, dict[str, str]] = {}

    async def load(self, conversation: str, *, at_least: int = 0, fresh: bool = False) -> Conversation:
        """Return the conversation as recorded, at least up to the stream sequence `at_least`.

        `fresh` reads from the start: what is kept here may be ahead of a stream that somebody purged. Raises
        `BusUnavailableError` when the server that answers stays behind `at_least`.
        """
        state = Conversation(id=conversation)
        if not fresh:
            state = self._known.get(conversation, state)
        for read in range(_READS):
            for event in await self._journal.read_conversation(conversation, start_seq=state.last_seq + 1):
                state = fold(state, event)
                if event.subject.family == "verify":
                    traced = self._verdicts.setdefault(conversation, {})
                    traced[event.subject.step] = event.headers.get(TRACEPARENT, "")
            if state.last_seq >= at_least:
                self._keep(state)
                return state
            await asyncio.sleep(0.01 * 2**read)
        if conversation not in self._known:
            self._verdicts.pop(conversation, None)
        raise BusUnavailableError(
            f"conversation {conversation}: the server shows events up to {state.last_seq}, "
            f"not yet {at_least}; try again"
        )

    def verdicts(self, conversation: str, steps: Iterable[str]) -> list[str]:
        """Return the `traceparent` of the last verdict on each of these steps, as far as this process has read any."""
        known = self._verdicts.get(conversation, {})
        return [known[step] for step in sorted(steps) if step in known]

    def _keep(self, state: Conversation) -> None:
        if state.ending is not None:  # hardly anybody asks again
            self._known.pop(state.id, None)
            return
        self._known[state.id] = state
        self._known.move_to_end(state.id)
        while len(self._known) > self._size:
            forgotten, _ = self._known.popitem(last=False)
            self._verdicts.pop(forgotten, None)
