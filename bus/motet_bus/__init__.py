"""How it travels: NATS JetStream, exactly-once append and consume, claims, timers, dead letters; the agent SDK."""

from motet_bus.agent import Agent, RunOptions
from motet_bus.bus import Bus, open_bus
from motet_bus.client import Client, Submission, Summary, open_client
from motet_bus.connect import ConnectOptions
from motet_bus.event_runner import Context
from motet_bus.grants import GRANTS, Role
from motet_bus.outcome import Outcome, Step
from motet_bus.presence import AgentCard, ConsumerCard
from motet_bus.reconciler import Decision
from motet_bus.runtime import run_agent
from motet_bus.trace_context import root_span_id, trace_id

__all__ = [
    "GRANTS",
    "Agent",
    "AgentCard",
    "Bus",
    "Client",
    "ConnectOptions",
    "ConsumerCard",
    "Context",
    "Decision",
    "Outcome",
    "Role",
    "RunOptions",
    "Step",
    "Submission",
    "Summary",
    "open_bus",
    "open_client",
    "root_span_id",
    "run_agent",
    "trace_id",
]
