"""What others read to speak with Motet in any language: JSON Schemas and an AsyncAPI 3.0 document.

Pure functions that return dicts; `write_schemas` puts them into a directory. A schema's `$id` names its version:
`urn:motet:step.claimed:v1`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from motet_schemas.base import Contract
from motet_schemas.budget import Budget, Policy
from motet_schemas.envelope import (
    BODY_REFERENCE,
    CAUSE,
    CE_ID,
    CE_SOURCE,
    CE_SPECVERSION,
    CE_SUBJECT,
    CE_TIME,
    CE_TYPE,
    CONTENT_TYPE,
    NATS_MSG_ID,
    TRACEPARENT,
    TRACESTATE,
    event_type,
)
from motet_schemas.errors import InvalidInputError
from motet_schemas.events import EVENTS
from motet_schemas.findings import Finding
from motet_schemas.human import Escalation, HumanAnswer
from motet_schemas.ids import TOKEN_PATTERN
from motet_schemas.letters import DeadLetter
from motet_schemas.plan import Manifest, Plan, PlanStep
from motet_schemas.report import Report
from motet_schemas.task import Reference, Task
from motet_schemas.work import ClaimCheck, ExecutionRecord, Failure, Handoff, VerificationResult

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI_FILE: Final = "asyncapi.json"
_SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"

RECORDS: Final[dict[str, type[Contract]]] = {
    "budget": Budget,
    "claim-check": ClaimCheck,
    "dead-letter": DeadLetter,
    "escalation": Escalation,
    "execution-record": ExecutionRecord,
    "failure": Failure,
    "finding": Finding,
    "handoff": Handoff,
    "human-answer": HumanAnswer,
    "manifest": Manifest,
    "plan": Plan,
    "policy": Policy,
    "reference": Reference,
    "report": Report,
    "step": PlanStep,
    "task": Task,
    "verification-result": VerificationResult,
}
"""The records that events carry, by the name under which their schema is published."""

SPEAKERS: Final[dict[str, tuple[str, ...]]] = {
    "client": ("task.submitted", "task.cancel"),
    "outsider": ("task.submitted", "task.cancel"),
    "orchestrator": (
        "plan.requested",
        "step.ready",
        "step.expired",
        "escalate.raised",
        "escalate.timed_out",
        "timer.set",
        "task.completed",
        "task.failed",
        "task.cancelled",
        "letter.dead",
        "handled",
    ),
    "planner": ("plan.created", "plan.rejected", "letter.dead", "handled"),
    "executor": ("step.claimed", "step.renewed", "step.executed", "step.expired", "letter.dead", "handled"),
    "verifier": ("verify.passed", "verify.failed", "letter.dead", "handled"),
    "specialist": (
        "task.submitted",
        "task.cancel",
        "step.claimed",
        "step.renewed",
        "step.executed",
        "step.expired",
        "letter.dead",
        "handled",
    ),
    "desk": ("escalate.answered",),
    "operator": ("letter.retried", "letter.discarded", "task.cancel", "task.archived"),
    "server": ("timer.fired",),
}
"""Who says what."""

LISTENERS: Final[dict[str, tuple[str, ...]]] = {
    "client": ("task.completed", "task.failed", "task.cancelled"),
    "orchestrator": tuple(kind for kind in EVENTS if kind != "timer.set"),
    "planner": ("plan.requested", "letter.retried"),
    "executor": ("step.ready", "letter.retried"),
    "verifier": ("step.executed", "letter.retried"),
    "specialist": tuple(EVENTS),
    "desk": ("escalate.raised", "escalate.timed_out"),
    "operator": ("letter.dead", "letter.retried", "letter.discarded"),
    "server": ("timer.set",),
}
"""Who waits for what."""

_NUMBER: Final = "A whole number from 1."
_PARAMETERS: Final[dict[str, str]] = {
    "conversation": "The conversation: the caller's idempotency key.",
    "kind": "The kind of task: the playbook's name.",
    "who": "Who asks.",
    "archive": f"The archive's number in its conversation. {_NUMBER}",
    "revision": f"The plan's revision. {_NUMBER}",
    "step": "The step's id.",
    "attempt": f"The attempt at the step. {_NUMBER}",
    "capability": "Who can do the step: workers listen on `step.ready.*.*.*.<capability>`.",
    "number": f"The question's number in its conversation. {_NUMBER}",
    "what": "What the timer is for: one to four tokens.",
    "consumer": "The consumer that handled the event, or gave up on it.",
    "sequence": f"The stream sequence of the event that was handled, or given up on. {_NUMBER}",
}
_DETAILS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("task.submitted", "task.completed", "task.failed", "task.cancelled"), ("kind",)),
    "task.cancel": ("who",),
    "task.archived": ("archive",),
    **dict.fromkeys(("plan.requested", "plan.created", "plan.rejected"), ("revision",)),
    "step.ready": ("step", "attempt", "capability"),
    **dict.fromkeys(("step.claimed", "step.renewed", "step.executed", "step.expired"), ("step", "attempt")),
    **dict.fromkeys(("verify.passed", "verify.failed"), ("step", "attempt")),
    **dict.fromkeys(("escalate.raised", "escalate.answered", "escalate.timed_out"), ("number",)),
    **dict.fromkeys(("letter.dead", "letter.retried", "letter.discarded"), ("consumer", "sequence")),
    **dict.fromkeys(("timer.set", "timer.fired"), ("what",)),
}


def event_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of an event's body. `KeyError` for an unknown kind."""
    contract = EVENTS[kind]
    return _schema(contract, kind, title=f"{contract.__name__} ({kind})")


def record_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one of `RECORDS`. `KeyError` for an unknown name."""
    return _schema(RECORDS[name], name, title=RECORDS[name].__name__)


def schema_files() -> dict[str, dict[str, Any]]:
    """Return every document by the name of its file: all events, all records, and `asyncapi.json`."""
    files = {_file(kind, EVENTS[kind]): event_schema(kind) for kind in EVENTS}
    files |= {_file(name, RECORDS[name]): record_schema(name) for name in RECORDS}
    return {**files, ASYNCAPI_FILE: asyncapi()}


def write_schemas(directory: Path) -> list[Path]:
    """Write every document of `schema_files` into `directory`, made where it is missing; return the paths, sorted.

    Raises `InvalidInputError` when the directory cannot be made or written.
    """
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, document in schema_files().items():
            path = directory / name
            path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise InvalidInputError(
            f"directory: cannot write to {directory}: {error.strerror}", field="directory", value=str(directory)
        ) from error
    return sorted(written)


def asyncapi(version: str = "1.0.0") -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document: every subject as a channel, who sends and who receives, and the messages.

    Bodies are referred to as files beside the document. `version` is that of the document.
    """
    return {
        "asyncapi": "3.0.0",
        "id": "urn:motet",
        "info": {
            "title": "Motet",
            "version": version,
            "description": (
                "Every fact is one message on the JetStream stream CONVERSATIONS. Its subject is its identity: publish "
                "with the header Nats-Expected-Last-Subject-Sequence: 0, so that the same fact is recorded only once. "
                "With a namespace, every subject has one more token in front."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "nats-server 2.12 or newer"}},
        "channels": {kind: _channel(kind) for kind in EVENTS},
        "operations": _operations(),
        "components": {
            "messages": {kind: _message(kind) for kind in EVENTS},
            "messageTraits": {"cloudevent": {"headers": _headers()}},
            "parameters": {name: {"description": text} for name, text in _PARAMETERS.items()},
        },
    }


def _file(name: str, contract: type[Contract]) -> str:
    return f"{name}.v{contract.schema_version}.json"


def _schema(contract: type[Contract], name: str, *, title: str) -> dict[str, Any]:
    generated = contract.model_json_schema()
    del generated["title"]
    return {
        "$schema": DIALECT,
        "$id": f"urn:motet:{name}:v{contract.schema_version}",
        "title": title,
        **{key: value for key, value in generated.items() if key != "$defs"},
        "description": _description(contract),
        **{key: value for key, value in generated.items() if key == "$defs"},
    }


def _description(contract: type[Contract]) -> str:
    """Return what the contract says of itself; an event also says what the record it carries does."""
    own = (contract.__doc__ or "").strip()
    carried = contract.__mro__[1]
    if carried is Contract or not carried.__doc__:
        return _unwrapped(own)
    return _unwrapped(f"{own} {carried.__doc__.strip()}")


def _unwrapped(text: str) -> str:
    return " ".join(text.split())


def _address(kind: str) -> str:
    if kind == "handled":
        return "handled.{consumer}.{conversation}.{sequence}"
    return ".".join((kind, "{conversation}", *(f"{{{name}}}" for name in _DETAILS[kind])))


def _channel(kind: str) -> dict[str, Any]:
    address = _address(kind)
    names = [token[1:-1] for token in address.split(".") if token.startswith("{")]
    return {
        "address": address,
        "title": kind,
        "description": _description(EVENTS[kind]),
        "servers": [{"$ref": "#/servers/nats"}],
        "parameters": {name: {"$ref": f"#/components/parameters/{name}"} for name in names},
        "messages": {"event": {"$ref": f"#/components/messages/{kind}"}},
    }


def _operations() -> dict[str, Any]:
    return {
        f"{role}.{action}.{kind}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{kind}"},
            "title": f"{role} {action}s {kind}",
            "tags": [{"name": role}],
            "messages": [{"$ref": f"#/channels/{kind}/messages/event"}],
        }
        for action, table in (("send", SPEAKERS), ("receive", LISTENERS))
        for role, kinds in table.items()
        for kind in kinds
    }


def _message(kind: str) -> dict[str, Any]:
    contract = EVENTS[kind]
    return {
        "name": event_type(kind),
        "title": contract.__name__,
        "summary": _unwrapped(contract.__doc__ or ""),
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudevent"}],
        "correlationId": {"description": "The conversation's trace.", "location": f"$message.header#/{TRACEPARENT}"},
        "payload": {"schemaFormat": _SCHEMA_FORMAT, "schema": {"$ref": f"./{_file(kind, contract)}"}},
    }


def _headers() -> dict[str, Any]:
    described: Mapping[str, Mapping[str, Any]] = {
        CE_SPECVERSION: {"const": "1.0", "description": "CloudEvents version."},
        CE_ID: {"description": "Fresh for each fact; its writer knows it again by this.", "minLength": 1},
        CE_TYPE: {"pattern": r"^motet\.[a-z_.]+\.v[1-9][0-9]*$", "description": "`motet.plan.created.v1`."},
        CE_SOURCE: {"description": "Who recorded it: `/agents/planner/<instance>`."},
        CE_TIME: {"format": "date-time", "description": "When it was sent, by the writer's clock."},
        CE_SUBJECT: {"description": "The subject without namespace."},
        CONTENT_TYPE: {"const": "application/json", "description": "The body is the contract's JSON."},
        NATS_MSG_ID: {"description": "The same as ce-id."},
        CAUSE: {"pattern": "^[1-9][0-9]*$", "description": "Stream sequence of the event that caused this one."},
        BODY_REFERENCE: {"const": "1", "description": "The body is a Reference: the real one is in the object store."},
        TRACEPARENT: {"description": "W3C trace context."},
        TRACESTATE: {"description": "W3C trace context."},
    }
    return {
        "type": "object",
        "required": [CE_SPECVERSION, CE_ID, CE_TYPE, CE_SOURCE],
        "properties": {name: {"type": "string", **rules} for name, rules in described.items()},
        "description": f"CloudEvents 1.0 in NATS binary mode. Tokens of a subject match {TOKEN_PATTERN}.",
    }
