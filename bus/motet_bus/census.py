"""Who waits for a human on the whole bus, found from the subjects of the questions and of their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, get_args

from motet_bus.answers import server_time
from motet_bus.bus import Bus
from motet_bus.conversations import Conversations
from motet_schemas import InvalidInputError
from motet_schemas.human import Reason
from motet_schemas.standing import open_questions

_PAGES: Final = 10
_REASONS: Final[tuple[str, ...]] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The open questions at one moment, by reason; every reason is there, most of them with 0."""

    by_reason: Mapping[str, int]
    overdue: int
    longest_s: float


class Census:
    """Counts open questions. Conversations whose every question is closed cost nothing, ended ones are read once."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._conversations = Conversations(
            bus.journal
        )  # its own: whom it reads must not push out whom agents work for
        self._ended: set[str] = set()

    async def take(self) -> Waiting:
        """Return who waits. One request, and one short read for each conversation that may have an open question."""
        asked, now = await self._unanswered()
        self._ended &= asked
        counts: Counter[str] = Counter()
        overdue, longest_s = 0, 0.0
        for conversation in asked - self._ended:
            state = await self._conversations.load(conversation)
            if state.ending is not None:
                self._ended.add(conversation)
                continue
            for question in open_questions(state):
                if question.raised is None:
                    continue
                counts[question.raised.reason] += 1
                overdue += question.raised.due_at < now
                longest_s = max(longest_s, (now - question.raised_at).total_seconds())
        return Waiting({reason: counts[reason] for reason in _REASONS}, overdue, longest_s)

    async def _unanswered(self) -> tuple[set[str], datetime]:
        """Return the conversations with a question that nothing was said to, and the server's time."""
        space, subjects = self._bus.namespace, 0
        request: dict[str, Any] = {"subjects_filter": space.wire("escalate.>")}
        raised: set[tuple[str, int]] = set()
        closed: set[tuple[str, int]] = set()
        now = datetime.now(UTC)
        for _ in range(_PAGES):
            info: dict[str, Any] = await self._bus.link.api(
                f"STREAM.INFO.{self._bus.journal.stream}", {**request, "offset": subjects}
            )
            now = server_time(str(info["ts"]))
            page: dict[str, int] = info["state"].get("subjects") or {}
            for name in page:
                try:
                    subject = space.parse(name)
                except InvalidInputError:
                    continue
                (raised if subject.verb == "raised" else closed).add((subject.conversation, subject.number))
            subjects += len(page)
            if not page or subjects >= int(info.get("total", subjects)):
                break
        return {conversation for conversation, _ in raised - closed}, now
