"""What a process id stands for right now: ids are used again, so an id in a file proves nothing alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

_PS_TIMEOUT_S = 5.0


async def command_line(pid: int, *, proc: Path = Path("/proc")) -> str:
    """The command line of a live process, its arguments separated by spaces; empty when there is none.

    Zombies count as dead. Reads `proc` where the system has it, and asks `ps` elsewhere (macOS).
    """
    if (found := _from_proc(proc, pid)) is not None:
        return found
    ps = await asyncio.create_subprocess_exec(
        *("ps", "-ww", "-o", "command=", "-p", str(pid)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(_PS_TIMEOUT_S):
        output, _ = await ps.communicate()
    return output.decode(errors="replace").strip()


def _from_proc(proc: Path, pid: int) -> str | None:
    if not (proc / "self").exists():
        return None
    try:
        arguments = (proc / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
