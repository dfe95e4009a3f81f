"""The long ones: servers and processes killed again and again under load. Run with `-m chaos`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motet_bus import open_client
from motet_schemas import Namespace
from tests.bus.fleet import ROLES, Fleet, all_ended, check_everything, results_are_of_real_runs, submit_all
from tests.bus.processes import ROOT, AgentProcesses, Zygote
from tests.bus.servers import NatsServer
from tests.bus.support import bus_as, eventually, kinds, offer, options

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("seed", range(4))
async def test_thirty_conversations_complete_although_server_and_agents_are_killed_again_and_again(
    zygote: Zygote, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)  # noqa: S311 - which process dies next is no secret
    namespace = Namespace("storm")
    with (
        NatsServer(tmp_path / "storm") as server,
        AgentProcesses(zygote, tmp_path, server.url, namespace) as processes,
    ):
        fleet = Fleet(processes, tmp_path)
        async with open_client(options(server.url), namespace=namespace.name) as client:
            fleet.start()
            await fleet.ready()
            names = await submit_all(client, 30, 0.3)
            for round_ in range(10):
                await asyncio.sleep(dice.uniform(0.1, 1.0))
                await fleet.kill_one(dice.choice(list(ROLES)))
                if round_ % 2:
                    server.restart()
            states = await all_ended(client, names, within_s=90)
            await check_everything(client, client.link, namespace, states)
            await results_are_of_real_runs(client, processes, names)


async def test_a_handler_that_ignores_everything_does_not_keep_its_process_alive(
    nats_url: str, namespace: Namespace, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "MOTET_NATS_URL": nats_url,
        "MOTET_NAMESPACE": namespace.name,
        "MOTET_TEST_RUNS": str(tmp_path / "runs"),
    }
    async with bus_as(nats_url, namespace, "orchestrator") as orchestrator:
        await offer(orchestrator, "c1")
        command = [sys.executable, "-m", "motet_gateway.agent_process", "tests.bus.child_agents:deaf"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        try:
            await eventually(lambda: orchestrator.journal.read_last("step.claimed.c1.s1.1"), within_s=20)
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            await asyncio.to_thread(process.wait, 20)
            assert time.monotonic() - started < 15
        finally:
            process.kill()
            process.wait()
        assert await kinds(orchestrator, "c1") == ["step.ready", "step.claimed", "step.expired"]
