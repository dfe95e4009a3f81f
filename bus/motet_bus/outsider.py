"""What a system does that may submit, ask for a stop, and ask how things stand, but not read the stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from motet_bus import tracing
from motet_bus.answers import PubAck
from motet_bus.asking import ask_to_show, fingerprint_of
from motet_bus.connect import ConnectOptions, connect
from motet_bus.fences import EXPECTED_FILTER, EXPECTED_SEQUENCE, natural_fence
from motet_bus.journal import LARGEST_BODY
from motet_bus.link import Link
from motet_schemas import (
    ANY_LIMITS,
    BusUnavailableError,
    ConflictError,
    Fact,
    InvalidInputError,
    Namespace,
    NotFoundError,
    Task,
    TaskCancel,
    TaskSubmitted,
    check_token,
    encode,
    limits_context,
)
from motet_schemas.envelope import NATS_MSG_ID
from motet_schemas.subjects import build

log = structlog.get_logger(__name__)

_TRIES: Final = 3


class Outsider:
    """A stranger on the bus, called `name`. Get one with `open_outsider`."""

    def __init__(self, link: Link, namespace: Namespace, name: str) -> None:
        self._link = link
        self._namespace = namespace
        self._name = name

    async def submit(self, task: Task, conversation: str) -> bool:
        """Submit `task` under its idempotency key; False when the same one had been submitted before.

        Raises `ConflictError` when the id is taken by another task, `InvalidInputError` when it is no token or the task
        is too large to travel along: a stranger may not store large documents.
        """
        if task.references:
            raise InvalidInputError(
                f"input: {', '.join(task.references)} must be stored apart, which an outsider may not; shorten it, or "
                "submit with the credentials of a client",
                field="input",
            )
        subject = build("task.submitted", check_token(conversation, "id"), task.kind)
        fact = Fact(subject, TaskSubmitted.model_validate(dict(task), strict=False, context=limits_context(ANY_LIMITS)))
        try:
            ack = await self._record(fact)
        except ConflictError:
            ack = None
        if ack is not None and not ack.duplicate:
            return True
        return await self._is_the_same(task, conversation)

    async def cancel(self, conversation: str, *, reason: str = "") -> None:
        """Ask for a stop. Raises `NotFoundError` for an unknown conversation, `ConflictError` for an ended one."""
        status = (await self.show(conversation))["status"]
        if status in ("completed", "failed", "cancelled"):
            raise ConflictError(f"conversation {conversation} has ended already: {status}")
        request = TaskCancel(requested_by=self._name, reason=reason)
        try:
            await self._record(Fact(build("task.cancel", conversation, self._name), request))
        except ConflictError:
            return  # asked before

    async def show(self, conversation: str) -> dict[str, Any]:
        """Return how a conversation stands, as an orchestrator tells it; raises what `ask_to_show` raises."""
        return await ask_to_show(self._link, self._namespace, conversation)

    async def _is_the_same(self, task: Task, conversation: str) -> bool:
        """Return False when what is recorded is this very task. Raises `ConflictError` when it is not."""
        try:
            shown = await self.show(conversation)
        except NotFoundError:
            raise ConflictError(f"id: {conversation!r} cannot be used; choose another") from None
        if shown.get("task_fingerprint") != fingerprint_of(task):
            raise ConflictError(
                f"id: {conversation!r} was submitted before with other content; choose another id, or look at it with "
                f"`motet show {conversation}`"
            )
        return False

    async def _record(self, fact: Fact) -> PubAck:
        """Publish behind the fact's fence; again with the same id when no answer came."""
        with tracing.publishing(fact.subject, every_hop=False) as trace:
            headers, body = encode(fact, source=f"/outsiders/{self._name}", cause=None, trace=trace)
            return await self._publish(fact, headers, body)

    async def _publish(self, fact: Fact, headers: dict[str, str], body: bytes) -> PubAck:
        fence = natural_fence(fact.subject)
        if len(body) > LARGEST_BODY:
            raise InvalidInputError(
                f"task: {len(body)} bytes; an outsider's may have {LARGEST_BODY}", field="task", value=len(body)
            )
        headers |= {EXPECTED_SEQUENCE: str(fence.last), NATS_MSG_ID: fact.id}
        if fence.filter is not None:
            headers[EXPECTED_FILTER] = self._namespace.wire(fence.filter)
        wire = self._namespace.wire(fact.subject)
        for _ in range(_TRIES - 1):
            try:
                return await self._link.publish_stored(wire, body, headers)
            except BusUnavailableError as error:
                log.warning("outsider.retry", subject=wire, error=error.message)
        return await self._link.publish_stored(wire, body, headers)


@asynccontextmanager
async def open_outsider(options: ConnectOptions, *, name: str, namespace: str = "") -> AsyncGenerator[Outsider]:
    """Connect as the outsider `name`; closes at the end. Raises what `connect` raises."""
    link = await connect(options)
    try:
        yield Outsider(link, Namespace(namespace), check_token(name, "name"))
    finally:
        await link.close()
