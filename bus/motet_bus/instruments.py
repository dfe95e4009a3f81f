"""What is measured: the name, unit, labels and buckets of every metric, and who serves it. Nowhere else.

No label grows with conversations: none bears an id, and words that others choose are bounded where they are recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from motet_bus import conventions as c

Kind = Literal["counter", "live", "histogram", "gauge"]
"""A counter only rises, live goes up and down with what is there, a gauge is looked up when somebody reads."""

CAPABILITY: Final = "capability"
CONSUMER: Final = "consumer"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - a token of text

_FRACTIONS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_WORK_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_MESSAGE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
_WAIT_S: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 2_592_000.0)
_TOKENS: Final = tuple(float(4**power) for power in range(14))  # as the GenAI conventions recommend


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One metric. `unit` is UCUM's (a word in braces counts things); `served_by` are the processes that show it."""

    name: str
    kind: Kind
    unit: str
    description: str
    served_by: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_AGENTS: Final = "every agent"
_WORKERS: Final = "executor, any agent with steps"
_THINKERS: Final = "planner, executor, verifier, any agent with steps"
_ORCHESTRATOR: Final = "orchestrator"
_UP: Final = "motet up"

# Work

STEPS: Final = Instrument(
    name="motet.steps",
    kind="counter",
    unit="{attempt}",
    description="Attempts at steps whose record was accepted",
    served_by=_WORKERS,
    labels=(CAPABILITY, "outcome"),
)
STEP_DURATION: Final = Instrument(
    name="motet.step.duration",
    kind="histogram",
    unit="s",
    description="How long a handler worked on an attempt",
    served_by=_WORKERS,
    labels=(CAPABILITY, "outcome"),
    buckets=_WORK_S,
)
STEP_CONFIDENCE: Final = Instrument(
    name="motet.step.confidence",
    kind="histogram",
    unit="1",
    description="How sure a record is of itself; records that do not say are left out",
    served_by=_WORKERS,
    labels=(CAPABILITY,),
    buckets=_FRACTIONS,
)
TOOL_CALLS: Final = Instrument(
    name="motet.tool.calls",
    kind="counter",
    unit="{call}",
    description="Tools that records say were called",
    served_by=_WORKERS,
    labels=(CAPABILITY, "tool"),
)
CLAIMS: Final = Instrument(
    name="motet.claims",
    kind="counter",
    unit="{claim}",
    description="Claims by what became of them: taken, released, lost, expired",
    served_by=f"{_WORKERS}; orchestrator (expired)",
    labels=(CAPABILITY, "event"),
)
CLAIMS_LIVE: Final = Instrument(
    name="motet.claims.live",
    kind="live",
    unit="{claim}",
    description="Claims that this process holds",
    served_by=_WORKERS,
    labels=(CAPABILITY,),
)

# People and money

CONVERSATIONS_STARTED: Final = Instrument(
    name="motet.conversations.started",
    kind="counter",
    unit="{conversation}",
    description="Conversations whose first plan was asked for",
    served_by=_ORCHESTRATOR,
)
CONVERSATIONS_ENDED: Final = Instrument(
    name="motet.conversations.ended",
    kind="counter",
    unit="{conversation}",
    description="Conversations by their end and the verdict of their report",
    served_by=_ORCHESTRATOR,
    labels=("status", "verdict"),
)
CONVERSATION_DURATION: Final = Instrument(
    name="motet.conversation.duration",
    kind="histogram",
    unit="s",
    description="From submission to the end, human waits included",
    served_by=_ORCHESTRATOR,
    labels=("status",),
    buckets=_WAIT_S,
)
ESCALATIONS: Final = Instrument(
    name="motet.escalations",
    kind="counter",
    unit="{question}",
    description="Questions put to humans, by reason",
    served_by=_ORCHESTRATOR,
    labels=("reason",),
)
RESPONSE_DURATION: Final = Instrument(
    name="motet.escalation.response.duration",
    kind="histogram",
    unit="s",
    description="From a question to its answer, or to the time-out that stood in for one",
    served_by=_ORCHESTRATOR,
    labels=("reason", "decision"),
    buckets=_WAIT_S,
)
ESCALATIONS_PENDING: Final = Instrument(
    name="motet.escalations.pending",
    kind="gauge",
    unit="{question}",
    description="Questions that wait for a human on the whole bus",
    served_by=_ORCHESTRATOR,
    labels=("reason",),
)
ESCALATIONS_OVERDUE: Final = Instrument(
    name="motet.escalations.overdue",
    kind="gauge",
    unit="{question}",
    description="Questions that are past their due time and still open on the whole bus",
    served_by=_ORCHESTRATOR,
)
ESCALATION_WAIT: Final = Instrument(
    name="motet.escalations.longest_wait",
    kind="gauge",
    unit="s",
    description="How long the oldest open question has waited; 0 when none is open",
    served_by=_ORCHESTRATOR,
)
BUDGET_LEFT: Final = Instrument(
    name="motet.budget.left",
    kind="histogram",
    unit="1",
    description="What was left of a budget at the end of a conversation, extensions included; 0 is used up",
    served_by=_ORCHESTRATOR,
    labels=("budget",),
    buckets=_FRACTIONS,
)
TOKENS: Final = Instrument(
    name="motet.tokens",
    kind="counter",
    unit="{token}",
    description="Tokens of plans, attempts and verifications that say how many they used",
    served_by=_THINKERS,
    labels=("work", CAPABILITY, "direction", "model"),
)
COST: Final = Instrument(
    name="motet.cost_usd",
    kind="counter",
    unit="{USD}",
    description="US dollars of plans, attempts and verifications that say what they cost",
    served_by=_THINKERS,
    labels=("work", CAPABILITY, "model"),
)
GEN_AI_TOKENS: Final = Instrument(
    name="gen_ai.client.token.usage",
    kind="histogram",
    unit="{token}",
    description="Tokens of one invocation of an agent that names a language model",
    served_by=_THINKERS,
    labels=(c.GEN_AI_OPERATION, c.GEN_AI_PROVIDER, c.GEN_AI_REQUEST_MODEL, TOKEN_TYPE),
    buckets=_TOKENS,
)

# The bus

ERRORS: Final = Instrument(
    name="motet.errors",
    kind="counter",
    unit="{error}",
    description="Messages and attempts that failed here, by the class of the error",
    served_by=_AGENTS,
    labels=(CONSUMER, c.ERROR_TYPE),
)
REDELIVERIES: Final = Instrument(
    name="motet.redeliveries",
    kind="counter",
    unit="{message}",
    description="Messages that came here not for the first time",
    served_by=_AGENTS,
    labels=(CONSUMER,),
)
DEAD_LETTERS: Final = Instrument(
    name="motet.dead_letters",
    kind="counter",
    unit="{message}",
    description="Messages that were given up here and stored with their cause",
    served_by=_AGENTS,
    labels=(CONSUMER,),
)
COMMIT_CONFLICTS: Final = Instrument(
    name="motet.commit.conflicts",
    kind="counter",
    unit="{conflict}",
    description="Facts that a fence kept out: somebody else was first, or the decision was stale",
    served_by=_AGENTS,
    labels=("kind",),
)
LAG: Final = Instrument(
    name="motet.consumer.lag",
    kind="gauge",
    unit="{message}",
    description="Messages that wait to be delivered to a consumer, as the server counts them",
    served_by=_AGENTS,
    labels=(CONSUMER,),
)
ACK_PENDING: Final = Instrument(
    name="motet.consumer.ack_pending",
    kind="gauge",
    unit="{message}",
    description="Messages of a consumer that are delivered and not yet acknowledged, over all its processes",
    served_by=_AGENTS,
    labels=(CONSUMER,),
)
PROCESS_DURATION: Final = Instrument(
    name="messaging.process.duration",
    kind="histogram",
    unit="s",
    description="How long one delivered message was handled",
    served_by=_AGENTS,
    labels=(c.SYSTEM, c.OPERATION_NAME, c.DESTINATION_TEMPLATE, c.CONSUMER_GROUP, c.ERROR_TYPE),
    buckets=_MESSAGE_S,
)
CONSUMED: Final = Instrument(
    name="messaging.client.consumed.messages",
    kind="counter",
    unit="{message}",
    description="Messages that were delivered to a handler",
    served_by=_AGENTS,
    labels=(c.SYSTEM, c.OPERATION_NAME, c.DESTINATION_TEMPLATE, c.CONSUMER_GROUP),
)
SENT: Final = Instrument(
    name="messaging.client.sent.messages",
    kind="counter",
    unit="{message}",
    description="Facts that this process sent, stored or refused",
    served_by=_AGENTS,
    labels=(c.SYSTEM, c.OPERATION_NAME, c.DESTINATION_TEMPLATE, c.ERROR_TYPE),
)
PUBLISH_DURATION: Final = Instrument(
    name="messaging.client.operation.duration",
    kind="histogram",
    unit="s",
    description="How long a fact took until the server said what became of it, repeats included",
    served_by=_AGENTS,
    labels=(c.SYSTEM, c.OPERATION_NAME, c.DESTINATION_TEMPLATE, c.ERROR_TYPE),
    buckets=_MESSAGE_S,
)

# Processes

TELEMETRY_LOST: Final = Instrument(
    name="motet.telemetry.lost",
    kind="counter",
    unit="{item}",
    description="Spans and readings of metrics that the collector did not take",
    served_by="every process that exports",
    labels=("signal",),
)

AGENTS: Final = Instrument(
    name="motet.agents",
    kind="gauge",
    unit="{process}",
    description="Agent processes that `motet up` keeps running, by their state",
    served_by=_UP,
    labels=("state",),
)
AGENT_RESTARTS: Final = Instrument(
    name="motet.agent.restarts",
    kind="counter",
    unit="{restart}",
    description="How often `motet up` started an agent again",
    served_by=_UP,
    labels=("agent",),
)

INSTRUMENTS: Final = (
    STEPS,
    STEP_DURATION,
    STEP_CONFIDENCE,
    TOOL_CALLS,
    CLAIMS,
    CLAIMS_LIVE,
    CONVERSATIONS_STARTED,
    CONVERSATIONS_ENDED,
    CONVERSATION_DURATION,
    ESCALATIONS,
    RESPONSE_DURATION,
    ESCALATIONS_PENDING,
    ESCALATIONS_OVERDUE,
    ESCALATION_WAIT,
    BUDGET_LEFT,
    TOKENS,
    COST,
    GEN_AI_TOKENS,
    ERRORS,
    REDELIVERIES,
    DEAD_LETTERS,
    COMMIT_CONFLICTS,
    LAG,
    ACK_PENDING,
    PROCESS_DURATION,
    CONSUMED,
    SENT,
    PUBLISH_DURATION,
    TELEMETRY_LOST,
    AGENTS,
    AGENT_RESTARTS,
)
"""Every metric, in the order of docs/metrics.md."""
