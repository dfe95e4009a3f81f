"""Children are real processes: they are killed, they hang, they leave children of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from motet_bus.child_process import ChildProcess, ProcessSpec, Ready, parse_ready
from motet_bus.output_log import OutputLog
from motet_bus.parent_watch import HANDSHAKE
from motet_bus.supervisor import Child, ChildGaveUpError, RestartPolicy, Supervisor
from motet_schemas.errors import InvalidInputError

SAY_READY = """
import json, os, signal, sys, time
def ready(role="worker"):
    line = {"ready": True, "role": role, "pid": os.getpid(), "instance": f"{role}-{os.getpid()}"}
    print(json.dumps(line), flush=True)
"""
WORKER = "ready(); time.sleep(600)"
EAGER = RestartPolicy(base_delay_s=0.01, max_delay_s=0.02)


def python(name: str, code: str) -> ProcessSpec:
    return ProcessSpec(name=name, argv=[sys.executable, "-I", "-S", "-c", SAY_READY + code])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is about other processes
            await asyncio.sleep(0.01)


async def until_restarted(supervisor: Supervisor, times: int) -> None:
    await until(lambda: (supervisor.children[0].restarts, supervisor.children[0].state) == (times, "ready"))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def pid_of(child: Child) -> int:
    assert child.pid is not None
    return child.pid


async def test_started_children_say_who_they_are() -> None:
    async with Supervisor() as supervisor:
        started = await supervisor.start([python("planner", 'ready("planner"); time.sleep(600)'), python("w", WORKER)])
        planner, worker = started
        assert (planner.name, planner.role, planner.state, planner.restarts) == ("planner", "planner", "ready", 0)
        assert worker.instance == f"worker-{worker.pid}"
        assert alive(pid_of(planner))
        assert supervisor.children == started
    assert [child.state for child in supervisor.children] == ["stopped", "stopped"]
    assert not alive(pid_of(planner))


async def test_killed_child_is_started_again() -> None:
    changes: list[Child] = []
    async with Supervisor(policy=EAGER, on_change=changes.append) as supervisor:
        (before,) = await supervisor.start([python("w", WORKER)])
        os.kill(pid_of(before), signal.SIGKILL)
        await until_restarted(supervisor, 1)
        after = supervisor.children[0]
        assert pid_of(after) != before.pid
        assert after.instance != before.instance
    assert [child.state for child in changes] == ["starting", "ready", "restarting", "starting", "ready", "stopped"]


async def test_child_killed_from_outside_again_and_again_is_never_given_up() -> None:
    async with Supervisor(policy=EAGER) as supervisor:
        await supervisor.start([python("w", WORKER)])
        for kill in range(1, EAGER.max_quick_deaths + 3):
            os.kill(pid_of(supervisor.children[0]), signal.SIGKILL)
            await until_restarted(supervisor, kill)


async def test_child_that_always_dies_is_given_up_and_the_error_says_why() -> None:
    async with Supervisor(policy=EAGER) as supervisor:
        with pytest.raises(ChildGaveUpError) as caught:
            await supervisor.start([python("w", 'sys.exit("no such model: gpt-0")')])
        assert supervisor.children[0].state == "given_up"
    error = caught.value
    assert (error.name, error.status, error.stderr_tail) == ("w", 1, ("no such model: gpt-0",))
    assert error.message.startswith(
        "the process w died 5 times within 60 s and is not restarted any more (last: exit status 1)"
    )
    assert "no such model: gpt-0" in error.message


async def test_child_that_starts_to_die_later_is_given_up_too_and_wait_says_so() -> None:
    async with Supervisor(policy=EAGER) as supervisor:
        await supervisor.start([python("steady", WORKER), python("w", "ready(); os.abort()")])
        with pytest.raises(ChildGaveUpError, match="last: killed by SIGABRT"):
            await supervisor.wait()
        assert [child.state for child in supervisor.children] == ["ready", "given_up"]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["/no/such/motet", "agent"], "cannot run /no/such/motet"),
        ([sys.executable, "-c", "import sys; sys.stderr.write('no module named x'); sys.exit(2)"], "no module named x"),
    ],
)
async def test_child_that_cannot_be_started_is_given_up_at_once(argv: list[str], reason: str) -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(ChildGaveUpError, match="the process w cannot be started") as caught:
            await supervisor.start([ProcessSpec(name="w", argv=argv)])
        assert supervisor.children[0].restarts == 0
    assert reason in caught.value.message


async def test_child_that_hangs_before_it_is_ready_is_ended_and_reported() -> None:
    pids: list[int] = []
    async with Supervisor(
        ready_timeout_s=0.3, on_change=lambda child: pids.append(child.pid) if child.pid else None
    ) as supervisor:
        with pytest.raises(ChildGaveUpError, match=r"was not ready within 0.3 s") as caught:
            await supervisor.start([python("w", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")])
    assert caught.value.status is None
    assert not alive(pids[0])


async def test_child_that_hangs_after_a_restart_counts_as_a_death(tmp_path: Path) -> None:
    once = f"p = {str(tmp_path / 'once')!r}\nif os.path.exists(p): time.sleep(600)\nopen(p, 'w').close()\nready()"
    policy = RestartPolicy(base_delay_s=0.01, max_quick_deaths=2)
    async with Supervisor(policy=policy, ready_timeout_s=0.5) as supervisor:
        await supervisor.start([python("w", once)])
        with pytest.raises(ChildGaveUpError, match="died 2 times"):
            await supervisor.wait()


async def test_stop_lets_children_finish_and_kills_the_stubborn_within_its_bound(tmp_path: Path) -> None:
    polite = (
        f"def end(*_): open({str(tmp_path / 'finished')!r}, 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); ready(); time.sleep(600)"
    )
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(600)"
    supervisor = Supervisor(stop_timeout_s=0.5)
    children = await supervisor.start([python("polite", polite), python("stubborn", stubborn)])
    started = time.monotonic()
    await supervisor.stop()
    assert 0.5 <= time.monotonic() - started < 2
    assert (tmp_path / "finished").exists()
    assert not any(alive(pid_of(child)) for child in children)
    await supervisor.stop()


async def test_cancelled_stop_kills_at_once() -> None:
    supervisor = Supervisor(stop_timeout_s=60)
    (child,) = await supervisor.start([python("w", "signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WORKER)])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await supervisor.stop()
    await until(lambda: not alive(pid_of(child)), 2)


async def test_what_a_child_started_goes_with_it(tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    code = f"""
import subprocess
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(note)!r}, "a").write(f"{{grandchild.pid}}\\n")
ready(); time.sleep(600)
"""
    async with Supervisor(policy=EAGER) as supervisor:
        (child,) = await supervisor.start([python("w", code)])
        os.kill(pid_of(child), signal.SIGKILL)
        await until_restarted(supervisor, 1)
        first, second = (int(line) for line in note.read_text().split())
        await until(lambda: not alive(first), 2)
        assert alive(second)
    await until(lambda: not alive(second), 2)


async def test_children_have_their_own_session_so_that_ctrl_c_does_not_reach_them() -> None:
    async with Supervisor() as supervisor:
        (child,) = await supervisor.start([python("w", WORKER)])
        assert os.getsid(pid_of(child)) == child.pid != os.getsid(0)


async def test_output_goes_to_the_log_file_and_to_the_callback(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    def remember(name: str, stream: str, line: str) -> None:
        seen.append((name, stream, line))

    code = """
ready()
print("plain"); sys.stdout.flush()
sys.stderr.buffer.write(b"bad \\xff bytes\\n" + b"x" * 200_000 + b"\\nlast words"); sys.stderr.flush()
"""
    policy = RestartPolicy(max_quick_deaths=1)
    async with Supervisor(policy=policy, log_dir=tmp_path, on_output=remember) as supervisor:
        await supervisor.start([python("w", code)])
        with pytest.raises(ChildGaveUpError, match="last words"):
            await supervisor.wait()
    assert ("w", "stdout", "plain") in seen
    assert ("w", "stderr", "bad \N{REPLACEMENT CHARACTER} bytes") in seen
    assert sum(len(line) for _, _, line in seen if set(line) == {"x"}) == 200_000
    log = tmp_path / "w.log"
    assert log.read_text().endswith("last words\n")
    assert "ready" not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


async def test_a_callback_that_raises_ends_the_child_and_is_reported() -> None:
    def broken(*_: str) -> None:
        raise RuntimeError("callback")

    async with Supervisor(on_output=broken) as supervisor:
        (child,) = await supervisor.start(
            [python("w", "ready(); time.sleep(0.1); print('x', flush=True); time.sleep(600)")]
        )
        with pytest.raises(RuntimeError, match="callback"):
            await supervisor.wait()
    assert not alive(pid_of(child))


async def test_names_are_unique() -> None:
    async with Supervisor() as supervisor:
        await supervisor.start([python("w", WORKER)])
        with pytest.raises(InvalidInputError, match="named 'w' already"):
            await supervisor.start([python("w", WORKER)])


async def test_nothing_is_left_open() -> None:
    async def once() -> None:
        async with Supervisor(policy=EAGER) as supervisor:
            await supervisor.start([python(f"w{number}", WORKER) for number in range(3)])
            os.kill(pid_of(supervisor.children[0]), signal.SIGKILL)
            await until_restarted(supervisor, 1)

    await once()
    before = open_files()
    await once()
    assert open_files() == before
    assert len(asyncio.all_tasks()) == 1


async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import asyncio, json, sys
from motet_bus.supervisor import ProcessSpec, Supervisor
async def main():
    async with Supervisor() as supervisor:
        spec = lambda name: ProcessSpec(name=name, argv=[sys.executable, "-I", "-S", "-c", {SAY_READY + WORKER!r}])
        children = await supervisor.start([spec("a"), spec("b")])
        print(json.dumps([child.pid for child in children]), flush=True)
        await supervisor.wait()
asyncio.run(main())
"""
    supervising = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert supervising.stdout is not None
    pids: list[int] = []
    while not pids:
        line = await asyncio.wait_for(supervising.stdout.readline(), 20)
        pids = json.loads(line) if line.startswith(b"[") and b"child" not in line else []
    assert all(alive(pid) for pid in pids)
    supervising.kill()
    await supervising.wait()
    await until(lambda: not any(alive(pid) for pid in pids), 5)


WATCHER = """
import sys, threading
from motet_bus.parent_watch import watch_parent
ended = threading.Event()
watch_parent(ended.set, grace_s={grace})
print("watching", flush=True)
if {stubborn}:
    threading.Event().wait(600)
print("ended" if ended.wait({patience}) else "still watching", flush=True)
"""


def watcher(*, grace: float = 30, stubborn: bool = False, patience: float = 30, stdin: int) -> subprocess.Popen[str]:
    code = WATCHER.format(grace=grace, stubborn=stubborn, patience=patience)
    return subprocess.Popen([sys.executable, "-c", code], stdin=stdin, stdout=subprocess.PIPE, text=True)


def test_child_sees_the_end_of_its_supervisor_on_standard_input() -> None:
    with watcher(stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(HANDSHAKE.decode())
        child.stdin.flush()
        assert child.stdout.readline() == "watching\n"
        child.stdin.close()
        assert child.stdout.readline() == "ended\n"
        assert child.wait(10) == 0


def test_child_that_does_not_stop_after_the_end_of_its_supervisor_is_ended() -> None:
    with watcher(stdin=subprocess.PIPE, grace=0.1, stubborn=True) as child:
        assert child.stdin is not None
        child.stdin.write(HANDSHAKE.decode())
        child.stdin.close()
        assert child.wait(10) == 70


@pytest.mark.parametrize("stdin", [subprocess.PIPE, subprocess.DEVNULL], ids=["other-pipe", "null"])
def test_process_that_nobody_supervises_does_not_end_with_its_standard_input(stdin: int) -> None:
    with watcher(stdin=stdin, patience=0.3) as child:
        output, _ = child.communicate("something else\n" if stdin == subprocess.PIPE else None, timeout=20)
    assert output == "watching\nstill watching\n"


def test_process_with_closed_standard_input_is_not_watched() -> None:
    code = "import os; os.close(0)\n" + WATCHER.format(grace=1, stubborn=False, patience=0)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "watching\nstill watching\n"


def test_tether_does_not_start_what_has_lost_its_parent_already(tmp_path: Path) -> None:
    import motet_bus.parent_watch as module

    touch = [sys.executable, "-I", "-S", str(module.__file__), "1", "touch", str(tmp_path / "x")]
    assert subprocess.run(touch, timeout=20, check=False).returncode == 70
    assert not (tmp_path / "x").exists()


async def test_spawned_process_can_be_ended_twice() -> None:
    process = await ChildProcess.spawn(python("w", WORKER), print)
    assert await process.ready == Ready("worker", process.pid, f"worker-{process.pid}")
    await process.end(5)
    await process.end(5)
    assert await process.wait() == -signal.SIGTERM


@pytest.mark.parametrize(
    "line",
    ["", "ready", "{", "[]", "{}", '{"ready": true}', '{"ready": 1, "role": "r", "pid": 1, "instance": "i"}',
     '{"ready": true, "role": "r", "pid": "1", "instance": "i"}'],
)  # fmt: skip
def test_other_lines_are_not_the_ready_line(line: str) -> None:
    assert parse_ready(line) is None


def test_output_log_is_bounded_and_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    with OutputLog(path, max_bytes=100) as log:
        for number in range(30):
            log.write(f"line {number:04}")
    with OutputLog(path, max_bytes=100) as log:
        log.write("the last")
    kept = (tmp_path / "w.log.1").read_text() + path.read_text()
    assert kept.endswith("line 0029\nthe last\n")
    assert path.stat().st_size <= 100
    assert sorted(file.name for file in tmp_path.iterdir()) == ["w.log", "w.log.1"]


def test_output_log_that_cannot_be_written_does_not_stop_the_child(tmp_path: Path) -> None:
    with OutputLog(tmp_path / "missing" / "w.log") as log:
        log.write("lost")
        log.write("lost too")
    assert list(tmp_path.iterdir()) == []
