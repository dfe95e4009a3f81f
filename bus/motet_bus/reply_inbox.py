"""One inbox for all answers: the last token of a reply subject is a counter that finds who waits."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from typing import Final

from motet_bus.answers import Reply
from motet_bus.wire_client import DESCRIPTION, STATUS
from motet_schemas.errors import BusUnavailableError, MotetError, NotAllowedError

Send = Callable[[str], Awaitable[None]]
Complete = Callable[[Reply], bool]

_DENIED: Final = re.compile(
    r'permissions violation for (?:publish|subscription)( with reply of| to) "([^"]*)"', re.IGNORECASE
)


class _Waiter:
    __slots__ = ("complete", "done", "replies", "sent", "subject")

    def __init__(self, subject: str, complete: Complete | None, *, sent: bool) -> None:
        self.subject = subject
        self.complete = complete
        self.sent = sent
        self.replies: list[Reply] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, reply: Reply) -> None:
        self.replies.append(reply)
        if (self.complete is None or self.complete(reply)) and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: MotetError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def expire(self, timeout_s: float) -> None:
        self.fail(BusUnavailableError(f"{self.subject}: no answer from the server within {timeout_s:g} s; try again"))


class ReplyInbox:
    """Hands each answer to who asked. Whoever waits is told promptly when the answer cannot come any more."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._tokens = itertools.count(1)
        self._waiting: dict[str, _Waiter] = {}

    @property
    def subject(self) -> str:
        """What to subscribe to."""
        return f"{self._prefix}.*"

    async def ask(
        self, subject: str, send: Send, complete: Complete | None, *, connected: bool, timeout_s: float
    ) -> list[Reply]:
        """Call `send` with a fresh reply subject and return the answers to it.

        That is the first one, or all up to the one that `complete` accepts as the last. `subject` is what is asked,
        `connected` whether it leaves at once. Raises `BusUnavailableError` after `timeout_s` seconds or when the
        connection was lost meanwhile, `NotAllowedError` when the server refused the subject.
        """
        token = str(next(self._tokens))
        waiter = self._waiting[token] = _Waiter(subject, complete, sent=connected)
        timer = asyncio.get_running_loop().call_later(timeout_s, waiter.expire, timeout_s)
        try:
            await send(f"{self._prefix}.{token}")
            await waiter.done
        finally:
            timer.cancel()
            waiter.done.cancel()
            del self._waiting[token]
        return waiter.replies

    async def gather(self, send: Send, *, for_s: float) -> list[Reply]:
        """Call `send` and return what came within `for_s` seconds; at once, and empty, when nobody listens."""
        token = str(next(self._tokens))
        waiter = self._waiting[token] = _Waiter("", lambda reply: reply.status == 503, sent=False)
        try:
            await send(f"{self._prefix}.{token}")
            await asyncio.wait({waiter.done}, timeout=for_s)
        finally:
            waiter.done.cancel()
            del self._waiting[token]
        return [reply for reply in waiter.replies if reply.status == 0]

    def receive(self, subject: str, headers: dict[str, str], _reply: str, body: bytes) -> None:
        """Take one message of the inbox; answers that nobody waits for any more are dropped."""
        waiter = self._waiting.get(subject.rpartition(".")[2])
        if waiter is None:
            return
        status = headers.get(STATUS, "") if not body else ""
        waiter.take(Reply(headers, body, int(status) if status.isdecimal() else 0, headers.get(DESCRIPTION, "")))

    def fail(self, reason: str, *, unsent_too: bool) -> None:
        """Tell all whose question was sent, or all there are, that no answer will come."""
        for waiter in list(self._waiting.values()):
            if waiter.sent or unsent_too:
                waiter.fail(BusUnavailableError(f"{waiter.subject}: {reason}"))

    def denied(self, error_text: str) -> str | None:
        """Read the server's refusal of a subject and tell who asked for it. Return it, None for other errors."""
        if (denial := _DENIED.search(error_text)) is None:
            return None
        subject = denial[2]
        by_token = self._waiting.get(subject.rpartition(".")[2]) if denial[1] != " to" else None
        for waiter in list(self._waiting.values()):
            if waiter is by_token or waiter.subject == subject:
                waiter.fail(
                    NotAllowedError(
                        f"the server's permissions do not allow this user to publish on {subject}: use the credentials "
                        "of a role that may (docs/security.md says which)"
                    )
                )
        return subject
