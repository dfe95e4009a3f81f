"""Which fault comes when: a deck that is shuffled again and again, so that every fault has its turn. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Act = Literal["kill", "freeze", "kill server", "freeze server", "cut", "half-close", "lose answer", "repeat", "delay"]

ROLES: Final = ("orchestrator", "planner", "executor", "verifier", "watcher", "desk")
_KILLS: Final = 3
_FREEZES: Final = {**dict.fromkeys(ROLES, 1), "executor": 2}
_OTHERS: Final[dict[Act, int]] = {
    "kill server": 3,
    "freeze server": 1,
    "cut": 3,
    "half-close": 1,
    "lose answer": 3,
    "repeat": 2,
    "delay": 1,
}
_PAUSE_S: Final = (0.3, 2.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: what, on whom, how long after the one before it, and three numbers from 0 to 1 for its details."""

    act: Act
    role: str
    after_s: float
    which: float
    how_long: float
    how: float


def faults(seed: int) -> Iterator[Fault]:
    """Yield faults for ever; the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - which process dies next is no secret
    while True:
        cards = deck()
        rng.shuffle(cards)
        for act, role in cards:
            yield Fault(
                act=act,
                role=role,
                after_s=rng.uniform(*_PAUSE_S),
                which=rng.random(),
                how_long=rng.random(),
                how=rng.random(),
            )


def deck() -> list[tuple[Act, str]]:
    """Return all that happens in one round: what, and to whom."""
    cards: list[tuple[Act, str]] = []
    for role in ROLES:
        cards.extend(("kill", role) for _ in range(_KILLS))
        cards.extend(("freeze", role) for _ in range(_FREEZES[role]))
    for act, times in _OTHERS.items():
        cards.extend((act, "") for _ in range(times))
    return cards
