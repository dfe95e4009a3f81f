"""Processes that are forked from one that has imported everything are processes like any other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from motet_bus.child_process import ChildProcess, OutputStream, ProcessSpec
from motet_bus.forge import Forge
from motet_bus.supervisor import Supervisor
from tests.bus.servers import until

_MODULE = "tests.bus.forged"


@pytest.fixture
async def forge(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Forge]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    forge = Forge(["json"])
    await forge.start()
    yield forge
    await forge.close()


def spec(*arguments: str, module: str = _MODULE, imports: tuple[str, ...] = (_MODULE,)) -> ProcessSpec:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], "SAID": "so"}
    return ProcessSpec(name="w", argv=[sys.executable, "-P", "-m", module, *arguments], env=env, imports=imports)


async def output_of(forge: Forge, *arguments: str, **how: Any) -> tuple[int, list[tuple[OutputStream, str]]]:
    """Run one process to its end; its status and what it said."""
    said: list[tuple[OutputStream, str]] = []
    process = await ChildProcess.spawn(spec(*arguments, **how), lambda stream, line: said.append((stream, line)), forge)
    async with asyncio.timeout(20):
        return await process.wait(), said


def ignore(_stream: OutputStream, _line: str) -> None:
    """What these processes say does not matter."""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return not alive(pid)

    await until(is_gone)


async def test_a_fork_has_its_own_arguments_environment_group_and_pipes(forge: Forge) -> None:
    status, said = await output_of(forge, "tell", "x y")
    assert status == 7
    assert ("stderr", "and this") in said
    [told] = [json.loads(line)["told"] for stream, line in said if stream == "stdout"]
    assert told["argv"] == [_MODULE, "tell", "x y"]
    assert told["env"] == dict(spec().env or {})
    assert told["imported_by"] != told["pid"]
    assert told["group"] == told["pid"]
    assert told["name"] == ("w" if sys.platform == "linux" else "")


async def test_what_was_not_imported_before_is_imported_by_the_fork(forge: Forge) -> None:
    _, said = await output_of(forge, "tell", imports=())
    [told] = [json.loads(line)["told"] for stream, line in said if stream == "stdout"]
    assert told["imported_by"] == told["pid"]


async def test_exit_statuses_are_those_of_any_process(forge: Forge) -> None:
    assert (await output_of(forge, "exit"))[0] == 5
    status, said = await output_of(forge, "raise")
    assert status == 1
    assert ("stderr", "ValueError: a bug") in said
    process = await ChildProcess.spawn(spec("stay"), ignore, forge)
    assert await process.ready is not None
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    process = await ChildProcess.spawn(spec("stay"), ignore, forge)
    await process.ready
    await process.end(5)
    assert await process.wait() == -signal.SIGTERM


async def test_a_module_that_is_not_there_is_the_forks_trouble_alone(forge: Forge) -> None:
    status, said = await output_of(forge, "x", module="no.such.module", imports=("no.such.module",))
    assert status == 1
    assert any("No module named 'no'" in line for _, line in said)
    assert (await output_of(forge, "tell"))[0] == 7


async def test_many_at_once_all_get_their_own(forge: Forge) -> None:
    results = await asyncio.gather(*(output_of(forge, "tell", str(number)) for number in range(20)))
    told = [json.loads(line)["told"] for _, said in results for stream, line in said if stream == "stdout"]
    assert [one["argv"][2] for one in told] == [str(number) for number in range(20)]
    assert len({one["pid"] for one in told}) == 20


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
async def test_forks_end_with_their_forge_and_are_started_again_without_it(forge: Forge) -> None:
    async with Supervisor(forge=forge) as supervisor:
        [child] = await supervisor.start([spec("stay")])
        first = child.pid
        assert first is not None
        os.kill(int(child.instance.removeprefix("of-")) if child.instance else 0, signal.SIGKILL)
        await gone(first)

        async def came_back() -> bool:
            [child] = supervisor.children
            return child.state == "ready" and child.pid != first

        await until(came_back)
        [child] = supervisor.children
        assert child.instance == f"of-{os.getpid()}"
        assert not forge.open


async def test_a_forge_that_was_closed_starts_nothing_and_leaves_nothing(forge: Forge) -> None:
    process = await ChildProcess.spawn(spec("stay"), ignore, forge)
    await process.ready
    await forge.close()
    await gone(process.pid)
    assert await process.wait() < 0
    with pytest.raises(OSError, match="forge has ended"):
        await forge.spawn(_MODULE, [], name="w", env={}, imports=(), files=(0, 1, 2))
    await forge.close()
