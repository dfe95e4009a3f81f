"""Runs a function in a process of its own, with little memory, and says how much it took."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
MOST_MIB: Final = 300
"""What a process may take at its peak, its modules included."""
_ADDRESS_SPACE: Final = 2 << 30


@dataclass(frozen=True)
class Measured:
    """What the function returned, and the peak of the process's memory in MiB."""

    result: Any
    peak_mib: int


def in_a_child(target: str, *arguments: str | Path, within_s: float = 60.0) -> Measured:
    """Call `module:function` with text arguments in a fresh process; its result must be JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.doors.measured", target, *map(str, arguments)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("MOTET_", "OTEL_", "COV"))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return Measured(said["result"], said["peak_mib"])


def main() -> None:
    """Be the fresh process."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(*sys.argv[2:])
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps({"result": result, "peak_mib": peak_mib}) + "\n")


if __name__ == "__main__":
    main()
