"""Asking how a conversation stands, for those who may not read the stream: a plain request that orchestrators answer.

Nothing is stored. The answer is the conversation's document, or `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

from motet_bus.answers import Message, json_object
from motet_bus.bus import Bus
from motet_bus.link import Link
from motet_schemas import (
    ANY_LIMITS,
    BusUnavailableError,
    Conversation,
    InvalidInputError,
    MotetError,
    Namespace,
    NotFoundError,
    Task,
    check_token,
    limits_context,
)

log = structlog.get_logger(__name__)

Document = Callable[[Conversation], dict[str, Any]]
"""Makes the document that stands for a conversation."""

SHOWN: Final = "ask.show.*"
LARGEST_ANSWER: Final = 256 * 1024
_ANY: Final = limits_context(ANY_LIMITS)
_PATIENCE_S: Final = 4.0
_LISTS: Final = ("steps", "escalations")
_ERRORS: Final = {error.code: error for error in (NotFoundError, InvalidInputError, BusUnavailableError)}


async def answer_questions(bus: Bus, document: Document) -> None:
    """Answer from now on, one question after the other: however many are asked, the other work goes on."""

    async def answer(message: Message) -> None:
        if message.reply:
            found = await _answer(bus, document, message.subject.rpartition(".")[2])
            await bus.link.publish(message.reply, _fitted(found))

    await bus.link.subscribe(bus.namespace.wire(SHOWN), answer, queue="show")


async def ask_to_show(link: Link, namespace: Namespace, conversation: str, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """Return the document of a conversation, with its task's `task_fingerprint` (None: the task is unreadable).

    Raises `NotFoundError` for an unknown conversation, `BusUnavailableError` when no orchestrator answers.
    """
    subject = namespace.wire(SHOWN.replace("*", check_token(conversation, "conversation")))
    reply = await link.request(subject, b"", timeout_s=timeout_s)
    if reply.status == 503:
        raise BusUnavailableError("no orchestrator answers questions on this bus; try again when one runs (`motet up`)")
    answer = json_object(reply.body, subject)
    if not isinstance(answer.get("error"), dict):
        return answer
    error = cast("dict[str, Any]", answer["error"])
    raise _ERRORS.get(str(error.get("code")), MotetError)(str(error.get("message")))


def fingerprint_of(task: Task) -> str:
    """Return what two submissions of the same task have in common."""
    return Task.model_validate(dict(task), context=_ANY).fingerprint()


async def _answer(bus: Bus, document: Document, conversation: str) -> dict[str, Any]:
    try:
        check_token(conversation, "conversation")
        async with asyncio.timeout(_PATIENCE_S):
            state = await bus.conversations.load(conversation)
        if not state.last_seq:
            raise NotFoundError(f"no conversation {conversation!r} here")
        task = fingerprint_of(state.task) if state.task is not None else None
        return {**document(state), "task_fingerprint": task}
    except MotetError as error:
        return _error(error.code, error.message)
    except TimeoutError:
        return _error(BusUnavailableError.code, "the stream cannot be read right now; try again")
    except Exception as error:
        log.error("ask.broken", conversation=conversation, error=repr(error), exc_info=error)
        return _error(
            MotetError.code, f"conversation {conversation!r} cannot be shown; the orchestrator's log says why"
        )


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _fitted(document: dict[str, Any]) -> bytes:
    """Return the document as JSON; one over 256 KiB without its long lists, which `left_out` names."""
    body = json.dumps(document).encode()
    if len(body) <= LARGEST_ANSWER:
        return body
    nothing: list[Any] = []
    report: dict[str, Any] = {**document.get("report", {}), "findings": nothing, "concerns": nothing}
    short: dict[str, Any] = {**document, **dict.fromkeys(_LISTS, nothing), "report": report}
    return json.dumps({**short, "left_out": ["report.findings", "report.concerns", *_LISTS]}).encode()
