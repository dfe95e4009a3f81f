"""The files for containers: checked for form, and every command in them is run here, without containers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from motet_bus.embedded import EmbeddedServer, find_nats_server, start_embedded
from motet_bus.supervisor import ProcessSpec, RestartPolicy, Supervisor

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
AGENTS = [name for name, service in SERVICES.items() if service["image"].startswith("motet:")]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
GIVEN = "s3cret-0e5"


def dockerfile_values(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)


def test_compose_file_conforms_to_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator: Any = Draft202012Validator(schema)
    # YAML merge keys are resolved by the parser; the schema sees what Compose sees.
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"nats": {"imagine": "nats"}}}
    assert not validator.is_valid(broken)


def test_there_is_one_service_for_each_role() -> None:
    assert sorted(AGENTS) == ["executor", "orchestrator", "planner", "verifier"]
    assert {SERVICES[name]["command"][1] for name in AGENTS} == {f"motet_agents.{name}:agent" for name in AGENTS}
    assert SERVICES["executor"]["deploy"]["replicas"] == 2
    assert {json.dumps(SERVICES[name]["build"]) for name in AGENTS} == {'{"context": "."}'}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_hardened_and_published_on_loopback_only(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not service["image"].endswith(":latest")
    assert ":" in service["image"]


@pytest.mark.parametrize("name", AGENTS)
def test_agent_waits_for_a_healthy_bus_and_has_time_to_hand_back_its_work(name: str) -> None:
    service = SERVICES[name]
    assert service["depends_on"] == {"nats": {"condition": "service_healthy"}}
    assert int(service["stop_grace_period"].removesuffix("s")) > 10


def test_no_password_is_written_down_and_a_missing_one_is_an_error() -> None:
    text = (ROOT / "compose.yaml").read_text()
    uses = re.findall(r"\$\{NATS_PASSWORD[^}]*\}", text)
    assert len(uses) == 2
    assert all(use.startswith("${NATS_PASSWORD:?set NATS_PASSWORD") for use in uses)
    assert not re.search(r"(?i)(password|secret|key)\s*[:=]\s*\S", DOCKERFILE)


def test_image_has_a_pinned_base_two_stages_and_a_user_that_is_not_root() -> None:
    bases = dockerfile_values("FROM")
    assert bases == ["python:3.11-slim AS build", "python:3.11-slim"]
    assert dockerfile_values("USER") == ["10001:10001"]
    assert dockerfile_values("ENTRYPOINT") == ['["motet"]']


def test_image_is_built_from_files_that_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = [shlex.split(line)[:-1] for line in dockerfile_values("COPY") if not line.startswith("--from")]
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


@pytest.fixture(scope="module")
def local_nats_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("nats")
    text = (ROOT / "deploy" / "nats.conf").read_text()
    # The image's own paths and ports do not exist here; everything else is as it is deployed.
    for deployed, here in (
        ("/data", str(directory)),
        ("0.0.0.0:4222", "127.0.0.1:-1"),
        ("127.0.0.1:8222", "127.0.0.1:-1"),
    ):
        assert deployed in text
        text = text.replace(deployed, here)
    text += f"\nports_file_dir: {json.dumps(str(directory))}\n"
    path = directory / "nats.conf"
    path.write_text(text)
    return path


def nats_environment() -> dict[str, str]:
    value: str = SERVICES["nats"]["environment"]["NATS_PASSWORD"]
    return {"NATS_PASSWORD": re.sub(r"\$\{NATS_PASSWORD[^}]*\}", GIVEN, value)}


async def test_nats_server_accepts_its_configuration_and_refuses_it_without_a_password() -> None:
    async def check(environment: dict[str, str]) -> tuple[int | None, str]:
        server = await asyncio.create_subprocess_exec(
            *(find_nats_server(), "-t", "-c", ROOT / "deploy" / "nats.conf"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(server.communicate(), 20)
        return server.returncode, output.decode()

    assert (await check(nats_environment()))[0] == 0
    status, output = await check({})
    assert status != 0
    assert "NATS_PASSWORD" in output


async def test_nats_server_of_the_compose_file_is_healthy_and_asks_for_the_password(local_nats_conf: Path) -> None:
    server = await asyncio.create_subprocess_exec(
        *(find_nats_server(), "-c", local_nats_conf),
        env=nats_environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        ports = await ports_of(local_nats_conf.parent, server.pid)
        probe = SERVICES["nats"]["healthcheck"]["test"][-1]
        assert probe.startswith("http://127.0.0.1:8222/")
        health = await exchange(ports["monitoring"], b"GET /healthz HTTP/1.0\r\n\r\n", b'"status":"ok"')
        assert b"200 OK" in health
        for password, answer in ((GIVEN, b"+OK"), ("wrong", b"-ERR 'Authorization Violation'")):
            login = json.dumps({"verbose": True, "user": "motet", "pass": password})
            greeting = await exchange(ports["nats"], f"CONNECT {login}\r\n".encode(), answer)
            assert b'"jetstream":true' in greeting
            assert b'"max_payload":1048576' in greeting
    finally:
        server.terminate()
        await server.wait()


async def ports_of(directory: Path, pid: int) -> dict[str, int]:
    async with asyncio.timeout(10):
        while True:
            try:
                found = json.loads((directory / f"nats-server_{pid}.ports").read_text())
                return {name: int(urls[0].rpartition(":")[2]) for name, urls in found.items()}
            except (FileNotFoundError, json.JSONDecodeError):
                await asyncio.sleep(0.01)


async def exchange(port: int, request: bytes, end: bytes) -> bytes:
    """Everything a server sends until `end`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.readuntil(end)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with await start_embedded(tmp_path) as server:
        yield server


@pytest.mark.parametrize("name", AGENTS)
async def test_service_command_runs_here_as_often_as_it_has_replicas(name: str, server: EmbeddedServer) -> None:
    service = SERVICES[name]
    (entrypoint,) = json.loads(dockerfile_values("ENTRYPOINT")[0])
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(server.store),
        **service["environment"],
        "MOTET_NATS_URL": server.url,
        # Nothing listens there: an agent must start although its collector is down.
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        # All replicas share one address here.
        "MOTET_METRICS_PORT": "0",
        "MOTET_METRICS_HOST": "127.0.0.1",
    }
    argv = [str(Path(sys.executable).with_name(entrypoint)), *service["command"]]
    replicas = service.get("deploy", {}).get("replicas", 1)
    async with Supervisor(policy=RestartPolicy(max_quick_deaths=1)) as supervisor:
        children = await supervisor.start(
            ProcessSpec(name=f"{name}-{number}", argv=argv, env=environment) for number in range(replicas)
        )
        assert [child.role for child in children] == [name] * replicas
        assert len({child.instance for child in children}) == replicas
