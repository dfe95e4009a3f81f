"""The planner: answers a request for a plan with a valid one, or says why there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from motet_agents.playbooks import load_playbooks
from motet_bus import Agent, Context
from motet_schemas import (
    ANY_LIMITS,
    Conversation,
    InvalidInputError,
    Plan,
    PlanCreated,
    PlanRejected,
    PlanRequested,
    Task,
    limits_context,
)
from motet_schemas.validation import nearest

PLAYBOOKS_SETTING: Final = "playbooks"
"""The setting that names the folders of a user's playbooks, separated like a search path."""

agent = Agent("planner", role="planner")


@agent.on("plan.requested", concurrency=8, name="planner")
async def plan(event: PlanRequested, context: Context) -> None:
    """Record `plan.created` or `plan.rejected` for the requested revision."""
    state = await context.load()
    if state.task is None:
        context.emit("plan.rejected", context.subject.number, data=_refused(context, "there is no readable task"))
        return
    try:
        made = make_plan(state, state.task, context)
    except InvalidInputError as error:
        context.emit("plan.rejected", context.subject.number, data=_refused(context, error.message))
        return
    # The playbook's limits were kept when it was made; they may be wider than everybody's.
    created = PlanCreated.model_validate(dict(made), context=limits_context(ANY_LIMITS))
    context.emit("plan.created", context.subject.number, data=created)


def make_plan(state: Conversation, task: Task, context: Context) -> Plan:
    """Return a plan for the task. Raises `InvalidInputError` when there is none."""
    folders = [Path(folder) for folder in context.settings.get(PLAYBOOKS_SETTING, "").split(os.pathsep) if folder]
    playbooks = load_playbooks(folders)
    playbook = playbooks.get(task.kind)
    if playbook is None:
        like = nearest(task.kind, list(playbooks))
        raise InvalidInputError(
            f"kind: there is no playbook {task.kind!r}; "
            + (f"did you mean {like!r}?" if like else f"known are {', '.join(sorted(playbooks))}"),
            field="kind",
            value=task.kind,
        )
    if state.plan is not None:
        raise InvalidInputError(
            f"playbook {playbook.name}: its plan is fixed, so there is no other way to do this", field="plan"
        )
    return playbook.make_plan(task, planner=context.instance)


def _refused(context: Context, reason: str) -> PlanRejected:
    return PlanRejected(reason=reason, planner=context.instance)
