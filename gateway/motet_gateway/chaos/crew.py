"""What a chaos run is done to: a server of its own, a proxy before it, and several processes of every role."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit, urlunsplit

from motet_bus.embedded import EmbeddedServer, start_embedded
from motet_bus.forge import Forge
from motet_bus.restart_policy import RestartPolicy
from motet_bus.supervisor import Child, ProcessSpec, Supervisor
from motet_gateway.chaos.proxy import FaultyProxy
from motet_gateway.config import Settings

PLAYBOOKS: Final = Path(__file__).parent / "playbooks"
MEMBERS: Final = {"orchestrator": 2, "planner": 2, "executor": 3, "verifier": 2, "watcher": 2, "desk": 2}
_TARGETS: Final = {
    "orchestrator": "motet_agents.orchestrator:agent",
    "planner": "motet_agents.planner:agent",
    "executor": "motet_gateway.chaos.agents:worker",
    "verifier": "motet_agents.verifier:agent",
    "watcher": "motet_gateway.chaos.agents:watcher",
}
_PATIENT: Final = RestartPolicy(max_quick_deaths=1_000, max_delay_s=1.0)


class Watch:
    """Keeps count of what the processes say, and of how long a killed one takes to be ready again."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.restarts_s: list[float] = []
        self._since: dict[str, float] = {}

    def on_output(self, name: str, stream: str, line: str) -> None:
        """Count one log line by its event."""
        try:
            words = json.loads(line)
        except ValueError:
            words = None
        event = cast("dict[str, object]", words).get("event") if isinstance(words, dict) else None
        if isinstance(event, str):
            self.said[event] += 1
        elif stream == "stderr":
            self.said["(no log line)"] += 1

    def on_change(self, child: Child) -> None:
        """Note when a child died, and when it was ready again."""
        if child.state == "restarting":
            self._since.setdefault(child.name, time.monotonic())
        elif child.state == "ready" and (since := self._since.pop(child.name, None)) is not None:
            self.restarts_s.append(time.monotonic() - since)


class Crew:
    """The running system. `proxied` is its address through the proxy, `direct` without."""

    def __init__(self, server: EmbeddedServer, proxy: FaultyProxy, supervisor: Supervisor, watch: Watch) -> None:
        self.server = server
        self.proxy = proxy
        self.supervisor = supervisor
        self.watch = watch
        self.direct = server.url
        self.proxied = _with_port(server.url, proxy.port)

    def processes(self, role: str | None = None) -> list[Child]:
        """Return the processes that are ready, of one role or of all."""
        return [
            child
            for child in self.supervisor.children
            if child.state == "ready" and (role is None or child.name.rpartition("-")[0] == role)
        ]


@asynccontextmanager
async def running_crew(settings: Settings, store: Path) -> AsyncGenerator[Crew]:
    """Start everything on `store` and stop it at the end. Raises what starting a server or a child raises."""
    watch = Watch()
    logs = store / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    forge = Forge(["motet_gateway.agent_imports"])
    async with (
        await start_embedded(store) as server,
        FaultyProxy(server.port) as proxy,
    ):
        await forge.start()
        try:
            supervisor = Supervisor(
                log_dir=logs, on_output=watch.on_output, on_change=watch.on_change, policy=_PATIENT, forge=forge
            )
            async with supervisor:
                crew = Crew(server, proxy, supervisor, watch)
                await supervisor.start(_specs(settings, crew.proxied))
                yield crew
        finally:
            await forge.close()


def _specs(settings: Settings, url: str) -> list[ProcessSpec]:
    environment = settings.environment(url, os.environ)
    specs: list[ProcessSpec] = []
    for role, number in MEMBERS.items():
        target = _TARGETS.get(role)
        module = "motet_gateway.chaos.desk_process" if target is None else "motet_gateway.agent_process"
        argv = [sys.executable, "-P", "-m", module, *([target] if target else [])]
        imports = [target.partition(":")[0]] if target else [module]
        specs += [
            ProcessSpec(name=f"{role}-{count}", argv=argv, env=environment, imports=imports)
            for count in range(1, number + 1)
        ]
    return specs


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))
