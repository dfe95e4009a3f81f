"""Agents for tests that kill them: each run notes itself in a file, and answers differently every time."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

from motet_bus import Agent, Context, Outcome, Step
from motet_schemas import StepExecuted, TaskCancel, TaskSubmitted, VerifyFailed, VerifyPassed


def note() -> str:
    """Note that a run has begun; return its token."""
    token = secrets.token_hex(4)
    with Path(os.environ["MOTET_TEST_RUNS"]).open("a") as runs:
        runs.write(f"{token}\n")
    return token


several = Agent("watcher")


@several.on("task.submitted", name="watcher")
async def emit_three(event: TaskSubmitted, context: Context) -> None:
    """Emit three facts that bear the token of their run."""
    token = note()
    for number in range(3):
        context.emit("task.cancel", f"{token}-{number}", data=TaskCancel(requested_by=token))


none = Agent("watcher")


@none.on("task.submitted", name="watcher")
async def emit_none(event: TaskSubmitted, context: Context) -> None:
    """Emit nothing."""
    note()


one = Agent("judge", role="verifier")


@one.on("step.executed", name="judge")
async def emit_one(event: StepExecuted, context: Context) -> None:
    """Emit one of two verdicts."""
    token = note()
    if len(token.lstrip("01234567")) % 2:
        context.emit("verify.passed", *context.subject.detail, data=VerifyPassed(verdict="passed", verifier=token))
    else:
        context.emit("verify.failed", *context.subject.detail, data=VerifyFailed(verdict="failed", verifier=token))


steps = Agent("worker", role="executor")


@steps.step("work", concurrency=4)
async def work(step: Step) -> Outcome:
    """Answer with the token of the run."""
    return Outcome.passed(confidence=1.0, output=note())


slow = Agent("worker", role="executor")


@slow.step("slow-work", concurrency=8)
async def slow_work(step: Step) -> Outcome:
    """Take a moment, then answer with the token of the run."""
    token = note()
    await asyncio.sleep(float(str(step.manifest.inputs.get("takes_s", "0.2"))))
    return Outcome.passed(confidence=1.0, output=token, notes=f"attempt {step.attempt}")


deaf = Agent("worker", role="executor")


@deaf.step("work")
async def never_listen(step: Step) -> Outcome:
    """Ignore every cancellation."""
    note()
    while True:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            continue
