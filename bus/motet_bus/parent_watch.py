"""How a process ends with its parent, even when the parent is killed with SIGKILL.

On Linux the kernel does it (`tethered`); everywhere, a child that a `Supervisor` started also sees its standard
input end (`watch_parent`). This file is run as a script too, without site-packages: standard library only.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence

HANDSHAKE = b"motet-supervised\n"
_STDIN = 0
_PR_SET_PDEATHSIG = 1
_LINUX_SIGKILL = 9
_CANNOT_EXECUTE = 127
_STILL_THERE = 70


def tethered(argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` so that the kernel kills it (SIGKILL) when the calling thread ends; Linux only.

    Elsewhere it is `argv` itself. The process id is kept (exec), so the id of what is started is that of `argv`.
    A `preexec_fn` would do the same, but it runs Python between fork and exec, which can deadlock in a process with
    threads. The tether is to the *thread* that starts the command: start it from one that lives as long as needed.
    """
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", os.path.realpath(__file__), str(os.getpid()), *argv]


def watch_parent(stop: Callable[[], None], *, grace_s: float = 15.0) -> None:
    """Call `stop` once, from another thread, when the supervisor that started this process is gone.

    Does nothing in a process that no `Supervisor` started: standard input is watched only if it is a pipe whose first
    line is the supervisor's handshake. A process that is still there `grace_s` seconds after `stop` exits at once with
    status 70, so that nothing is left behind.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(_STDIN).st_mode):
            return
    except OSError:  # standard input is closed: nobody watches over this process
        return
    import threading

    threading.Thread(target=_watch, args=(stop, grace_s), name="motet-parent-watch", daemon=True).start()


def _watch(stop: Callable[[], None], grace_s: float) -> None:
    import time

    received = b""
    while chunk := os.read(_STDIN, 4096):
        received = (received + chunk)[: len(HANDSHAKE)]
    if received != HANDSHAKE:
        return
    try:
        stop()
    finally:
        time.sleep(grace_s)
        os._exit(_STILL_THERE)


def _exec_tethered(parent: int, argv: list[str]) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, _LINUX_SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the line above; then no signal will ever come.
    if os.getppid() != parent:
        os._exit(_STILL_THERE)
    os.execvp(argv[0], argv)  # noqa: S606 - the command comes from the process that started this one


if __name__ == "__main__":
    try:
        _exec_tethered(int(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        sys.stderr.write(f"cannot run {sys.argv[2]}: {error}\n")
        sys.exit(_CANNOT_EXECUTE)
