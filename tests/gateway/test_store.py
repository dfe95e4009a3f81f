"""A command finds the bus that runs, and only that one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
import pytest

from motet_bus.embedded import EmbeddedServer, start_embedded
from motet_bus.store_lock import StoreLockedError
from motet_gateway.store import (
    DISCOVERY_FILE,
    Discovery,
    DiscoveryError,
    RunningAgent,
    bus_on,
    discovery_of,
    find_running,
    read_discovery,
    read_info,
    remove_discovery,
    store_path,
    write_discovery,
)
from motet_schemas.errors import InvalidInputError

STARTED = datetime(2026, 11, 21, 5, tzinfo=UTC)
PLANNER = RunningAgent(role="planner", pid=4711, instance="planner-k3")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with await start_embedded(tmp_path) as server:
        yield server


def something(pid: int = 4711, port: int = 4222, name: str = "motet-x") -> Discovery:
    return Discovery(nats_url=f"nats://u:p@127.0.0.1:{port}", server_name=name, pid=pid, started=STARTED)


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_flag_goes_before_the_environment_and_that_before_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"MOTET_STORE": str(tmp_path / "env")}
    assert store_path(tmp_path / "flag", environ) == tmp_path / "flag"
    assert store_path(None, environ) == tmp_path / "env"
    assert store_path(None, {}) == store_path(None, {"MOTET_STORE": ""}) == platformdirs.user_data_path("motet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store_path(Path("here")) == tmp_path / "here"
    assert store_path(Path("~/there")) == tmp_path / "home" / "there"


def test_store_that_is_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match=r"--store: .*file is not a directory"):
        store_path(tmp_path / "file")
    with pytest.raises(InvalidInputError, match=r"MOTET_STORE: .*file is not a directory"):
        store_path(None, {"MOTET_STORE": str(tmp_path / "file")})


def test_discovery_file_is_private_and_comes_back_as_it_was_written(tmp_path: Path) -> None:
    discovery = something().model_copy(update={"agents": (PLANNER,), "http_url": "http://127.0.0.1:8080"})
    path = write_discovery(tmp_path / "new", discovery)
    assert path == tmp_path / "new" / DISCOVERY_FILE
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert read_discovery(tmp_path / "new") == discovery
    write_discovery(tmp_path / "new", something(pid=1))
    assert [file.name for file in (tmp_path / "new").iterdir()] == [DISCOVERY_FILE]
    assert read_discovery(tmp_path / "new") == something(pid=1)


def test_discovery_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / DISCOVERY_FILE).mkdir()
    with pytest.raises(IsADirectoryError):
        write_discovery(tmp_path, something())
    assert [file.name for file in tmp_path.iterdir()] == [DISCOVERY_FILE]


def test_only_the_process_that_wrote_the_discovery_file_removes_it(tmp_path: Path) -> None:
    write_discovery(tmp_path, something(pid=10))
    remove_discovery(tmp_path, 11)
    assert read_discovery(tmp_path) == something(pid=10)
    remove_discovery(tmp_path, 10)
    remove_discovery(tmp_path, 10)
    assert read_discovery(tmp_path) is None


def test_discovery_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write_discovery(tmp_path, something()).chmod(0o640)
    with pytest.raises(DiscoveryError, match=r"other users can use .* holds a password: remove it"):
        read_discovery(tmp_path)


def test_discovery_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_discovery(tmp_path, something())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(DiscoveryError, match="belongs to another user"):
        read_discovery(tmp_path)


def test_discovery_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    target = write_discovery(tmp_path / "elsewhere", something())
    (tmp_path / DISCOVERY_FILE).symlink_to(target)
    with pytest.raises(DiscoveryError, match="cannot read the discovery file"):
        read_discovery(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"nats_url": 1}'])
def test_discovery_file_that_does_not_parse_is_refused_and_does_not_hurt_at_the_end(
    tmp_path: Path, content: str
) -> None:
    write_discovery(tmp_path, something()).write_text(content)
    with pytest.raises(DiscoveryError, match="does not parse"):
        read_discovery(tmp_path)
    remove_discovery(tmp_path, 4711)


async def test_running_bus_is_found(server: EmbeddedServer) -> None:
    assert await find_running(server.store) is None
    written = discovery_of(server, started=STARTED, agents=(PLANNER,))
    write_discovery(server.store, written)
    assert await find_running(server.store) == written
    async with bus_on(server.store) as bus:
        assert (bus.nats_url, bus.embedded, bus.discovery) == (server.url, None, written)


async def test_bus_whose_process_is_gone_is_not_found(server: EmbeddedServer) -> None:
    write_discovery(server.store, discovery_of(server, started=STARTED).model_copy(update={"pid": dead_pid()}))
    assert await find_running(server.store) is None


async def test_bus_whose_server_is_gone_is_not_found(server: EmbeddedServer) -> None:
    write_discovery(server.store, discovery_of(server, started=STARTED))
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()
    assert await find_running(server.store) is None


async def test_another_server_on_the_same_port_is_not_taken_for_the_bus(server: EmbeddedServer) -> None:
    write_discovery(server.store, something(pid=os.getpid(), port=server.port))
    assert await find_running(server.store) is None


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-x\r\n", b"INFO {\r\n", b"INFO []\r\n", b"INFO {", b"x" * 100_000])
async def test_what_does_not_greet_like_nats_is_no_bus(greeting: bytes) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listener:
        assert await read_info(*listener.sockets[0].getsockname()[:2]) is None


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    silence = asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silence.wait()
        writer.close()

    async with await asyncio.start_server(wait, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        assert await asyncio.wait_for(read_info("127.0.0.1", port, timeout_s=0.1), 5) is None
        silence.set()


async def test_command_starts_a_bus_of_its_own_where_none_runs(tmp_path: Path) -> None:
    write_discovery(tmp_path, something(pid=dead_pid()))
    async with bus_on(tmp_path) as bus:
        assert bus.embedded is not None
        info = await read_info("127.0.0.1", bus.embedded.port)
        assert info is not None
        assert info["server_name"] == bus.embedded.name
    assert await read_info("127.0.0.1", bus.embedded.port) is None


async def test_command_waits_for_a_short_one_that_has_the_store(tmp_path: Path) -> None:
    async with asyncio.timeout(20), bus_on(tmp_path) as first:
        second = asyncio.create_task(use(tmp_path))
        await asyncio.wait({second}, timeout=0.2)
        assert not second.done()
        assert first.embedded is not None
        await first.embedded.stop()
        assert await second != first.nats_url


async def use(store: Path) -> str:
    async with bus_on(store) as bus:
        return bus.nats_url


async def test_command_waits_until_a_starting_bus_is_announced(server: EmbeddedServer) -> None:
    waiting = asyncio.create_task(use(server.store))
    await asyncio.wait({waiting}, timeout=0.2)
    write_discovery(server.store, discovery_of(server, started=STARTED))
    assert await asyncio.wait_for(waiting, 10) == server.url


async def test_command_gives_up_on_a_store_that_stays_locked(server: EmbeddedServer) -> None:
    with pytest.raises(StoreLockedError, match=f"in use by process {os.getpid()}"):
        async with bus_on(server.store, patience_s=0.2):
            pass
