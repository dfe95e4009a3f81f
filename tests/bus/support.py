"""What the tests of the upper bus share: steps to hand out, agents that run in this process, a look at the stream."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from motet_bus import Agent, AgentCard, Bus, ConnectOptions, Role, RunOptions, open_bus, run_agent
from motet_bus.answers import StoredMessage
from motet_bus.link import Link
from motet_schemas import (
    DeadLetter,
    Event,
    Fact,
    Manifest,
    Namespace,
    NotFoundError,
    PlanStep,
    Remaining,
    StepExecuted,
    StepReady,
    Task,
    TaskSubmitted,
)
from motet_schemas.subjects import build
from tests.bus.secured import options_as, prepare

Found = TypeVar("Found")

SHORT: Final = RunOptions(claim_ttl_s=1.0, ack_wait_s=1.0)
"""Claims and ack waits that a test can wait for."""

MAY_REPEAT: Final = ("step.renewed", "timer.fired")
"""The kinds whose subject may hold more than one message."""


def options(url: str, name: str = "test", role: Role | None = None) -> ConnectOptions:
    """How to reach the server at `url`; on a secured one with the credentials of `role`, or as god."""
    return options_as(url, name, role)


@asynccontextmanager
async def bus_as(url: str, namespace: Namespace, role: Role, name: str = "") -> AsyncGenerator[Bus]:
    """Open a bus in `role`; its streams are created when they are missing."""
    await prepare(url, namespace.name)
    async with open_bus(options(url, role=role), role=role, name=name or role, namespace=namespace.name) as bus:
        yield bus


async def eventually(look: Callable[[], Awaitable[Found | None]], *, within_s: float = 10.0) -> Found:
    """Return what `look` finds as soon as it is neither None nor False; `AssertionError` when it does not in time."""
    deadline = time.monotonic() + within_s
    while (found := await look()) is None or found is False:
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)
    return found


# What is handed out


def plan_step(step: str = "s1", capability: str = "work", **changes: object) -> PlanStep:
    """Return a step with a short manifest."""
    made = PlanStep(id=step, capability=capability, goal="a test", manifest=Manifest(objective="a test"))
    return made.evolve(**changes)


def handoff(step: PlanStep, key: str = "key") -> StepReady:
    """Return what an orchestrator says when it hands out `step`."""
    remaining = Remaining(attempts=1, tokens=1_000, time_s=60.0)
    return StepReady(step=step, plan_revision=1, remaining=remaining, idempotency_key=key)


async def offer(bus: Bus, conversation: str, step: PlanStep | None = None, attempt: int = 1) -> Event:
    """Hand out one attempt as an orchestrator does; return the event as recorded."""
    step = step or plan_step()
    subject = build("step.ready", conversation, step.id, attempt, step.capability)
    await bus.journal.append(Fact(subject, handoff(step, f"{conversation}/{step.id}/{attempt}")))
    return await last_of(bus, str(subject))


async def submit(bus: Bus, conversation: str, kind: str = "content-qa") -> Event:
    """Record a small task."""
    subject = build("task.submitted", conversation, kind)
    await bus.journal.append(Fact(subject, TaskSubmitted(**dict(Task(kind=kind)))))
    return await last_of(bus, str(subject))


# What an outsider does


async def outsider_writes(
    link: Link, namespace: Namespace, subject: str, body: bytes = b"rubbish", headers: Mapping[str, str] | None = None
) -> int:
    """Store a message without fence or grant, as any NATS client can; return its sequence."""
    return (await link.publish_stored(namespace.wire(subject), body, headers or {})).seq


# What is in the stream


async def last_of(bus: Bus, name: str) -> Event:
    """Return the last event on a subject or filter; `AssertionError` when there is none."""
    event = await bus.journal.read_last(name)
    assert event is not None, f"nothing is recorded on {name}"
    return event


async def executed(bus: Bus, conversation: str, step: str = "s1", attempt: int = 1) -> StepExecuted | None:
    """Return the record of an attempt, None when there is none yet."""
    event = await bus.journal.read_last(f"step.executed.{conversation}.{step}.{attempt}")
    return None if event is None or not isinstance(event.data, StepExecuted) else event.data


async def kinds(bus: Bus, conversation: str) -> list[str]:
    """Return the kinds of a conversation's facts, in the order of the stream."""
    return [event.kind for event in await bus.journal.read_conversation(conversation)]


async def stored(link: Link, namespace: Namespace, name: str = ">") -> list[StoredMessage]:
    """Return what the stream of conversations holds on a filter."""
    return await link.read_batch(namespace.stream("CONVERSATIONS"), namespace.wire(name))


async def stored_twice(link: Link, namespace: Namespace) -> list[str]:
    """Return the subjects that hold more than one message although their identity allows one."""
    seen = Counter(namespace.strip(message.subject) for message in await stored(link, namespace))
    return sorted(subject for subject, count in seen.items() if count > 1 and not subject.startswith(MAY_REPEAT))


async def dead_letters(link: Link, namespace: Namespace) -> list[DeadLetter]:
    """Return all dead letters, oldest first."""
    messages = await link.read_batch(namespace.stream("DEAD_LETTERS"), namespace.wire("dead.>"))
    return [DeadLetter.model_validate_json(message.body) for message in messages]


def body_of(letter: DeadLetter) -> bytes:
    """Return the dead message's own body."""
    return base64.b64decode(letter.body)


async def is_settled(link: Link, namespace: Namespace, durable: str) -> bool:
    """Say whether a consumer is there and has nothing left to do."""
    try:
        info = await link.api(f"CONSUMER.INFO.{namespace.stream('CONVERSATIONS')}.{durable}", {})
    except NotFoundError:
        return False
    return not (info["num_ack_pending"] or info["num_pending"])


# Agents in this process


@dataclass
class Running:
    """An agent that runs in this process. `end` drains it and raises what it raised."""

    card: AgentCard
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def end(self) -> None:
        self.stop.set()
        await self.task


@asynccontextmanager
async def running(
    agent: Agent,
    url: str,
    namespace: Namespace,
    run: RunOptions = SHORT,
    *,
    settings: Mapping[str, str] | None = None,
) -> AsyncGenerator[Running]:
    """Run `agent` here until the context ends; what it raised is raised there."""
    await prepare(url, namespace.name, agent, run)
    stop = asyncio.Event()
    ready: asyncio.Future[AgentCard] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run_agent(
            agent,
            options(url, agent.name, agent.role),
            stop=stop,
            namespace=namespace.name,
            settings=settings,
            run=run,
            on_ready=ready.set_result,
        )
    )
    first: set[asyncio.Future[Any]] = {task, ready}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
    agent_here = Running(await ready, stop, task)
    try:
        yield agent_here
    finally:
        await agent_here.end()


def new_conversation() -> str:
    """Return an id that no other test uses."""
    return f"c-{secrets.token_hex(4)}"
