"""The long ones: servers and processes killed again and again under load. Run with `-m chaos`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motet_schemas import Namespace
from tests.bus.processes import ROOT
from tests.bus.support import bus_as, eventually, kinds, offer
from tests.gateway.command import Motet

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(3))
def test_no_promise_is_broken_while_everything_is_killed_frozen_and_cut_off(tmp_path: Path, seed: int) -> None:
    motet = Motet(tmp_path)
    done = motet("chaos", "--minutes", "1", "--seed", str(seed), "--json", timeout_s=380)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    verdict = json.loads(done.stdout)
    assert verdict["held"] is True
    assert verdict["violations"] == []
    assert sum(verdict["kills"].values()) > 5
    assert verdict["facts"] > 0
    assert "storm" in done.stderr
    assert list(motet.store.iterdir()) == []


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
