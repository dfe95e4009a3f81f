"""Runs one attempt at a step: claim it, run the handler within its bounds, record the outcome in one fact."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, cast

import structlog

from motet_bus import metrics, tracing
from motet_bus.bus import Bus
from motet_bus.claims import DEFAULT_TTL_S, ClaimLostError, HeldClaim, yield_to_owner
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.dead_letters import bury, failure_of
from motet_bus.delivery import Delivery
from motet_bus.inputs import fetch_texts
from motet_bus.outcome import Outcome, Step
from motet_schemas import (
    ConflictError,
    Event,
    Failure,
    PermanentError,
    StepExecuted,
    StepReady,
    TransientError,
)

log = structlog.get_logger(__name__)

StepHandler = Callable[[Step], Awaitable[Outcome]]

_STOPPING_S: Final = 1.0
_YOUNG: Final = timedelta(seconds=5)
_NOTES: Final = 20_000


class StepRunner:
    """Handles `step.ready` for one capability. The handler may run twice; its recorded effect happens once."""

    def __init__(
        self,
        bus: Bus,
        capability: str,
        handler: StepHandler,
        *,
        claim_ttl_s: float = DEFAULT_TTL_S,
        crash: CrashPoint = no_crash,
    ) -> None:
        self._bus = bus
        self._capability = capability
        self._handler = handler
        self._claim_ttl_s = claim_ttl_s
        self._crash = crash

    async def handle(self, event: Event, delivery: Delivery) -> None:
        """See one `step.ready` through. Raises `HandBackError` while somebody else works on it."""
        if not isinstance(event.data, StepReady):
            raise PermanentError(f"{event.subject} is no step.ready")
        if await self._is_over(event, delivery):
            log.debug("step.skipped", subject=str(event.subject), reason="the conversation has ended")
            return
        try:
            claim = await HeldClaim.take(self._bus.journal, event, ttl_s=self._claim_ttl_s)
        except ConflictError:
            await yield_to_owner(self._bus.journal, event)
            return
        metrics.claimed(self._capability)
        try:
            await self._work(event, event.data, claim, delivery)
        except ClaimLostError as error:
            metrics.claim(self._capability, "lost")
            log.warning("step.fenced", subject=str(event.subject), error=error.message)
        finally:
            metrics.let_go(self._capability)

    async def _is_over(self, event: Event, delivery: Delivery) -> bool:
        """Say whether the conversation has ended; what was handed out a moment ago is not looked up.

        A broadcast alone proves nothing: anybody can send one.
        """
        conversation = event.subject.conversation
        young = delivery.fresh and abs(datetime.now(UTC) - delivery.time) < _YOUNG
        if young and conversation not in self._bus.ended:
            return False
        return await self._has_ended(event)

    async def _has_ended(self, event: Event) -> bool:
        conversation = event.subject.conversation
        state = await self._bus.conversations.load(conversation, at_least=event.seq)
        if state.ending is None:
            self._bus.ended.forget(conversation)
        return state.ending is not None

    async def _work(self, event: Event, ready: StepReady, claim: HeldClaim, delivery: Delivery) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        work: asyncio.Task[Outcome] = asyncio.create_task(self._call(event, ready), name=f"step {event.subject}")
        keeping = asyncio.create_task(claim.keep(), name=f"claim {event.subject}")
        try:
            with self._bus.ended.cancels(event.subject.conversation, work):
                await asyncio.wait(
                    {work, keeping}, timeout=ready.step.time_budget_s, return_when=asyncio.FIRST_COMPLETED
                )
        except asyncio.CancelledError:
            await _cancel(work, keeping)
            await claim.release("released: its owner is stopping")
            metrics.claim(self._capability, "released")
            raise
        if keeping.done() and not work.done():
            await _cancel(work, keeping)
            keeping.result()
            metrics.claim(self._capability, "lost")
            return
        finished = work.done()
        await _cancel(work, keeping)
        if finished and work.cancelled() and await self._has_ended(event):
            log.debug("step.cancelled", subject=str(event.subject), reason="the conversation has ended")
            return
        elapsed_ms = round((loop.time() - started) * 1000)
        error = self._error(work, finished, ready)
        if error is not None:
            metrics.failed(f"step-{self._capability}", error)
        if error is not None and not failure_of(error).retryable:
            await bury(self._bus, delivery, consumer=f"step-{self._capability}", failure=failure_of(error), error=error)
        outcome = work.result() if error is None else _as_outcome(error)
        self._crash("after the handler")
        record = self._record(event, ready, outcome, error, elapsed_ms)
        await claim.record(record)
        metrics.executed(self._capability, record)

    @staticmethod
    def _error(work: asyncio.Task[Outcome], finished: bool, ready: StepReady) -> BaseException | None:
        if not finished:
            return TransientError(f"the step ran out of its time budget of {ready.step.time_budget_s} s")
        if work.cancelled():
            return TransientError("the handler was cancelled, and not because its conversation has ended")
        return work.exception()

    async def _call(self, event: Event, ready: StepReady) -> Outcome:
        step = await self._handed_over(event, ready)
        with tracing.invoking(self._bus.name, self._bus.instance, event, ready) as span:
            result = cast("object", await self._handler(step))
            if not isinstance(result, Outcome):
                raise PermanentError(
                    f"the handler of {self._capability} returned {type(result).__name__}; return Outcome.passed(…), "
                    "Outcome.failed(…) or Outcome.blocked(…)"
                )
            tracing.tell_outcome(span, result)
        return result

    async def _handed_over(self, event: Event, ready: StepReady) -> Step:
        manifest = ready.step.manifest
        if fetched := await fetch_texts(self._bus.objects, manifest.references):
            others = {name: ref for name, ref in manifest.references.items() if name not in fetched}
            manifest = manifest.evolve(inputs={**manifest.inputs, **fetched}, references=others)
        return Step(
            conversation=event.subject.conversation,
            id=ready.step.id,
            attempt=event.subject.number,
            capability=ready.step.capability,
            goal=ready.step.goal,
            context=ready.step.context,
            manifest=manifest,
            min_confidence=ready.step.min_confidence,
            time_budget_s=ready.step.time_budget_s,
            asked=ready.asked,
            found=ready.found,
            failed=ready.failed,
            instructions=ready.instructions,
            remaining=ready.remaining,
            idempotency_key=ready.idempotency_key,
        )

    def _record(
        self, event: Event, ready: StepReady, outcome: Outcome, error: BaseException | None, elapsed_ms: int
    ) -> StepExecuted:
        failure = failure_of(error) if error is not None else None
        try:
            record = self._executed(ready, outcome, failure, elapsed_ms)
            record.to_json()
        except Exception as problem:  # noqa: BLE001 - a handler may put anything into an outcome
            # What the handler returned breaks the contract: that is the attempt's outcome.
            broken = PermanentError(f"the handler of {self._capability} returned an invalid outcome: {problem}")
            log.error("step.invalid_outcome", subject=str(event.subject), error=broken.message)
            return self._executed(ready, _as_outcome(broken), failure_of(broken), elapsed_ms)
        return record

    def _executed(self, ready: StepReady, outcome: Outcome, failure: Failure | None, elapsed_ms: int) -> StepExecuted:
        return StepExecuted(
            status=outcome.status,
            confidence=outcome.confidence,
            notes=outcome.notes[:_NOTES],
            evidence=outcome.evidence,
            findings=outcome.findings,
            output=outcome.output,
            files_changed=outcome.files_changed,
            commands_run=outcome.commands_run,
            risks=outcome.risks,
            tokens_in=outcome.usage.tokens_in,
            tokens_out=outcome.usage.tokens_out,
            cost_usd=outcome.usage.cost_usd,
            elapsed_ms=elapsed_ms,
            next_action=outcome.next_action,
            model=outcome.model,
            executor=self._bus.instance,
            idempotency_key=ready.idempotency_key,
            failure=failure,
        )


def _as_outcome(error: BaseException) -> Outcome:
    failure = failure_of(error)
    return Outcome.failed(
        notes=f"{failure.type}: {failure.message}", next_action="revise" if failure.retryable else "escalate"
    )


async def _cancel(*tasks: asyncio.Task[Outcome] | asyncio.Task[None]) -> None:
    """Cancel tasks and wait for a moment; one that does not listen is left behind, its outcome will not count."""
    for task in tasks:
        task.cancel()
    _, deaf = await asyncio.wait(tasks, timeout=_STOPPING_S)
    for task in deaf:
        log.error("step.deaf", task=task.get_name(), reason="the handler ignores its cancellation")
