"""Secrets planted everywhere they may be: no file, no stream, no line and no trace of a run has them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from motet_bus.connect import ConnectOptions, connect
from motet_bus.dead_letters import failure_of
from motet_schemas import MotetError, NotAllowedError
from tests.bus.servers import NatsServer
from tests.observability.receiver import Receiver, otlp_receiver

pytestmark = pytest.mark.slow

PASSWORD: Final = "pw-8c1f-kept-to-itself"  # noqa: S105 - planted, to be looked for
TOKEN: Final = "tk-77aa-kept-to-itself"  # noqa: S105
KEYS: Final = {
    "ANTHROPIC_API_KEY": "sk-ant-kept-to-itself-0001",
    "OPENAI_API_KEY": "sk-kept-to-itself-00000002",
    "SOMEBODY_API_KEY": "key-kept-to-itself-3",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20otlp-kept-to-itself-4",
}
PLANTED: Final = (PASSWORD, TOKEN, "kept-to-itself")


def _run(tmp_path: Path, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `motet` to its end; also return every command line that was seen meanwhile with a secret in it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MOTET_", "OTEL_"))}
    settings = {"MOTET_STORE": str(tmp_path / "store"), "MOTET_LOG_LEVEL": "debug", **KEYS, **environment}
    seen: list[str] = []
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "motet_gateway.cli", *arguments],
            cwd=tmp_path,
            env={**inherited, **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            seen += _command_lines_with_secrets()
            time.sleep(0.5)
        process.kill()
        process.wait(10)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, process.returncode, out.read(), err.read()), seen


def _command_lines_with_secrets() -> list[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if any(secret in line for secret in PLANTED) and "pytest" not in line:
            found.append(line)
    return found


async def _streams(url: str) -> str:
    """Return all that a server has stored: subjects, headers and bodies of all its streams."""
    link = await connect(ConnectOptions(url=url))
    try:
        names = (await link.api("STREAM.NAMES", {}))["streams"]
        stored = [message for name in names for message in await link.read_batch(name, ">")]
    finally:
        await link.close()
    assert {"CONVERSATIONS", "DEAD_LETTERS", "TIMERS"} <= set(names)
    assert any(message.subject.startswith("dead.") for message in stored)
    return "\n".join(f"{one.subject} {dict(one.headers)} {one.body.decode(errors='replace')}" for one in stored)


def _files(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def _exported(receiver: Receiver) -> str:
    """Return what was exported; the headers of the exports carry the collector's key, as they must."""
    assert receiver.spans
    return repr([receiver.spans, receiver.metrics])


def _look(places: dict[str, str]) -> None:
    for place, text in places.items():
        found = [text[max(0, text.find(one) - 80) : text.find(one) + 40] for one in PLANTED if one in text]
        assert found == [], place


@pytest.mark.timeout(150)
@pytest.mark.parametrize("credentials", ["password", pytest.param("token", marks=pytest.mark.chaos)])
def test_a_whole_run_leaves_no_secret_anywhere(tmp_path: Path, credentials: str) -> None:
    by_token = credentials == "token"
    config = f'authorization {{ token: "{TOKEN}" }}' if by_token else (
        f'authorization {{ user: motet, password: "{PASSWORD}" }}'
    )  # fmt: skip
    server = NatsServer(tmp_path / "server", config=config, user_info=TOKEN if by_token else f"motet:{PASSWORD}")
    task = json.loads(json.dumps({"kind": "content-qa", "id": "secretive", "input": {"text": "Terms aply."}}))
    task["checklist"] = {"compliance": {"required": ["Terms apply"]}, "tone": {}}
    (tmp_path / "task.json").write_text(json.dumps(task))
    with server, otlp_receiver() as receiver:
        url = f"nats://{server.address}" if by_token else server.url
        environment = {"MOTET_NATS_URL": url, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        if by_token:
            environment["MOTET_NATS_TOKEN"] = TOKEN
        asyncio.run(_rubbish(server.url))
        done, command_lines = _run(tmp_path, "run", "task.json", "--json", **environment)
        assert done.returncode == 3, done.stderr
        shown, _ = _run(tmp_path, "show", "secretive", "--json", **environment)
        stored = asyncio.run(_streams(server.url))
        exported = _exported(receiver)
    logs = _files(tmp_path / "store")
    assert '"consumer.started"' in logs, "there was something to look at"
    assert command_lines == []
    said = {"run": done.stdout + done.stderr, "show": shown.stdout + shown.stderr}
    _look({**said, "streams": stored, "logs and store": logs, "traces": exported, "server": server.log_text})


async def _rubbish(url: str) -> None:
    """Have something for the dead letters, under the streams that the first agent will make."""
    from motet_bus import open_bus

    async with open_bus(ConnectOptions(url=url), role="client", name="outsider") as bus:
        await bus.link.publish_stored("task.submitted.rubbish.content-qa", b"{", {"x": "y"})


@pytest.mark.parametrize(
    "changes",
    [
        {"url": f"nats://motet:{PASSWORD}@127.0.0.1:9"},
        {"url": f"nats://{TOKEN}@127.0.0.1:9"},
        {"url": f"nats://motet:{PASSWORD}@127.0.0.1:9,nats://motet:{PASSWORD}@127.0.0.1:10"},
        {"url": f"http://motet:{PASSWORD}@127.0.0.1"},
        {"url": f"nats://motet:{PASSWORD}@[:::"},
        {"url": f"motet:{PASSWORD}@127.0.0.1:port"},
        {"token": TOKEN},
        {"creds": "secret"},
        {"nkey": "secret"},
        {"tls_ca": "secret"},
        {"tls_cert": "secret", "tls_key": "secret"},
    ],
    ids=lambda one: " ".join(one),
)
async def test_an_error_of_the_connection_shows_no_secret(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "secret").write_text(f"-----BEGIN NATS USER JWT-----\n{TOKEN}\n{PASSWORD}\n")
    paths = {name: tmp_path / "secret" for name, value in changes.items() if value == "secret"}
    given: dict[str, Any] = {"url": "nats://127.0.0.1:9", "connect_timeout_s": 0.1, **changes, **paths}
    options = ConnectOptions(**given)
    with pytest.raises(MotetError) as refused:
        await connect(options)
    chain = [refused.value, refused.value.__cause__, refused.value.__context__]
    _look({"said": " ".join(map(str, chain)), "shown": repr(options), "letter": str(failure_of(refused.value))})


async def test_a_refused_password_is_not_repeated(tmp_path: Path) -> None:
    config = 'authorization { user: motet, password: "another" }'
    with NatsServer(tmp_path / "server", config=config, user_info=f"motet:{PASSWORD}") as server:
        with pytest.raises(NotAllowedError) as refused:
            await connect(ConnectOptions(url=server.url))
        _look({"said": str(refused.value), "server": server.log_text})
