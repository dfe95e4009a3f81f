"""What does tracing cost: processor time for each conversation, with and without spans.

`python -m benchmarks.tracing` runs all agents in one process on a server of its own, each way in turn: without an SDK,
sampled out, exported, and exported with a spool. It prints one JSON object: milliseconds of processor time, and the
ratios within each round.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracer, Tracer

from motet_agents import executor, orchestrator, planner, verifier
from motet_bus import Agent, Client, ConnectOptions, open_client, run_agent, tracing
from motet_bus.answers import Message
from motet_bus.embedded import start_embedded
from motet_gateway.taskfile import load_task
from motet_observability.tracing import TraceExport, provider_for

CONVERSATIONS: Final = 40
ROUNDS: Final = 5
EXAMPLE: Final = Path(__file__).parents[1] / "examples" / "content-qa" / "flawed" / "task.yaml"


class Sink(BaseHTTPRequestHandler):
    """Takes what is exported and forgets it."""

    def do_POST(self) -> None:
        """Answer one export."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Keep standard error quiet."""


def serve_sink(answer: Connection) -> None:
    """Listen in a process of its own, whose time is not counted."""
    server = HTTPServer(("127.0.0.1", 0), Sink)
    answer.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def sink() -> Generator[str]:
    """The address of a collector."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_sink, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1/traces"
    finally:
        process.terminate()
        process.join()


@asynccontextmanager
async def all_agents(url: str) -> AsyncGenerator[None]:
    """Run every role in this process."""
    stop = asyncio.Event()
    agents: list[Agent] = [orchestrator.agent, planner.agent, executor.agent, verifier.agent]
    ready = [asyncio.Event() for _ in agents]
    running = [
        asyncio.create_task(
            run_agent(agent, ConnectOptions(url=url), stop=stop, on_ready=lambda _, event=event: event.set())
        )
        for agent, event in zip(agents, ready, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in ready))
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*running)


async def cost_ms(client: Client, tracer: Tracer, provider: TracerProvider | None) -> float:
    """Return the processor time of one conversation, exports included, in milliseconds."""
    done = asyncio.Semaphore(0)

    async def ended(_: Message) -> None:
        done.release()

    task = load_task(EXAMPLE).task
    subscription = await client.link.subscribe("task.completed.*.*", ended)
    with patch.object(tracing, "_TRACER", tracer):
        began = time.process_time()
        await asyncio.gather(*(client.submit(task, secrets.token_hex(8)) for _ in range(CONVERSATIONS)))
        for _ in range(CONVERSATIONS):
            async with asyncio.timeout(60):
                await done.acquire()
        await asyncio.sleep(0.2)
        if provider is not None:
            await asyncio.to_thread(provider.force_flush)
        spent = time.process_time() - began
    await subscription.unsubscribe()
    return spent * 1_000 / CONVERSATIONS


async def measure() -> dict[str, Any]:
    """Measure the ways in turn; medians of the rounds, and of the ratios within each round."""
    with sink() as collector, tempfile.TemporaryDirectory() as directory:
        exported, _ = provider_for("motet-bench", TraceExport(endpoint=collector))
        dropped, _ = provider_for("motet-bench", TraceExport(endpoint=collector, ratio=0.0))
        kept, ending = provider_for("motet-bench", TraceExport(endpoint=collector, spool=Path(directory) / "spans"))
        ways: dict[str, tuple[Tracer, TracerProvider | None]] = {
            "off": (NoOpTracer(), None),
            "sampled_out": (dropped.get_tracer("motet"), dropped),
            "exported": (exported.get_tracer("motet"), exported),
            "spooled": (kept.get_tracer("motet"), kept),
        }
        costs: dict[str, list[float]] = {name: [] for name in ways}
        async with (
            await start_embedded(Path(directory) / "store") as server,
            all_agents(server.url),
            open_client(ConnectOptions(url=server.url)) as client,
        ):
            await cost_ms(client, NoOpTracer(), None)
            for _ in range(ROUNDS):
                for name, (tracer, provider) in ways.items():
                    costs[name].append(await cost_ms(client, tracer, provider))
        ending.finish()
    return {
        "cpu_ms_per_conversation": {name: round(statistics.median(found), 2) for name, found in costs.items()},
        "ratio_to_off": {
            name: round(statistics.median(a / b for a, b in zip(costs[name], costs["off"], strict=True)), 3)
            for name in costs
            if name != "off"
        },
        "settings": {"conversations": CONVERSATIONS, "rounds": ROUNDS, "task": EXAMPLE.parent.name},
    }


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    sys.stdout.write(json.dumps(asyncio.run(measure())) + "\n")
