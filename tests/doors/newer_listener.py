"""An agent of the next major version, in a process of its own: it reads `step.executed` as this one cannot."""

from __future__ import annotations

from motet_bus import Agent, Context
from motet_schemas import StepExecuted, TaskCancel

StepExecuted.schema_version = 2
agent = Agent("listener")


@agent.on("step.executed", name="listener")
async def listen(event: StepExecuted, context: Context) -> None:
    """Say who has read it."""
    context.emit("task.cancel", "newer", data=TaskCancel(requested_by="newer"))
