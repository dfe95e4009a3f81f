"""Conversations of the chaos playbook whose luck is known: one doubt, which a desk approves, and all else goes well."""

from __future__ import annotations

from itertools import count
from typing import Final

from motet_gateway.chaos.chance import chance
from motet_schemas import PolicyOverride, Task
from tests.bus.zygote import DESK

MEMBERS: Final = {
    "orchestrator": "motet_agents.orchestrator:agent",
    "planner": "motet_agents.planner:agent",
    "executor": "motet_gateway.chaos.agents:worker",
    "verifier": "motet_agents.verifier:agent",
    "specialist": "motet_gateway.chaos.agents:watcher",
    "desk": DESK,
}
TASK: Final = Task(kind="chaos", policy=PolicyOverride(human_sla_s=600))
_STEPS: Final = ("begin", "left", "right", "end")


def names_in_doubt(number: int) -> list[str]:
    """Return conversations in which the first step is in doubt, a human approves it, and all else goes well."""
    found: list[str] = []
    for one in count():
        name = f"c{one}"
        doubt = 0.06 <= chance("outcome", name, "begin", 1) < 0.09
        well = all(chance("outcome", name, step, 1) >= 0.09 for step in _STEPS[1:])
        soon = all(chance("lasts", name, step, 1) >= 0.03 for step in _STEPS)
        if doubt and well and soon and chance("mood", name, 1) >= 0.15 and chance("decision", name, 1) < 0.25:
            found.append(name)
        if len(found) == number:
            return found
    raise AssertionError
