"""Emits what a record lists, each fact on its own empty subject; repeating it is harmless."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from motet_bus.fences import Fence, natural_fence
from motet_bus.journal import Journal
from motet_schemas import ConflictError, Fact

log = structlog.get_logger(__name__)


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
        # A submission's rivals are all facts of its task; for the rest the own subject alone must be empty.
        fence = natural_fence(fact.subject) if fact.subject.kind == "task.submitted" else Fence(0)
        await journal.append(fact, fence=fence, cause=cause)
    except ConflictError as error:
        log.warning("emit.taken", subject=str(fact.subject), reason=error.message)
        return False
    return True
