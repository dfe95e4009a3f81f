"""What do metrics cost: processor time for each conversation, with and without a reader, for a call and for a reading.

`python -m benchmarks.metrics` runs all agents in one process on a server of its own, with and without in turn, each in
a process of its own, and prints one JSON object: milliseconds a conversation, microseconds a call, milliseconds a read.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
import structlog
from benchmarks.tracing import EXAMPLE, all_agents

from motet_bus import Client, ConnectOptions, metrics, open_client
from motet_bus.answers import Message
from motet_bus.embedded import start_embedded
from motet_gateway.taskfile import load_task
from motet_observability import Metrics, set_up_metrics

CONVERSATIONS: Final = 40
ROUNDS: Final = 3
CALLS: Final = 100_000


async def converse(client: Client) -> float:
    """Return the processor time of one conversation in milliseconds."""
    done = asyncio.Semaphore(0)

    async def ended(_: Message) -> None:
        done.release()

    task = load_task(EXAMPLE).task
    subscription = await client.link.subscribe("task.completed.*.*", ended)
    began = time.process_time()
    await asyncio.gather(*(client.submit(task, secrets.token_hex(8)) for _ in range(CONVERSATIONS)))
    for _ in range(CONVERSATIONS):
        async with asyncio.timeout(60):
            await done.acquire()
    spent = time.process_time() - began
    await subscription.unsubscribe()
    return spent * 1_000 / CONVERSATIONS


def call_us() -> float:
    """Return the processor time of timing and counting one handled message, in microseconds."""
    began = time.process_time()
    for _ in range(CALLS):
        with metrics.processing("step.ready", "step-bench"):
            pass
    return (time.process_time() - began) * 1e6 / CALLS


async def measure_here(shown: Metrics) -> dict[str, float]:
    """Measure in this process, which has a reader or has none."""
    found = {"call_us": call_us()}
    with tempfile.TemporaryDirectory() as directory:
        async with (
            await start_embedded(Path(directory) / "store") as server,
            all_agents(server.url),
            open_client(ConnectOptions(url=server.url)) as client,
        ):
            await converse(client)
            found["conversation_ms"] = await converse(client)
            if shown.url is not None:
                async with httpx.AsyncClient(timeout=10) as reader:
                    await reader.get(shown.url)
                    began = time.process_time()
                    for _ in range(20):
                        await reader.get(shown.url)
                    found["read_ms"] = (time.process_time() - began) * 1_000 / 20
    return found


def measure_apart(way: str) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.metrics", way]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure() -> dict[str, Any]:
    """Measure both ways in turn; medians of the rounds, and of the differences within each round."""
    rounds = [(measure_apart("off"), measure_apart("on")) for _ in range(ROUNDS)]

    def middle(values: list[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        "cpu_ms_per_conversation": {
            "off": middle([off["conversation_ms"] for off, _ in rounds]),
            "on": middle([on["conversation_ms"] for _, on in rounds]),
        },
        "ratio": middle([on["conversation_ms"] / off["conversation_ms"] for off, on in rounds]),
        "us_per_handled_message": {
            "off": middle([off["call_us"] for off, _ in rounds]),
            "on": middle([on["call_us"] for _, on in rounds]),
        },
        "cpu_ms_per_reading_of_all_agents": middle([on["read_ms"] for _, on in rounds]),
        "settings": {"conversations": CONVERSATIONS, "rounds": ROUNDS, "task": EXAMPLE.parent.name},
    }


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if len(sys.argv) > 1:
        setup = set_up_metrics("motet-bench", port=0) if sys.argv[1] == "on" else set_up_metrics("motet-bench")
        print(json.dumps(asyncio.run(measure_here(setup))))  # noqa: T201 - the result
        setup.finish()
    else:
        print(json.dumps(measure(), indent=2))  # noqa: T201 - the result
