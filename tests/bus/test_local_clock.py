"""No process decides by its own clock: where the code reads it at all, and what for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_READS: Final = re.compile(r"\b(?:datetime\.(?:now|utcnow|today)|time\.time(?:_ns)?|date\.today)\(")
SHOWN_ONLY: Final = {
    "bus/motet_bus/census.py": "a first value, which the clock of the server replaces",
    "bus/motet_bus/dead_letters.py": "when a message failed for the first time, for people",
    "bus/motet_bus/objects.py": "the time of an object, for people",
    "bus/motet_bus/presence.py": "since when an agent runs, for people",
    "bus/motet_bus/step_runner.py": "whether it is worth a look if the conversation has ended; a wrong clock looks",
    "bus/motet_bus/store_lock.py": "since when a store is locked, for people",
    "bus/motet_bus/tries.py": "when a message failed for the first time, for people",
    "schemas/motet_schemas/envelope.py": "the header ce-time; what counts is when the server stored it",
}
"""Files that read the clock of their machine, and why nothing that is recorded depends on it."""


def test_the_clock_of_the_machine_is_read_only_for_what_people_see() -> None:
    reading = {
        str(file.relative_to(ROOT))
        for package in ("bus/motet_bus", "schemas/motet_schemas", "agents/motet_agents")
        for file in (ROOT / package).rglob("*.py")
        if _READS.search(file.read_text(encoding="utf-8"))
    }
    assert reading == set(SHOWN_ONLY)
