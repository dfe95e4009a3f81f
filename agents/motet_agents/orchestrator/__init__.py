"""The orchestrator: a pure function of what is recorded, woken by whatever may change its answer.

Any number of orchestrators may run; none of them owns anything.
"""

from typing import Final

from motet_agents.orchestrator.decide import decide, is_settled
from motet_agents.orchestrator.report import make_report
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

__all__ = ["WAKES", "agent", "decide", "is_settled", "make_report"]
