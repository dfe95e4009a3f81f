"""What the forge's tests have it run: `main` does what its first argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

IMPORTED_BY = os.getpid()


def main() -> int:
    """Say who this process is, then do as told."""
    words = {"ready": True, "role": "forged", "pid": os.getpid(), "instance": f"of-{os.getppid()}"}
    match sys.argv[1]:
        case "tell":
            told = {"argv": sys.argv, "env": dict(os.environ), "imported_by": IMPORTED_BY, "group": os.getpgid(0)}
            comm = Path("/proc/self/comm")
            told |= {"pid": os.getpid(), "name": comm.read_text().strip() if comm.exists() else ""}
            print(json.dumps({"told": told}), flush=True)  # noqa: T201
            sys.stderr.write("and this\n")
            return 7
        case "exit":
            sys.exit(5)
        case "raise":
            raise ValueError("a bug")
        case "read":
            return len(sys.stdin.readline())
        case _:
            print(json.dumps(words), flush=True)  # noqa: T201
            signal.pause()
            return 0


if __name__ == "__main__":
    sys.exit(main())
