"""The agents of a chaos run beside the shipped ones: a worker with bad luck, and a watcher that emits two facts."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from motet_bus import Agent, Context, Outcome, Step
from motet_gateway.chaos.chance import chance
from motet_schemas import Json, PermanentError, TaskCancel, TaskCompleted, TransientError, Usage

LONG_S: Final = 4.0
RUN: Final = "run"
"""The key of a recorded output under which a run says which one it was: no two runs say the same."""
_USED: Final = Usage(tokens_in=7, tokens_out=3, cost_usd=0.001)

worker = Agent("chaos-worker", role="executor")


@worker.step("chaos-work", concurrency=16)
async def work(step: Step) -> Outcome:
    """Take a moment; now and then take long, fail, break the contract, doubt, or give up."""
    luck = chance("outcome", step.conversation, step.id, step.attempt)
    run = secrets.token_hex(8)
    lasts = chance("lasts", step.conversation, step.id, step.attempt)
    await asyncio.sleep(LONG_S if lasts < 0.03 else 0.2 * lasts)
    first = not step.failed and not step.instructions
    if first and luck < 0.02:
        raise TransientError(f"run {run}: bad luck")
    if first and luck < 0.03:
        raise PermanentError(f"run {run}: no luck will help")
    if first and luck < 0.04:
        return Outcome.blocked(notes=f"run {run}: something is missing")
    output: Json = {"not what was promised": run} if first and luck < 0.06 else {RUN: run}
    doubt = first and luck < 0.09
    return Outcome.passed(confidence=0.1 if doubt else 0.95, output=output, usage=_USED, model="chaos")


watcher = Agent("chaos-watcher")


@watcher.on("task.completed", concurrency=8, name="chaos-watcher")
async def note_the_end(event: TaskCompleted, context: Context) -> None:
    """Emit two facts that bear the token of this run; behind the end they change nothing."""
    run = secrets.token_hex(8)
    for number in range(2):
        context.emit("task.cancel", f"{run}-{number}", data=TaskCancel(requested_by=run, reason="too late"))
