"""How much memory processes hold, over time, and whether it stays flat."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

SERVER: Final = "nats-server"
"""What is restarted on the same store, and so goes on where it was."""
_PS_TIMEOUT_S: Final = 5.0
_MIB: Final = 1024 * 1024
_PARTS: Final = 10
_ROOM: Final = 1.15
_ROOM_MIB: Final = 8.0


@dataclass(slots=True)
class Samples:
    """What one process held: (seconds since the run began, MiB resident), as long as it lived."""

    name: str
    pid: int
    points: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])


class MemoryLog:
    """Samples processes by name; a process that was started again under its name begins anew."""

    def __init__(self) -> None:
        self._samples: dict[str, Samples] = {}

    async def sample(self, at_s: float, processes: dict[str, int]) -> None:
        """Note what each process holds now."""
        for name, pid in processes.items():
            held = await resident_mib(pid)
            if held is None:
                continue
            known = self._samples.get(name)
            if known is None or (known.pid != pid and name != SERVER):
                known = self._samples[name] = Samples(name, pid)
            known.points.append((at_s, held))

    def report(self, warm_after_s: float) -> list[dict[str, Any]]:
        """Return what each process held at the start, in the middle and at the end of its life, once it was warm.

        `flat` compares the last tenth with the first after `warm_after_s`: at most 15 % or 8 MiB more. It is None for a
        process that did not live for all of that time, and for the server, which holds more the more it stores.
        """
        return [_summary(samples, warm_after_s) for _, samples in sorted(self._samples.items())]


def _summary(samples: Samples, warm_after_s: float) -> dict[str, Any]:
    points = samples.points
    warm = [held for at_s, held in points if at_s >= warm_after_s]
    part = max(1, len(warm) // _PARTS)
    first, last = (median(warm[:part]), median(warm[-part:])) if warm else (0.0, 0.0)
    judged = points[0][0] <= warm_after_s and len(warm) >= _PARTS and samples.name != SERVER
    return {
        "name": samples.name,
        "pid": samples.pid,
        "since_s": round(points[0][0], 1),
        "start_mib": round(points[0][1], 1),
        "warm_mib": round(first, 1) if warm else None,
        "middle_mib": round(points[len(points) // 2][1], 1),
        "end_mib": round(last if warm else points[-1][1], 1),
        "flat": last <= max(first * _ROOM, first + _ROOM_MIB) if judged else None,
    }


async def resident_mib(pid: int, *, proc: Path = Path("/proc")) -> float | None:
    """Return the resident memory of a process in MiB; None when there is no such process."""
    if (proc / "self").exists():
        try:
            status = (proc / str(pid) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        held = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), None)
        return None if held is None else int(held) * 1024 / _MIB
    ps = await asyncio.create_subprocess_exec(
        *("ps", "-o", "rss=", "-p", str(pid)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(_PS_TIMEOUT_S):
        output, _ = await ps.communicate()
    return int(output) * 1024 / _MIB if output.strip() else None
