"""`python -m tests.observability.tree TASK`: run a task with tracing on, and print its trace as a tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from tests.observability.jaeger import Tree, drawn, tree_of
from tests.observability.receiver import Receiver, otlp_receiver


def fetched(receiver: Receiver, trace: str) -> Tree:
    """Return the trace as the receiver serves it."""
    return tree_of(httpx.get(f"{receiver.url}/api/traces/{trace}", timeout=10).json())


def main(task: str) -> int:
    """Run the task on a store of its own; the exit status of `motet run`."""
    with otlp_receiver() as receiver, tempfile.TemporaryDirectory() as store:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("motet")), "run", task, "--json", "--quiet", "--store", store],
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url},
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
        if done.stdout:
            trace = json.loads(done.stdout)["trace_id"]
            sys.stdout.write(f"trace {trace}\n{drawn(fetched(receiver, trace))}\n")
        return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
