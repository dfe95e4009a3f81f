"""Names of spans and attributes, after OpenTelemetry's conventions for messaging and for generative AI.

The constants of the packaged conventions for both are deprecated, and move between packages; these are ours to keep.
"""

from __future__ import annotations

from typing import Final

# General
ERROR_TYPE: Final = "error.type"

# Messaging
SYSTEM: Final = "messaging.system"
NATS: Final = "nats"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
DESTINATION_TEMPLATE: Final = "messaging.destination.template"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
CONSUMER_GROUP: Final = "messaging.consumer.group.name"
PROCESS: Final = "process"
"""The operation of a consumer, by name and by type."""
PUBLISH: Final = "publish"
"""The operation of a producer by its name in NATS; its type is `send`."""
SEND: Final = "send"

# Generative AI
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_AGENT_ID: Final = "gen_ai.agent.id"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
INVOKE_WORKFLOW: Final = "invoke_workflow"
INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"
CHAT: Final = "chat"

# Motet's own, where no convention has a word
SEQUENCE: Final = "motet.stream.sequence"
CAUSE: Final = "motet.cause"
DELIVERIES: Final = "motet.deliveries"
RETRY: Final = "motet.retry"
HANDED_BACK: Final = "motet.handed_back"
STEP: Final = "motet.step"
ATTEMPT: Final = "motet.attempt"
CAPABILITY: Final = "motet.capability"
OUTCOME: Final = "motet.outcome"
CONFIDENCE: Final = "motet.confidence"
QUESTION: Final = "motet.question"
QUESTION_REASON: Final = "motet.question.reason"
DECISION: Final = "motet.question.decision"
REVISION: Final = "motet.plan.revision"
WAIT_FOR_HUMAN: Final = "wait_for_human"

# What a link is for
LINK: Final = "motet.link"
PREVIOUS_DELIVERY: Final = "previous_delivery"
FAN_IN: Final = "fan_in"
CALLER: Final = "caller"
CONVERSATION_ROOT: Final = "conversation"
