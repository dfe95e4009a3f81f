"""Continuous pull from a durable consumer, with a hard bound on what this process holds.

Pulls are asked by hand, so that a restarted server, a lost status or a deleted consumer cannot stall the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from motet_bus.answers import ClosedError
from motet_bus.backoff import Backoff
from motet_bus.delivery import Delivery
from motet_bus.handover import Handover
from motet_bus.link import Link
from motet_bus.pull_ledger import PullLedger
from motet_bus.pull_protocol import EXPIRES_S, HEARTBEAT_S, Verdict, judge, next_operation, pull_request
from motet_bus.subscription import Subscription
from motet_bus.wire_client import DESCRIPTION, STATUS
from motet_schemas.errors import (
    BusUnavailableError,
    InvalidInputError,
    MotetError,
    NotAllowedError,
    NotFoundError,
)

log = structlog.get_logger(__name__)

Recreate = Callable[[], Awaitable[None]]

_SILENCE_S: Final = 12.5
_TICK_S: Final = 1.0
_PAUSE_S: Final = (0.1, 5.0)
_MISSING_TRIES: Final = 8


class Puller:
    """Takes messages of one durable consumer: what is held (delivered, not yet released) plus what is asked for never
    exceeds `limit`.

    Call `start` once, `next` for each message, `release` once for each message that is finished, `stop` at the end.
    A consumer that is gone is made again with `recreate`; without it `next` raises `NotFoundError`.
    """

    def __init__(
        self, link: Link, stream: str, durable: str, *, limit: int, batch: int, recreate: Recreate | None = None
    ) -> None:
        """`limit` and `batch` are numbers of messages, 1 ≤ batch ≤ limit. Raises `InvalidInputError` otherwise."""
        if not 1 <= batch <= limit:
            raise InvalidInputError(
                f"batch: {batch} is not between 1 and the limit {limit}", field="batch", value=batch
            )
        self._link = link
        self._stream, self._durable = stream, durable
        self._subject = link.api_subject(next_operation(stream, durable))
        self._limit, self._batch = limit, batch
        self._recreate = recreate
        self._inbox = link.new_inbox()
        self._ids = itertools.count(1)
        self._ledger = PullLedger()
        self._held = 0
        self._handover = Handover()
        self._surplus: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._missing = False
        self._missing_tries = 0
        self._backoff = Backoff(*_PAUSE_S)
        self._heard_at = 0.0
        self._resume_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._undo: list[Callable[[], None]] = []

    @property
    def held(self) -> int:
        """How many messages were delivered and are not yet released, buffered ones included."""
        return self._held

    @property
    def asked(self) -> int:
        """How many messages the server may still deliver without being asked again."""
        return self._ledger.asked

    async def start(self) -> None:
        """Begin to pull. Raises `BusUnavailableError` when the link is closed."""
        self._subscription = await self._link.subscribe_inbox(f"{self._inbox}.*", self._on_message)
        self._undo = [self._link.on_reconnect(self._on_reconnect), self._link.on_denied(self._on_denied)]
        self._heard_at = self._now()
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name=f"puller {self._durable}")
        self._task.add_done_callback(self._on_done)

    async def next(self) -> Delivery:
        """Return the next message, waiting as long as it takes. Each must be released once.

        Raises `ClosedError` after `stop`, `NotAllowedError` when this user may not pull, `NotFoundError` when the
        consumer is gone for good, `BusUnavailableError` when the link was closed.
        """
        return await self._handover.take()

    def release(self) -> None:
        """Say that one message is finished: acknowledged, handed back or terminated."""
        if self._held > 0:
            self._held -= 1
        self._wake_if_due()

    async def stop(self) -> None:
        """Ask for nothing more and hand back what nobody has taken. What was taken stays its owner's."""
        if self._stopping:
            return
        self._stopping = True
        for undo in self._undo:
            undo()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._handover.fail(ClosedError(f"the puller of {self._durable} was stopped"))
        await self._hand_back()
        if self._subscription is not None:
            await self._subscription.drain()
        await self._hand_back()

    async def _hand_back(self) -> None:
        left = self._handover.empty()
        self._held -= len(left)
        self._surplus += left
        await self._return_surplus()

    async def _return_surplus(self) -> None:
        """Send back what will not be handled here; what cannot be sent comes again after its ack wait."""
        while self._surplus:
            with contextlib.suppress(BusUnavailableError):
                await self._surplus.popleft().nak()

    # What comes in

    def _on_message(self, subject: str, headers: dict[str, str], reply: str, body: bytes) -> None:
        self._heard_at = self._now()
        if not subject.startswith(self._inbox):
            self._take(Delivery(self._link, subject, headers, body, reply))
        elif (status := headers.get(STATUS)) is not None:
            self._on_status(status, subject, headers)
        self._wake_if_due()

    def _take(self, delivery: Delivery) -> None:
        self._ledger.delivered()
        self._all_well()
        if self._stopping or self._held >= self._limit:  # an answer to a pull that was given up
            self._surplus.append(delivery)
            self._wake.set()
            return
        self._held += 1
        self._handover.put(delivery)

    def _on_status(self, status: str, subject: str, headers: dict[str, str]) -> None:
        description = headers.get(DESCRIPTION, "")
        verdict = judge(status, description)
        if verdict is Verdict.ALIVE:
            return
        left = headers.get("Nats-Pending-Messages", "")
        self._ledger.ended(subject.rpartition(".")[2], int(left) if left.isdecimal() else None)
        if verdict is Verdict.OVER:
            self._all_well()
            return
        if verdict is Verdict.MISSING:
            self._missing = True
        else:
            log.warning("puller.refused", consumer=self._durable, status=status, reason=description)
        self._pause()

    def _all_well(self) -> None:
        self._missing = False
        self._missing_tries = 0
        self._backoff.reset()

    def _pause(self) -> None:
        self._resume_at = self._now() + self._backoff.next_s()

    def _on_reconnect(self) -> None:
        """The server forgot our pulls with the old connection."""
        self._ledger.clear()
        self._heard_at = self._now()
        self._resume_at = 0.0
        self._wake.set()

    def _on_denied(self, subject: str) -> None:
        if subject == self._subject:
            self._handover.fail(
                NotAllowedError(
                    f"the server's permissions do not allow this user to pull from {self._durable}: {subject}"
                )
            )

    # Asking

    async def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._wake.wait()
            self._wake.clear()
            if self._link.closed:
                raise BusUnavailableError(f"the connection that {self._durable} was pulled over was closed")
            if not self._link.connected:
                continue
            await self._return_surplus()
            self._give_up_silent_pulls()
            await self._rest()
            if self._missing:
                await self._restore()
            while (number := self._due()) > 0:
                await self._ask(number)

    async def _rest(self) -> None:
        """Wait until the pause that a refusal asked for is over."""
        if (left_s := self._resume_at - self._now()) > 0:
            await asyncio.sleep(left_s)
        self._resume_at = 0.0

    async def _restore(self) -> None:
        """Have the consumer made again; what cannot be mended by waiting ends the puller."""
        self._missing_tries += 1
        log.info("puller.consumer_missing", stream=self._stream, consumer=self._durable, tries=self._missing_tries)
        if self._recreate is None:
            if self._missing_tries > _MISSING_TRIES:
                raise NotFoundError(
                    f"{self._stream} has no consumer {self._durable} (any more); create it, start again"
                )
        else:
            try:
                await self._recreate()
            except MotetError as error:
                if not error.retryable:
                    raise
                log.warning("puller.not_recreated", consumer=self._durable, error=error.message)
                self._pause()
                self._wake.set()
                return
        self._missing = False

    def _give_up_silent_pulls(self) -> None:
        now = self._now()
        if self._ledger.asked and now - self._heard_at > _SILENCE_S:
            log.warning("puller.silent", consumer=self._durable, asked=self._ledger.asked)
            self._ledger.clear()
            self._heard_at = now
        self._ledger.expire(now)

    def _due(self) -> int:
        """How many messages to ask for now: none while at least half a batch is still to come."""
        if self._stopping or self._handover.failure is not None or self._missing or self._resume_at > self._now():
            return 0
        asked = self._ledger.asked
        room = self._limit - self._held - asked
        half = (self._batch + 1) // 2
        if room <= 0 or (asked > 0 and (asked > self._batch - half or room < half)):
            return 0
        return min(self._batch, room)

    def _wake_if_due(self) -> None:
        if self._missing or self._resume_at or self._due():
            self._wake.set()

    async def _ask(self, number: int) -> None:
        pull_id = str(next(self._ids))
        if not self._ledger.asked:
            self._heard_at = self._now()
        self._ledger.opened(pull_id, number, self._now() + EXPIRES_S + HEARTBEAT_S)
        try:
            await self._link.publish(self._subject, pull_request(number), reply=f"{self._inbox}.{pull_id}")
        except BusUnavailableError as error:
            self._ledger.ended(pull_id, number)
            log.warning("puller.not_asked", consumer=self._durable, error=error.message)
            self._pause()

    # How it ends

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._stopping:
            self._handover.fail(ClosedError(f"the puller of {self._durable} was stopped"))
            return
        error = task.exception()
        if not isinstance(error, MotetError):
            failure = BusUnavailableError(f"the puller of {self._durable} broke: {error!r}")
            failure.__cause__ = error
            error = failure
        log.error("puller.ended", consumer=self._durable, error=error.message)
        self._handover.fail(error)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
