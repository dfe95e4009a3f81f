"""The configuration of a cluster that is shipped: checked by the server, started three times, and used."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from motet_bus.connect import ConnectOptions, connect
from motet_bus.topology import apply_streams
from motet_schemas import Namespace, NotAllowedError
from tests.bus.servers import free_port, nats_server_binary, until
from tests.cluster.nodes import SETTLE_S, answers, in_step

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "deploy" / "cluster" / "nats.conf"
PASSWORD, ROUTE_PASSWORD = "s3cret-a1", "s3cretb2"


def environment(name: str, ports: list[int], route_password: str = ROUTE_PASSWORD) -> dict[str, str]:
    """What the header of the file asks for."""
    routes = ", ".join(f"nats-route://node:{route_password}@127.0.0.1:{port}" for port in ports)
    return {
        "NATS_NAME": f'"{name}"',
        "NATS_PASSWORD": f'"{PASSWORD}"',
        "NATS_ROUTE_PASSWORD": f'"{ROUTE_PASSWORD}"',
        "NATS_ROUTES": f"[{routes}]",
    }


def here(directory: Path, port: int, route_port: int) -> Path:
    """Write the file with paths and ports of this machine; everything else is as it is deployed."""
    text = CONFIG.read_text()
    for deployed, local in (
        ("/data", json.dumps(str(directory / "store"))),
        ("0.0.0.0:4222", f"127.0.0.1:{port}"),
        ("0.0.0.0:6222", f"127.0.0.1:{route_port}"),
        ("http: 127.0.0.1:8222", "http: 127.0.0.1:-1"),
    ):
        assert deployed in text
        text = text.replace(deployed, local)
    directory.mkdir()
    path = directory / "nats.conf"
    path.write_text(text)
    return path


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[list[str]]:
    """Three nodes; their URLs."""
    ports, route_ports = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    started: list[subprocess.Popen[bytes]] = []
    with (tmp_path / "log").open("wb") as log:
        for number, (port, route_port) in enumerate(zip(ports, route_ports, strict=True)):
            config = here(tmp_path / f"nats-{number}", port, route_port)
            variables = {**os.environ, **environment(f"nats-{number}", route_ports)}
            command = [str(nats_server_binary()), "-c", str(config)]
            started.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True))
    yield [f"nats://motet:{PASSWORD}@127.0.0.1:{port}" for port in ports]
    for process in started:
        process.kill()
        process.wait()


def test_the_server_accepts_the_configuration_and_names_what_is_missing() -> None:
    def check(variables: dict[str, str]) -> tuple[int, str]:
        command = [str(nats_server_binary()), "-t", "-c", str(CONFIG)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=20, check=False)
        return done.returncode, done.stdout + done.stderr

    complete = environment("nats-1", [6222, 6223, 6224])
    assert check(complete)[0] == 0
    for name in complete:
        status, said = check({key: value for key, value in complete.items() if key != name})
        assert status != 0
        assert name in said


async def test_three_nodes_under_the_configuration_keep_three_copies(urls: list[str], namespace: Namespace) -> None:
    link = await connect(ConnectOptions(url=",".join(urls), name="test", connect_timeout_s=20))
    try:
        await until(lambda: answers(link), within_s=SETTLE_S)
        assert await apply_streams(link, namespace, replicas=3) == 3
        await in_step(link, namespace.stream("CONVERSATIONS"))
    finally:
        await link.close()
    with pytest.raises(NotAllowedError):
        await connect(ConnectOptions(url=urls[0].replace(PASSWORD, "wrong"), name="test"))
