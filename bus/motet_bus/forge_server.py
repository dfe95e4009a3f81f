"""The process that agents are forked from: `python -m motet_bus.forge_server SOCKET MODULE…`. See `motet_bus.forge`.

It imports the modules once, starts no thread and opens no connection, so that its forks are processes like any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

ORDER: Final = b"f"
_FILES: Final = 4
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_STILL_THERE: Final = 70
_FAILED: Final = 1
_HIGHEST_FILE: Final = 1024


def main() -> int:
    """Serve until the supervisor closes the socket; the children then end by the kernel or by their standard input."""
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, _notice)
        for module in sys.argv[2:]:
            importlib.import_module(module)
        gc.freeze()
        _serve(orders, wake_read)
    return 0


def _notice(_number: int, _frame: object) -> None:
    """Let a child's end interrupt `select`: the wake-up file descriptor says the rest."""


def _serve(orders: socket.socket, wake: int) -> None:
    while True:
        ready, _, _ = select.select([orders.fileno(), wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _report_dead(orders)
        if orders.fileno() in ready:
            order, files, _, _ = socket.recv_fds(orders, len(ORDER), _FILES)
            if order != ORDER or len(files) != _FILES:
                return
            _fork(orders, files)


def _fork(orders: socket.socket, files: list[int]) -> None:
    with os.fdopen(files[0], "rb") as file:
        order = cast("dict[str, Any]", json.load(file))
    for module in order["imports"]:
        with contextlib.suppress(Exception):  # the child imports it again, and says what is wrong
            importlib.import_module(module)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(order, files[1:], parent)
    for descriptor in files[1:]:
        os.close(descriptor)
    _say(orders, {"started": pid})


def _report_dead(orders: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(orders, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _say(orders: socket.socket, words: Mapping[str, int]) -> None:
    orders.sendall(json.dumps(words).encode() + b"\n")


def _become(order: Mapping[str, Any], files: list[int], parent: int) -> NoReturn:
    """Turn this fork into the process that was ordered."""
    status = _FAILED
    try:
        os.setsid()
        _end_with(parent, order["name"])
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target, descriptor in enumerate(files):
            os.dup2(descriptor, target)
        os.closerange(3, _HIGHEST_FILE)
        os.environ.clear()
        os.environ.update(order["env"])
        sys.argv = [order["module"], *order["arguments"]]
        status = importlib.import_module(order["module"]).main()
        sys.stdout.flush()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else _FAILED
    except BaseException:  # noqa: BLE001 - a process ends here, and its standard error says why
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _end_with(parent: int, name: str) -> None:
    """Have the kernel kill this process when the forge dies, as `parent_watch.tethered` does, and show its name."""
    if sys.platform != "linux":
        return
    kernel = ctypes.CDLL(None)
    kernel.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    kernel.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(_STILL_THERE)


if __name__ == "__main__":
    sys.exit(main())
