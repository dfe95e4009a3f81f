"""One process at a time on a store: an advisory lock that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from motet_schemas.errors import BusUnavailableError


class StoreLockedError(BusUnavailableError):
    """Another process uses the store. `pid` is that process, or None when it has not said so yet."""

    code = "store_locked"

    def __init__(self, message: str, *, pid: int | None) -> None:
        super().__init__(message, retry_after_s=1.0)
        self.pid = pid


@dataclass(slots=True)
class StoreLock:
    """An exclusive lock on a file that names its holder. It is never inherited by child processes."""

    path: Path
    _descriptor: int | None

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Take the lock or raise StoreLockedError at once."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except BlockingIOError:
            os.close(descriptor)
            raise _locked(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock back; harmless when that was done already."""
        if self._descriptor is not None:
            # The file stays: removing it would let two processes lock two files of the same name.
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _locked(path: Path) -> StoreLockedError:
    try:
        holder = json.loads(path.read_bytes())
        pid, since = int(holder["pid"]), str(holder["since"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        who, pid = "another process", None
    else:
        who = f"process {pid} (since {since})"
    return StoreLockedError(
        f"the store {path.parent.parent} is in use by {who}: wait until it ends or stop it, "
        "or name another store with --store",
        pid=pid,
    )
