"""Takes messages of one durable consumer and sees each through: handled and acknowledged, handed back, or buried.

A handler may run twice for one message; what it records happens once. Nothing is acknowledged before it is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog

from motet_bus import metrics, tracing
from motet_bus.answers import ClosedError
from motet_bus.backoff import backoff_s
from motet_bus.bus import Bus
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.dead_letters import bury, failure_of, tell_of_earlier_letter
from motet_bus.delivery import Delivery
from motet_bus.journal import STREAM
from motet_bus.pull import Puller
from motet_bus.retries import MessageGoneError, meant_by
from motet_bus.topology import ConsumerSpec, ensure_consumer
from motet_bus.tries import Tries
from motet_schemas import (
    BusUnavailableError,
    Event,
    Failure,
    InvalidInputError,
    MotetError,
    NewerVersion,
    NewerVersionError,
    Unreadable,
)
from motet_schemas.subjects import Filters, letter_filter, matches

log = structlog.get_logger(__name__)

GRACE_S: Final = 8.0
_HEARTBEATS_PER_WAIT: Final = 3
_RETRY_FIRST_S: Final = 0.5
_RETRY_LONGEST_S: Final = 30.0
_PROCESSES: Final = 10
"""A message that fails in one process after the other is delivered at most this many times its tries."""


class HandBackError(Exception):
    """Raised by a handler: not now. The message comes again after `delay_s`; it is no failure and no try."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(f"handed back for {delay_s:.1f} s")
        self.delay_s = delay_s


class Handler(Protocol):
    """What a consumer does with one event. When `handle` returns, everything is recorded."""

    async def handle(self, event: Event, delivery: Delivery) -> None:
        """Handle one event; raise `HandBackError` to get it again later, anything else to fail."""
        ...


@dataclass(frozen=True, kw_only=True)
class ConsumerSettings:
    """How a consumer works. `batch` messages at most are fetched ahead of the `concurrency` being worked on."""

    durable: str
    filters: tuple[str, ...]
    concurrency: int = 1
    batch: int = 0
    max_tries: int = 5
    max_ack_pending: int = 1_000
    ack_wait_s: float = 10.0

    def spec(self, bus: Bus) -> ConsumerSpec:
        """Return the durable consumer on the server: it also gets the retries of its own dead letters."""
        retries = letter_filter(self.durable)
        filters = self.filters if any(matches(name, retries) for name in self.filters) else (*self.filters, retries)
        return ConsumerSpec(
            stream=bus.namespace.stream(STREAM),
            durable=self.durable,
            filter_subjects=tuple(bus.namespace.wire(name) for name in filters),
            max_ack_pending=self.max_ack_pending,
            ack_wait_s=self.ack_wait_s,
        )


class Consumer:
    """One durable consumer, worked on by this process and any number of others."""

    def __init__(self, bus: Bus, settings: ConsumerSettings, handler: Handler, *, crash: CrashPoint = no_crash) -> None:
        self._bus = bus
        self.settings = settings
        self._handler = handler
        self._crash = crash
        self._free = asyncio.Semaphore(settings.concurrency)
        self.started = asyncio.Event()
        """Set once the consumer is there and has asked for its first messages."""
        self._listens_to = Filters(settings.spec(bus).filter_subjects)
        self._tries = Tries()
        self._held: set[Delivery] = set()
        self._begun: set[Delivery] = set()
        self._tasks: dict[asyncio.Task[None], Delivery] = {}

    @property
    def in_flight(self) -> int:
        """How many messages this process holds."""
        return len(self._held)

    async def run(self, stop: asyncio.Event, leave: asyncio.Event | None = None) -> None:
        """Work until `stop` is set, then drain: take nothing new, finish or hand back what runs, within 10 s.

        When `leave` is set, take nothing new and finish what runs, however long that takes, unless `stop` is set.
        Raises `MotetError` when the consumer cannot go on (gone, not allowed, connection closed for good).
        """
        spec = self.settings.spec(self._bus)
        await ensure_consumer(self._bus.link, spec)
        puller = Puller(
            self._bus.link,
            spec.stream,
            spec.durable,
            limit=self.settings.concurrency + self.settings.batch,
            batch=max(1, self.settings.batch or self.settings.concurrency),
            recreate=lambda: ensure_consumer(self._bus.link, spec),
        )
        await puller.start()
        self.started.set()
        log.info("consumer.started", consumer=spec.durable, concurrency=self.settings.concurrency)
        heartbeat = asyncio.create_task(self._keep_alive(), name=f"heartbeat {spec.durable}")
        taking = asyncio.create_task(self._take(puller), name=f"take {spec.durable}")
        stopping = asyncio.create_task(stop.wait(), name=f"stop {spec.durable}")
        leaving = asyncio.create_task((leave or stop).wait(), name=f"leave {spec.durable}")
        try:
            await asyncio.wait({taking, stopping, leaving, heartbeat}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await puller.stop()
            if leave is not None and leave.is_set():
                await self._finish(stopping)
            await self._drain()
            for task in (taking, heartbeat, stopping, leaving):
                task.cancel()
            results = await asyncio.gather(taking, heartbeat, stopping, leaving, return_exceptions=True)
            log.info("consumer.stopped", consumer=spec.durable)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ClosedError):
                raise result

    async def _take(self, puller: Puller) -> None:
        while True:
            delivery = await puller.next()
            self._held.add(delivery)
            metrics.received(self.settings.durable, delivery.deliveries)
            task = asyncio.create_task(self._see_through(delivery), name=f"handle {delivery.subject}")
            self._tasks[task] = delivery
            task.add_done_callback(partial(self._finished, delivery, puller))

    def _finished(self, delivery: Delivery, puller: Puller, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._held.discard(delivery)
        self._begun.discard(delivery)
        puller.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            # The message stays unacknowledged, so the server delivers it again.
            log.error("consumer.unsettled", subject=delivery.subject, error=str(error), exc_info=error)

    def _give_back(self) -> None:
        """Hand back what has not begun."""
        for task, delivery in list(self._tasks.items()):
            if delivery not in self._begun:
                task.cancel()

    async def _finish(self, stopping: asyncio.Task[bool]) -> None:
        """Let what runs finish; each step has a time budget of its own."""
        self._give_back()
        while self._tasks and not stopping.done():
            await asyncio.wait({*self._tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)

    async def _drain(self) -> None:
        """Let what runs finish for a while, then cancel it: what is cancelled or has not begun is handed back."""
        self._give_back()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE_S)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.5)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.settings.ack_wait_s / _HEARTBEATS_PER_WAIT)
            for delivery in list(self._held):
                await self._settle(delivery.in_progress())

    async def _see_through(self, delivery: Delivery) -> None:
        meant = delivery
        try:
            async with self._free:
                self._begun.add(delivery)
                self._crash("before the handler")
                for meant in await self._meant(delivery):
                    event = await self._read(meant)
                    if event is None:
                        return
                    if (delay_s := await self._handle(event, meant)) is not None:
                        await self._settle(delivery.nak(delay_s))
                        return
                    if delivery.deliveries > 1:
                        await tell_of_earlier_letter(self._bus, meant, consumer=self.settings.durable)
                self._crash("before the ack")
                await self._settle(delivery.ack())
                self._tries.forget(delivery.stream_seq)
                self._crash("after the ack")
        except asyncio.CancelledError:
            await self._settle(delivery.nak())
            raise
        except HandBackError as later:
            await self._settle(delivery.nak(later.delay_s))
        except MessageGoneError as error:
            await self._failed(error.delivery, error)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises must not stop the consumer
            await self._failed(meant, error)

    async def _meant(self, delivery: Delivery) -> list[Delivery]:
        """Return what is to be handled. Raises `HandBackError` for what only a newer version beside us listens to."""
        if delivery.subject not in self._listens_to:
            raise HandBackError(backoff_s(delivery.deliveries - 1, _RETRY_FIRST_S, _RETRY_LONGEST_S))
        return await meant_by(self._bus, delivery, consumer=self.settings.durable, filters=self.settings.filters)

    async def _handle(self, event: Event, delivery: Delivery) -> float | None:
        """Run the handler; return in how many seconds the message shall come again, None when it was handled."""
        durable = self.settings.durable
        with (
            tracing.consuming(event, delivery, consumer=durable, epoch=self._bus.link.delivery_epoch) as span,
            metrics.processing(event.kind, durable),
        ):
            try:
                await self._handler.handle(event, delivery)
            except HandBackError as later:
                tracing.hand_back(span)
                return later.delay_s
        return None

    async def _read(self, delivery: Delivery) -> Event | None:
        """Return the event; None when it does not parse, and is buried."""
        try:
            event = await self._bus.journal.event_of(delivery)
        except InvalidInputError as error:
            reason = error.message
        else:
            if isinstance(event.data, NewerVersion):  # a newer process beside this one may get it instead
                raise NewerVersionError(event.data.reason)
            if not isinstance(event.data, Unreadable):
                return event
            reason = event.data.reason
        await self._bury(delivery, Failure(code="unreadable", message=reason[:4_000]), None)
        return None

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        metrics.failed(self.settings.durable, error)
        failure = failure_of(error)
        if failure.retryable and self._tries_left(delivery, error):
            delay_s = failure.retry_after_s or backoff_s(delivery.deliveries - 1, _RETRY_FIRST_S, _RETRY_LONGEST_S)
            log.warning(
                "consumer.retry",
                subject=delivery.subject,
                consumer=self.settings.durable,
                deliveries=delivery.deliveries,
                delay_s=round(delay_s, 3),
                error=failure.message,
            )
            await self._settle(delivery.nak(delay_s))
        else:
            await self._bury(delivery, failure, error)

    def _tries_left(self, delivery: Delivery, error: Exception) -> bool:
        """Count a failure of this message here. Hand-backs, restarts and a bus that does not answer are none."""
        if isinstance(error, BusUnavailableError):
            return True
        tries, most = self._tries.failed(delivery.letter), self.settings.max_tries
        return tries < most and delivery.deliveries < most * _PROCESSES

    async def _bury(self, delivery: Delivery, failure: Failure, error: BaseException | None) -> None:
        first = self._tries.first_at(delivery.letter)
        name = self.settings.durable
        try:
            await bury(self._bus, delivery, consumer=name, failure=failure, error=error, first_failed_at=first)
        except MotetError as problem:
            log.warning("letter.not_stored", subject=delivery.subject, error=problem.message)
            await self._settle(delivery.nak(backoff_s(delivery.deliveries - 1, _RETRY_FIRST_S, _RETRY_LONGEST_S)))
        else:
            self._tries.forget(delivery.letter)
            await self._settle(delivery.term(failure.message[:200]))

    async def _settle(self, telling: Awaitable[None]) -> None:
        """Tell the server; when it cannot be told, it delivers the message again, and the fences hold."""
        try:
            await telling
        except MotetError as error:
            log.warning("consumer.not_told", consumer=self.settings.durable, error=error.message)
