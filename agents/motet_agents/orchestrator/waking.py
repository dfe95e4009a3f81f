"""What wakes the orchestrator, and the agent that it is."""

from __future__ import annotations

from typing import Final

from motet_agents.orchestrator.decide import decide
from motet_agents.orchestrator.document import run_document
from motet_bus import Agent

WAKES: Final = (
    "task.submitted",
    "task.cancel",
    "plan.created",
    "plan.rejected",
    "step.executed",
    "step.expired",
    "verify.passed",
    "verify.failed",
    "escalate.answered",
    "letter.dead",
    "letter.retried",
    "letter.discarded",
    "timer.fired",
)
"""The kinds of events after which something may be missing."""

agent = Agent("orchestrator", role="orchestrator")
agent.reconcile(*WAKES, decide=decide)
agent.shows(run_document)
