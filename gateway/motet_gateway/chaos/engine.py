"""One chaos run from the start to its verdict."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from motet_bus import Client, ConnectOptions, open_client
from motet_gateway.chaos.crew import PLAYBOOKS, Crew, running_crew
from motet_gateway.chaos.inject import Injector
from motet_gateway.chaos.load import Load
from motet_gateway.chaos.memory import SERVER, MemoryLog
from motet_gateway.chaos.oracle import Judgement, judge
from motet_gateway.config import Settings
from motet_schemas import BusUnavailableError
from motet_schemas.audit import Violation

CLAIM_TTL_S: Final = 3.0
ACK_WAIT_S: Final = 3.0
_WINDOW: Final = 40
_SETTLE_S: Final = 180.0
_TICK_S: Final = 1.0
_SAMPLE_S: Final = 5.0
_WARM: Final = 0.25
_WARM_AT_LEAST_S: Final = 120.0
_REFUSED: Final = ("commit.refused", "emit.taken", "step.fenced", "reconciler.overtaken")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do: for how long (seconds), with which luck, and how fast (conversations a second; None: as it can)."""

    seconds: float
    seed: int
    rate: float | None = None

    @property
    def warm_after_s(self) -> float:
        """After how many seconds caches are full, so that memory must stay flat."""
        return max(_WARM * self.seconds, _WARM_AT_LEAST_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands."""

    phase: str
    at_s: float
    submitted: int = 0
    open: int = 0
    faults: int = 0
    kills: dict[str, int] = field(default_factory=dict[str, int])
    audited: int = 0


Tell = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a run. `held` says that no promise was broken."""

    plan: Plan
    lasted_s: float
    judgement: Judgement
    kills: dict[str, int]
    faults: dict[str, int]
    answers_lost: int
    publishes_repeated: int
    doubles_submitted: int
    refused: dict[str, int]
    slowest_restart_s: float
    settled_in_s: float
    memory: list[dict[str, Any]]
    store: Path

    @property
    def held(self) -> bool:
        """Whether no promise was broken."""
        return self.judgement.broken == 0


class Run:
    """One run on a store of its own."""

    def __init__(self, plan: Plan, store: Path, tell: Tell) -> None:
        self._plan = plan
        self._store = store
        self._tell = tell
        self._memory = MemoryLog()
        self._began = time.monotonic()

    async def verdict(self) -> Verdict:
        """Do it all. Raises `MotetError` when the system cannot be started, or an agent is beyond help."""
        settings = Settings(
            playbooks=(PLAYBOOKS,), claim_ttl_s=CLAIM_TTL_S, ack_wait_s=ACK_WAIT_S, log_level="debug", store=self._store
        )
        self._say("starting")
        async with running_crew(settings, self._store) as crew, self._clients(crew) as (client, auditor):
            injector = Injector(
                crew, seed=self._plan.seed, frozen_s=CLAIM_TTL_S + 1, spare_after_s=_WARM * self._plan.seconds
            )
            load = Load(client, seed=self._plan.seed, rate=self._plan.rate, window=_WINDOW)
            self._began = time.monotonic()
            await self._storm(crew, load, injector)
            lasted_s = time.monotonic() - self._began
            unsettled = await self._settle(auditor, load, injector)
            settled_in_s = time.monotonic() - self._began - lasted_s
            judgement = await judge(auditor, load.submitted, lambda done: self._say("auditing", load, injector, done))
            judgement.add(unsettled)
        said = crew.watch.said
        return Verdict(
            plan=self._plan,
            lasted_s=lasted_s,
            judgement=judgement,
            kills=injector.kills,
            faults=dict(injector.done),
            answers_lost=crew.proxy.lost,
            publishes_repeated=crew.proxy.repeated,
            doubles_submitted=load.doubles_refused,
            refused={name: said[name] for name in _REFUSED if said[name]},
            slowest_restart_s=max(crew.watch.restarts_s, default=0.0),
            settled_in_s=settled_in_s,
            memory=self._memory.report(self._plan.warm_after_s),
            store=self._store,
        )

    @asynccontextmanager
    async def _clients(self, crew: Crew) -> AsyncGenerator[tuple[Client, Client]]:
        """A client that meets the faults of the network, and one that does not."""
        async with (
            open_client(ConnectOptions(url=crew.proxied, name="chaos"), by="chaos") as client,
            open_client(ConnectOptions(url=crew.direct, name="chaos-oracle"), by="chaos-oracle") as auditor,
        ):
            yield client, auditor

    async def _storm(self, crew: Crew, load: Load, injector: Injector) -> None:
        stop = asyncio.Event()
        work = [
            asyncio.create_task(load.run(stop)),
            asyncio.create_task(injector.run(stop)),
        ]
        others = [
            asyncio.create_task(load.listen()),
            asyncio.create_task(self._watch(crew, load, injector)),
            asyncio.create_task(crew.supervisor.wait()),
        ]
        try:
            await asyncio.wait([*work, *others], timeout=self._plan.seconds, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            for task in others:
                if task.done():
                    task.result()
            await asyncio.gather(*work)
        finally:
            for task in [*work, *others]:
                task.cancel()
            await asyncio.gather(*work, *others, return_exceptions=True)

    async def _watch(self, crew: Crew, load: Load, injector: Injector) -> None:
        sampled_at = -_SAMPLE_S
        while True:
            now = time.monotonic() - self._began
            if now - sampled_at >= _SAMPLE_S:
                sampled_at = now
                pids = {child.name: child.pid for child in crew.processes() if child.pid is not None}
                await self._memory.sample(now, {**pids, SERVER: crew.server.pid, "chaos": os.getpid()})
            self._say("storm", load, injector)
            await asyncio.sleep(_TICK_S)

    async def _settle(self, auditor: Client, load: Load, injector: Injector) -> list[Violation]:
        """Wait until every conversation has ended and every consumer has nothing left to do."""
        give_up = time.monotonic() + _SETTLE_S
        busy: list[str] = ["?"]
        while time.monotonic() < give_up:
            self._say("settling", load, injector)
            try:
                await load.look_up(0.0)
                busy = await _busy_consumers(auditor)
            except BusUnavailableError:
                busy = ["?"]
            if not load.open and not busy:
                return []
            await asyncio.sleep(_TICK_S)
        words = f"{len(load.open)} conversations did not end, and these consumers were not done: {', '.join(busy)}"
        return [Violation(conversation="-", rule="did_not_settle", words=f"within {_SETTLE_S:.0f} s {words}")]

    def _say(self, phase: str, load: Load | None = None, injector: Injector | None = None, audited: int = 0) -> None:
        self._tell(
            Progress(
                phase=phase,
                at_s=time.monotonic() - self._began,
                submitted=len(load.submitted) if load else 0,
                open=len(load.open) if load else 0,
                faults=sum(injector.done.values()) if injector else 0,
                kills=injector.kills if injector else {},
                audited=audited,
            )
        )


async def _busy_consumers(client: Client) -> list[str]:
    stream = client.namespace.stream("CONVERSATIONS")
    listed: list[dict[str, Any]] = (await client.link.api(f"CONSUMER.LIST.{stream}", {}))["consumers"]
    return [one["name"] for one in listed if one["num_pending"] or one["num_ack_pending"]]
