"""Keeps child processes running: restarts the dead, gives up on the hopeless, lets the drained go, leaves none behind.

Children end with this process, also when it is killed with SIGKILL (see parent_watch.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import structlog

from motet_bus.child_process import ChildProcess, OutputStream, ProcessSpec, Ready
from motet_bus.forge import Forge
from motet_bus.output_log import OutputLog
from motet_bus.restart_policy import CANNOT_EXECUTE, HOPELESS, Death, RestartHistory, RestartPolicy, describe_status
from motet_schemas.errors import InvalidInputError, MotetError

__all__ = ["Child", "ChildGaveUpError", "ChildState", "ProcessSpec", "RestartPolicy", "Supervisor"]

log = structlog.get_logger(__name__)

ChildState = Literal["starting", "ready", "restarting", "stopped", "given_up", "drained"]
OnOutput = Callable[[str, OutputStream, str], None]


class ChildGaveUpError(MotetError):
    """A child process died too often, or could not be started at all; the message quotes its error output.

    `status` is its last exit status (negative: the signal), None when it hung before it was ready.
    """

    code = "child_gave_up"

    def __init__(self, message: str, *, name: str, status: int | None, stderr_tail: tuple[str, ...]) -> None:
        super().__init__(message)
        self.name = name
        self.status = status
        self.stderr_tail = stderr_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child at one moment. `pid` is None while no process runs; `role` and `instance` are what it last said."""

    name: str
    state: ChildState
    pid: int | None
    role: str | None
    instance: str | None
    restarts: int


@dataclass(slots=True, eq=False)
class _Slot:
    spec: ProcessSpec
    history: RestartHistory
    log: OutputLog | None
    state: ChildState = "starting"
    pid: int | None = None
    ready: Ready | None = None
    restarts: int = 0
    was_ready: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def snapshot(self) -> Child:
        return Child(
            name=self.spec.name,
            state=self.state,
            pid=self.pid,
            role=None if self.ready is None else self.ready.role,
            instance=None if self.ready is None else self.ready.instance,
            restarts=self.restarts,
        )


class Supervisor:
    """Runs children until `stop`. Use it as an async context manager, from a thread that lives as long as it does.

    `log_dir` gets one bounded file `<name>.log` a child, `on_output(name, stream, line)` every line; without either,
    output is read and dropped. `on_change(child)` is told whenever a child's state or pid changes. Both callbacks run
    on the event loop and must neither block nor raise. `ready_timeout_s` is for each start, `stop_timeout_s` is how
    long a child may take to end after SIGTERM before it is killed.
    """

    def __init__(
        self,
        *,
        log_dir: Path | None = None,
        on_output: OnOutput | None = None,
        on_change: Callable[[Child], None] | None = None,
        policy: RestartPolicy | None = None,
        ready_timeout_s: float = 30.0,
        stop_timeout_s: float = 10.0,
        forge: Forge | None = None,
    ) -> None:
        self._log_dir = log_dir
        self._forge = forge
        self._on_output = on_output
        self._on_change = on_change
        self._policy = policy or RestartPolicy()
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._slots: dict[str, _Slot] = {}
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def children(self) -> tuple[Child, ...]:
        """All children as they are now, in the order in which they were started."""
        return tuple(slot.snapshot() for slot in self._slots.values())

    async def start(self, specs: Iterable[ProcessSpec]) -> tuple[Child, ...]:
        """Start the children together and wait until each has printed its ready line; may be called again for more.

        Raises ChildGaveUpError when one cannot be started (the others go on until `stop`), InvalidInputError when a
        name is taken.
        """
        slots = [self._add(spec) for spec in specs]
        waiting: list[asyncio.Future[Any]] = [
            asyncio.gather(*(slot.was_ready.wait() for slot in slots)),
            asyncio.ensure_future(self._failed.wait()),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if self._failure is not None:
            raise self._failure
        return tuple(slot.snapshot() for slot in slots)

    async def wait(self) -> None:
        """Wait until a child has to be given up, and raise that ChildGaveUpError; otherwise wait for ever."""
        await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """End all children together: SIGTERM, and after `stop_timeout_s` SIGKILL. Harmless when called again.

        Cancelling it kills what is still there at once.
        """
        tasks = [slot.task for slot in self._slots.values() if slot.task is not None]
        for task in tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in self._slots.values():
            if slot.log is not None:
                slot.log.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _add(self, spec: ProcessSpec) -> _Slot:
        if spec.name in self._slots:
            raise InvalidInputError(
                f"there is a child process named {spec.name!r} already: give each its own name",
                field="name",
                value=spec.name,
                rule="unique",
            )
        output_log = None if self._log_dir is None else OutputLog(self._log_dir / f"{spec.name}.log")
        slot = _Slot(spec, RestartHistory(self._policy), output_log)
        self._slots[spec.name] = slot
        slot.task = asyncio.create_task(self._keep_running(slot), name=f"supervise-{spec.name}")
        slot.task.add_done_callback(self._ended)
        return slot

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
            self._failure = error
            self._failed.set()

    async def _keep_running(self, slot: _Slot) -> None:
        try:
            while True:
                death, tail = await self._run_once(slot)
                if death.drained:  # an operator wants it gone: whoever wants it back starts it anew
                    self._become(slot, "drained", None)
                    return
                delay_s = slot.history.next_delay_s(death)
                if delay_s is None:
                    self._become(slot, "given_up", None)
                    raise self._gave_up(slot, self._why(slot, death), death.status, tail)
                log.warning(
                    "child.died", child=slot.spec.name, status=describe_status(death.status), restart_in_s=delay_s
                )
                self._become(slot, "restarting", None)
                await asyncio.sleep(delay_s)
                slot.restarts += 1
        except asyncio.CancelledError:
            self._become(slot, "stopped", None)
            raise

    async def _run_once(self, slot: _Slot) -> tuple[Death, tuple[str, ...]]:
        """Start the child and stay with it until it is dead."""
        clock = asyncio.get_running_loop().time
        try:
            process = await ChildProcess.spawn(
                slot.spec, lambda stream, line: self._output(slot, stream, line), self._forge
            )
        except OSError as error:
            return Death(clock(), CANNOT_EXECUTE, None), (f"cannot run {slot.spec.argv[0]}: {error}",)
        ready_at: float | None = None
        try:
            self._become(slot, "starting", process.pid)
            if await self._is_ready(slot, process):
                ready_at = clock()
            status = await process.wait()
        finally:
            await process.end(self._stop_timeout_s)
        ready_for_s = None if ready_at is None else clock() - ready_at
        return Death(clock(), status, ready_for_s, process.draining), tuple(process.stderr_tail)

    async def _is_ready(self, slot: _Slot, process: ChildProcess) -> bool:
        """Wait for the ready line: False when the child died first. A child that hangs is ended."""
        try:
            async with asyncio.timeout(self._ready_timeout_s):
                ready = await asyncio.shield(process.ready)
        except TimeoutError:
            await process.end(0.0)
            # A hang at the very first start is no accident that another try would mend.
            if not slot.was_ready.is_set():
                self._become(slot, "given_up", None)
                raise self._gave_up(
                    slot, f"was not ready within {self._ready_timeout_s:g} s", None, tuple(process.stderr_tail)
                ) from None
            return False
        if ready is None:
            return False
        slot.ready = ready
        self._become(slot, "ready", ready.pid)
        slot.was_ready.set()
        return True

    def _gave_up(self, slot: _Slot, what: str, status: int | None, tail: tuple[str, ...]) -> ChildGaveUpError:
        output = "\n".join(f"  {line}" for line in tail) or "  (nothing)"
        message = f"the process {slot.spec.name} {what}; its error output ends with:\n{output}"
        return ChildGaveUpError(message, name=slot.spec.name, status=status, stderr_tail=tail)

    def _why(self, slot: _Slot, death: Death) -> str:
        if not slot.was_ready.is_set() and death.status in HOPELESS:
            return f"cannot be started ({describe_status(death.status)})"
        policy = self._policy
        return (
            f"died {policy.max_quick_deaths} times within {policy.window_s:g} s and is not restarted any more "
            f"(last: {describe_status(death.status)})"
        )

    def _become(self, slot: _Slot, state: ChildState, pid: int | None) -> None:
        slot.state, slot.pid = state, pid
        log.info(f"child.{state}", child=slot.spec.name, pid=pid, restarts=slot.restarts)
        if self._on_change is not None:
            self._on_change(slot.snapshot())

    def _output(self, slot: _Slot, stream: OutputStream, line: str) -> None:
        if slot.log is not None:
            slot.log.write(line)
        if self._on_output is not None:
            self._on_output(slot.spec.name, stream, line)
