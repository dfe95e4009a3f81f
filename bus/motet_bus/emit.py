"""Emits what a record lists, each fact on its own empty subject; repeating it is harmless."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from motet_bus.fences import Fence, attempt_fence, natural_fence
from motet_bus.journal import Journal
from motet_schemas import BusUnavailableError, ConflictError, Fact

log = structlog.get_logger(__name__)

_RENEWALS: Final = 5


async def emit(journal: Journal, facts: Sequence[Fact], *, cause: int) -> bool:
    """Append every fact on its own empty subject; pass over what is there already, and what has its place taken.

    Returns whether all of them are there now; else somebody took a place, which may have made something missing again.
    Raises `BusUnavailableError` when one could not be stored: the record stays, and whoever reads it emits the rest.
    """
    results = await asyncio.gather(*(_one(journal, fact, cause) for fact in facts), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return all(results)


async def _one(journal: Journal, fact: Fact, cause: int) -> bool:
    try:
        if fact.subject.kind == "step.expired":
            await _expire(journal, fact, cause)
        else:
            # A submission's rivals are all facts of its task; for the rest the own subject alone must be empty.
            fence = natural_fence(fact.subject) if fact.subject.kind == "task.submitted" else Fence(0)
            await journal.append(fact, fence=fence, cause=cause)
    except ConflictError as error:
        log.warning("emit.taken", subject=str(fact.subject), reason=error.message)
        return False
    return True


async def _expire(journal: Journal, fact: Fact, cause: int) -> None:
    """Emit a lost claim under the fence of its rivals: on a replicated stream only equal fences exclude each other."""
    at_least = 0
    for _ in range(_RENEWALS):
        events = await journal.read_attempt(fact.subject, at_least=at_least)
        outcome = next((event for event in events if event.kind in ("step.executed", "step.expired")), None)
        if outcome is not None:
            if outcome.id != fact.id:
                raise ConflictError(f"{fact.subject}: {outcome.subject} came first", last_sequence=outcome.seq)
            return
        try:
            fence = attempt_fence(fact.subject, events[-1].seq if events else 0)
            await journal.append(fact, fence=fence, cause=cause)
        except ConflictError as refusal:
            at_least = refusal.last_sequence or 0
        else:
            return
    raise BusUnavailableError(f"{fact.subject}: others keep writing to this attempt; try again")
