"""Writers that append to one conversation with knowledge that may be old, over connections that lose answers."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from motet_bus import Bus
from motet_bus.fences import Fence, attempt_fence, conversation_fence
from motet_gateway.chaos.proxy import FaultyProxy
from motet_schemas import BusUnavailableError, ConflictError, Fact, StepRenewed, TaskCancel
from motet_schemas.subjects import build
from tests.bus.sequential import Append, explain, settle

SHORT_S: Final = 0.02
LONG_S: Final = 60.0
PLACES: Final = 3


def contested(conversation: str, place: int) -> tuple[Fact, Fence]:
    """Return a fact whose subject others want too."""
    return Fact(build("task.cancel", conversation, f"place-{place}"), TaskCancel()), Fence(0)


def renewal(conversation: str, last: int) -> tuple[Fact, Fence]:
    """Return a fact of an attempt behind the last event there that is known."""
    subject = build("step.renewed", conversation, "s", 1)
    return Fact(subject, StepRenewed(owner="me", nonce="a-nonce-of-mine", ttl_s=30, attempt=1)), attempt_fence(
        subject, last
    )


def decision(conversation: str, last: int) -> tuple[Fact, Fence]:
    """Return a fact that nobody else wants, made on all that is known of the conversation."""
    subject = build("task.cancel", conversation, f"own-{secrets.token_hex(4)}")
    return Fact(subject, TaskCancel()), conversation_fence(conversation, last)


@dataclass
class Writer:
    """One of several; keeps what it did in `operations`. `proxy` loses some of its answers."""

    bus: Bus
    conversation: str
    rng: random.Random
    kinds: Sequence[str] = ("contested", "renewal", "decision")
    proxy: FaultyProxy | None = None
    operations: list[Append] = field(default_factory=list[Append])
    _seen: dict[str, int] = field(default_factory=dict[str, int])

    async def write(self, number: int) -> None:
        """Append that many facts, one after the other."""
        for _ in range(number):
            await self.append()

    async def append(self) -> None:
        """Append one fact, and keep how that went."""
        kind = self.rng.choice(self.kinds)
        match kind:
            case "contested":
                fact, fence = contested(self.conversation, self.rng.randrange(PLACES * len(self.operations) + 1))
            case "renewal":
                fact, fence = renewal(self.conversation, self._seen.get(kind, 0))
            case _:
                fact, fence = decision(self.conversation, self._seen.get(kind, 0))
        lossy = self.proxy is not None and self.rng.random() < 0.1
        if self.proxy is not None and lossy:
            self.proxy.lose_next_answer()
        patience_s = SHORT_S if lossy and self.rng.random() < 0.5 else LONG_S
        done = await timed_append(self.bus, fact, fence, patience_s=patience_s)
        self.operations.append(done)
        self._seen[kind] = done.seq or done.found or self._seen.get(kind, 0)


async def timed_append(bus: Bus, fact: Fact, fence: Fence, *, patience_s: float = LONG_S) -> Append:
    """Append a fact; what was asked, when, and what the answer was."""
    subject, invoked = str(fact.subject), time.monotonic()
    seq, found = 0, None
    try:
        seq = await bus.journal.append(fact, fence=fence, patience_s=patience_s)
        answer = "recorded"
    except ConflictError as refusal:
        answer, found = "refused", refusal.last_sequence
    except BusUnavailableError:
        answer = "unknown"
    return Append(
        id=fact.id,
        subject=subject,
        filter=fence.filter or subject,
        last=fence.last,
        invoked=invoked,
        answered=time.monotonic(),
        answer=answer,  # type: ignore[arg-type]
        seq=seq,
        found=found,
    )


async def order_of(bus: Bus, conversation: str, operations: Sequence[Append]) -> list[Append] | None:
    """Return an order that explains all answers and is that of the stream, None when there is none.

    Raises `AssertionError` when the stream holds what nobody wrote, or not what somebody was told.
    """
    last = max(one.seq for one in operations)
    events = await bus.journal.read_conversation(conversation, at_least=last)
    recorded = {event.id: event.seq for event in events}
    assert len(recorded) == len(events), "a fact was recorded twice"
    settled = settle(operations, recorded)
    told = {one.id: one.seq for one in settled if one.answer == "recorded"}
    assert told == recorded
    return explain(settled)
