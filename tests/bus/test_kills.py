"""Whole conversations on real processes, which are killed with SIGKILL, frozen, told to stop and started again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from motet_bus import Client, open_client
from motet_bus.link import Link
from motet_schemas import Namespace, standing
from tests.bus.fleet import Fleet, all_ended, check_everything, results_are_of_real_runs, submit_all
from tests.bus.processes import AgentProcesses, Zygote
from tests.bus.support import eventually, options

# In the default run: each role killed once, in the middle of the work


async def test_conversations_complete_although_one_of_each_role_is_killed_in_the_middle(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            fleet.start()
            await fleet.ready()
            names = await submit_all(client, 6, 0.4)
            for role, seen in (("planner", 0), ("orchestrator", 2), ("executor", 4), ("verifier", 8), ("executor", 10)):

                async def far_enough(runs: int = seen) -> bool:
                    return len(processes.runs()) >= runs

                await eventually(far_enough, within_s=20)
                await fleet.kill_one(role)
            states = await all_ended(client, names, within_s=45)
            await check_everything(client, link, namespace, states)
            await results_are_of_real_runs(client, processes, names)


async def test_a_frozen_worker_that_wakes_after_its_claim_was_taken_changes_nothing(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            for role in ("orchestrator", "planner", "verifier"):
                fleet.add(role)
            zombie = fleet.add("executor")
            await fleet.ready()
            [name] = await submit_all(client, 1, 0.7)

            async def working() -> bool:
                return bool(processes.runs())

            await eventually(working)
            zombie.signal(signal.SIGSTOP)
            other = fleet.add("executor")
            await other.ready()
            [state] = await all_ended(client, [name], within_s=30)
            before = await kinds_of(client, name)
            zombie.signal(signal.SIGCONT)
            await asyncio.sleep(1.5)  # it wakes, ends its run, and tries to record it
            assert await kinds_of(client, name) == before
            assert zombie.alive
            await check_everything(client, link, namespace, [state])
            lost = [attempt for attempt in state.opened("a") if attempt.lost is not None]
            assert len(lost) == 1
            assert lost[0].lost is not None
            assert lost[0].lost.owner == zombie.ready_file.read_text()


async def kinds_of(client: Client, name: str) -> list[str]:
    return [event.kind for event in await client.events(name)]


async def test_an_agent_that_is_told_to_stop_is_gone_within_ten_seconds_and_its_step_goes_to_another(
    zygote: Zygote, tmp_path: Path, nats_url: str, link: Link, namespace: Namespace
) -> None:
    with AgentProcesses(zygote, tmp_path, nats_url, namespace) as processes:
        processes.defaults |= {"claim_ttl_s": 30.0, "ack_wait_s": 30.0}
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(nats_url), namespace=namespace.name) as client:
            for role in ("orchestrator", "planner", "verifier"):
                fleet.add(role)
            first = fleet.add("executor")
            await fleet.ready()
            [name] = await submit_all(client, 1, 12.0)

            async def working() -> bool:
                return bool(processes.runs())

            await eventually(working)
            first.signal(signal.SIGTERM)
            await first.gone(within_s=10.5)

            async def released() -> bool:
                return "step.expired" in await kinds_of(client, name)

            await eventually(released, within_s=2)
            state = await client.load(name)
            assert standing.attempts_made(state) == len(state.opened("a")) - 1
