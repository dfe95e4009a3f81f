"""The orchestrator: a pure function of what is recorded, woken by whatever may change its answer.

Any number of orchestrators may run; none of them owns anything.
"""

from motet_agents.orchestrator.decide import decide, is_settled
from motet_agents.orchestrator.report import make_report
from motet_agents.orchestrator.waking import WAKES, agent

__all__ = ["WAKES", "agent", "decide", "is_settled", "make_report"]
