"""When a dead child process is started again, and when it is given up. Pure: no clock, no process."""

from __future__ import annotations

import random
import signal
from collections import deque
from dataclasses import dataclass, field

CANNOT_EXECUTE = 127
HOPELESS = (2, CANNOT_EXECUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Restart with exponential backoff and jitter; give up after `max_quick_deaths` within `window_s` seconds.

    A death is quick when the child never became ready, or was ready for less than `quick_s` seconds. A ready child
    that was killed with SIGKILL did not die by its own fault (an operator, the kernel out of memory): it is never
    given up for that. A child that ends before it was ever ready with status 2 (bad usage) or 127 (no such command)
    is given up at once: trying again cannot help. Delays are seconds; `jitter` is the part of a delay drawn at random.
    """

    max_quick_deaths: int = 5
    window_s: float = 60.0
    quick_s: float = 5.0
    base_delay_s: float = 0.1
    max_delay_s: float = 5.0
    jitter: float = 0.5


@dataclass(frozen=True, slots=True)
class Death:
    """One end of a child: when (seconds of a monotonic clock), how, and for how long it was ready (None: never).

    `drained` says that an operator had told it to leave.
    """

    at_s: float
    status: int
    ready_for_s: float | None
    drained: bool = False


@dataclass(slots=True)
class RestartHistory:
    """The deaths of one child, and what its policy says about the next start."""

    policy: RestartPolicy
    _quick: deque[float] = field(default_factory=deque[float])
    _streak: int = 0
    _was_ready: bool = False

    def next_delay_s(self, death: Death) -> float | None:
        """Seconds until the next start; None when the child is given up."""
        self._was_ready = self._was_ready or death.ready_for_s is not None
        if not self._was_ready and death.status in HOPELESS:
            return None
        if death.ready_for_s is not None and death.ready_for_s >= self.policy.quick_s:
            self._quick.clear()
            self._streak = 0
        elif death.ready_for_s is None or death.status != -signal.SIGKILL:
            self._quick.append(death.at_s)
        while self._quick and self._quick[0] <= death.at_s - self.policy.window_s:
            self._quick.popleft()
        if len(self._quick) >= self.policy.max_quick_deaths:
            return None
        delay_s = min(self.policy.base_delay_s * 2.0 ** min(self._streak, 32), self.policy.max_delay_s)
        self._streak += 1
        return delay_s * (1 - self.policy.jitter * random.random())  # noqa: S311 - spreads load, keeps no secret


def describe_status(status: int) -> str:
    """An exit status in words: `exit status 1`, or `killed by SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
