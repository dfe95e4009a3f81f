"""A real Prometheus on loopback that reads the processes of a run every second."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.gateway.command import eventually

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"


def program(name: str) -> str:
    """Return the path of `promtool` or `prometheus`; the test is skipped where neither is installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus)")
    return found


class Prometheus:
    """A running server and what can be asked of it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the instant vector of an expression; `AssertionError` with Prometheus' words when it is none."""
        answer: dict[str, Any] = self._client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def is_ready(self) -> bool:
        """Say whether it answers."""
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, str]) -> Generator[Prometheus]:
    """Read `targets` (the address of each role's metrics) with the deployed rules, until the end of the context."""
    executable = program("prometheus")
    scraped = [
        {"targets": [url.removeprefix("http://").removesuffix("/metrics")], "labels": {"role": role}}
        for role, url in targets.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "motet", "static_configs": scraped}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                executable,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=20) as client:
            server = Prometheus(client)
            eventually(lambda: process.poll() is not None or server.is_ready(), "Prometheus is ready")
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
