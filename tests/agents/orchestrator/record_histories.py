"""Records new histories: `python -m tests.agents.orchestrator.record_histories`. Never overwrites one.

A history that exists was written by an earlier version and stays as it is: that it still reads the same is the test.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from random import Random
from typing import Final

from motet_schemas import Conversation, fold_all
from tests.agents.orchestrator.simulation import ACTIONS, Simulation
from tests.schemas.histories import FOLDER, amounts_to, read

_SEEDS: Final = 5_000
_CLEAN: Final = tuple(one for one in ACTIONS if one not in ("rubbish", "cancel", "operate"))


def _ended(state: Conversation, status: str, attempts: int = 2) -> bool:
    return state.ending is not None and state.ending.status == status and len(state.attempts) >= attempts


def _outsiders(simulation: Simulation) -> int:
    return sum(1 for stored in simulation.stream.messages.values() if stored.by == "outsider")


WANTED: Final[dict[str, tuple[tuple[str, ...], Callable[[Conversation, Simulation], bool]]]] = {
    "completed": (_CLEAN, lambda state, _: _ended(state, "completed", 3) and not state.questions),
    "escalated-and-approved": (
        _CLEAN,
        lambda state, _: (
            _ended(state, "completed")
            and any(
                one.raised and one.raised.reason == "low_confidence" and one.decision == "approve"
                for one in state.questions.values()
            )
        ),
    ),
    "replanned": (
        _CLEAN,
        lambda state, _: (
            _ended(state, "completed") and state.plan_revision == 2 and len(state.plan.steps) > 1
            if state.plan
            else False
        ),
    ),
    "lost-claim": (
        _CLEAN,
        lambda state, _: (
            _ended(state, "completed")
            and sum(1 for name in state.attempts for one in state.opened(name) if one.lost) >= 2
        ),
    ),
    "cancelled": ((*_CLEAN, "cancel", "cancel"), lambda state, _: _ended(state, "cancelled")),
    "rubbish": (ACTIONS, lambda state, done: _ended(state, "completed", 3) and _outsiders(done) >= 8),
}


def main() -> None:
    """Look for a schedule that shows what is wanted, and write it down."""
    for name, (actions, shows) in WANTED.items():
        path = FOLDER / f"{name}.jsonl"
        if path.exists():
            continue
        for seed in range(_SEEDS):
            rng = Random(seed)  # noqa: S311
            simulation = Simulation(seed)
            for _ in range(rng.randint(40, 120)):
                simulation.act(rng.choice(actions), rng.randrange(10_000))
            simulation.settle()
            if shows(simulation.stream.load(), simulation):
                path.write_text(simulation.stream.dump(), encoding="utf-8")
                events = read(path)
                told = json.dumps(amounts_to(fold_all("c", events), events), indent=2)
                path.with_suffix(".expected.json").write_text(f"{told}\n", encoding="utf-8")
                sys.stderr.write(f"{path.name}: {len(events)} events, seed {seed}\n")
                break
        else:
            sys.exit(f"{name}: no schedule shows it")


if __name__ == "__main__":
    main()
