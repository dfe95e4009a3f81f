"""Connecting: what works, and a clear error within seconds, without a secret in it, for what does not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from motet_bus.connect import ConnectOptions, connect
from motet_schemas.errors import BusUnavailableError, BusUnsuitableError, InvalidInputError, NotAllowedError
from tests.bus.servers import NatsServer, free_port

SECRET = "hunter2-%21"  # noqa: S105
TOKEN = "s3cr3t"  # noqa: S105
USERS = 'authorization { users: [{user: "ann", password: "hunter2-!"}] }'


async def test_nothing_listening_is_a_clear_error_within_five_seconds() -> None:
    port = free_port()
    began = time.monotonic()
    with pytest.raises(BusUnavailableError) as refused:
        await connect(ConnectOptions(url=f"nats://ann:{SECRET}@127.0.0.1:{port}"))
    assert time.monotonic() - began < 5
    assert f"nats://127.0.0.1:{port}" in refused.value.message
    assert "MOTET_NATS_URL" in refused.value.message
    assert "hunter2" not in refused.value.message
    assert "hunter2" not in repr(refused.value.__cause__)


async def test_a_server_that_comes_up_meanwhile_is_found(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    connecting = asyncio.create_task(connect(ConnectOptions(url=server.url)))
    await asyncio.sleep(0.1)
    with server:
        link = await connecting
        assert link.connected
        await link.close()


@asynccontextmanager
async def peer(greeting: bytes) -> AsyncGenerator[int]:
    """A TCP server that greets every client and then answers pings."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_server_that_never_greets_is_given_up_in_time() -> None:
    began = time.monotonic()
    async with peer(b"") as port:
        with pytest.raises(BusUnavailableError, match="no answer within 1 s"):
            await connect(ConnectOptions(url=f"127.0.0.1:{port}", connect_timeout_s=1))
    assert time.monotonic() - began < 3


async def test_what_does_not_speak_nats_is_given_up_in_time() -> None:
    async with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        with pytest.raises(BusUnavailableError, match="cannot reach a NATS server"):
            await connect(ConnectOptions(url=f"nats://127.0.0.1:{port}", connect_timeout_s=1))


@pytest.mark.parametrize("version", ["2.10.0", "2.11.9", "1.4.1", ""])
async def test_an_old_server_is_refused_and_both_versions_are_named(version: str) -> None:
    info = {"server_id": "x", "version": version, "headers": True, "max_payload": 1048576, "jetstream": True}
    async with peer(b"INFO " + json.dumps(info).encode() + b"\r\n") as port:
        with pytest.raises(BusUnsuitableError, match=r"2\.12") as refused:
            await connect(ConnectOptions(url=f"nats://127.0.0.1:{port}"))
    assert (version or "unknown version") in refused.value.message


async def test_a_server_without_jetstream_is_refused_with_its_version(tmp_path: Path) -> None:
    with NatsServer(tmp_path, jetstream=False) as server:
        with pytest.raises(BusUnsuitableError, match="without JetStream") as refused:
            await connect(ConnectOptions(url=server.url))
        assert server.greeting()["version"] in refused.value.message
        assert "2.12" in refused.value.message


@pytest.fixture(scope="module")
def user_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("users"), config=USERS) as server:
        yield server


async def test_user_and_password_from_the_url_are_unquoted(user_server: NatsServer) -> None:
    link = await connect(ConnectOptions(url=f"nats://ann:{SECRET}@{user_server.address}", name="test"))
    assert link.server_version == user_server.greeting()["version"]
    assert link.max_payload == 1 << 20
    await link.close()


async def test_wrong_credentials_are_refused_at_once_without_showing_them(user_server: NatsServer) -> None:
    for user_info in ("ann:wrong-secret@", ""):
        began = time.monotonic()
        with pytest.raises(NotAllowedError, match="refused the credentials") as refused:
            await connect(ConnectOptions(url=f"nats://{user_info}{user_server.address}"))
        assert time.monotonic() - began < 2
        assert "wrong-secret" not in refused.value.message


async def test_a_token_opens_the_door(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config=f'authorization {{ token: "{TOKEN}" }}') as server:
        for options in (
            ConnectOptions(url=server.url, token=TOKEN),
            ConnectOptions(url=f"nats://{TOKEN}@{server.address}"),
        ):
            await (await connect(options)).close()
        with pytest.raises(NotAllowedError):
            await connect(ConnectOptions(url=server.url, token=TOKEN[1:]))


def test_options_do_not_show_their_token() -> None:
    assert TOKEN not in repr(ConnectOptions(token=TOKEN))


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, and a server's and a client's certificate that it signed."""
    directory = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (directory / "san").write_text("subjectAltName=IP:127.0.0.1\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return directory


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[NatsServer]:
    c = certificates
    config = f'tls {{ cert_file: "{c}/server.pem", key_file: "{c}/server.key", ca_file: "{c}/ca.pem", verify: true }}'
    with NatsServer(tmp_path_factory.mktemp("tls-server"), config=config) as server:
        yield server


async def test_mutual_tls_connects(tls_server: NatsServer, certificates: Path) -> None:
    options = ConnectOptions(
        url=f"tls://{tls_server.address}",
        tls_ca=certificates / "ca.pem",
        tls_cert=certificates / "client.pem",
        tls_key=certificates / "client.key",
    )
    link = await connect(options)
    assert link.connected
    await link.close()


async def test_an_unknown_certificate_authority_is_a_clear_error(tls_server: NatsServer) -> None:
    with pytest.raises(NotAllowedError, match="tls_ca"):
        await connect(ConnectOptions(url=f"tls://{tls_server.address}"))


async def test_a_missing_client_certificate_is_a_clear_error(tls_server: NatsServer, certificates: Path) -> None:
    with pytest.raises((NotAllowedError, BusUnavailableError)):
        await connect(
            ConnectOptions(url=f"tls://{tls_server.address}", tls_ca=certificates / "ca.pem", connect_timeout_s=1)
        )


async def test_credentials_are_not_sent_in_the_clear_when_tls_was_asked_for(
    user_server: NatsServer, certificates: Path
) -> None:
    with pytest.raises(BusUnsuitableError, match="does not offer TLS"):
        await connect(ConnectOptions(url=f"nats://ann:{SECRET}@{user_server.address}", tls_ca=certificates / "ca.pem"))
    with pytest.raises(BusUnsuitableError, match="does not offer TLS"):
        await connect(ConnectOptions(url=f"tls://ann:{SECRET}@{user_server.address}"))


# Options that cannot be right


@pytest.mark.parametrize("url", ["http://127.0.0.1:4222", "nats://", "nats://host:port", f"nats://a:{SECRET}@:x"])
async def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidInputError, match="nats://host") as refused:
        await connect(ConnectOptions(url=url))
    assert refused.value.field == "url"
    assert "hunter2" not in refused.value.message


async def test_files_that_cannot_be_used_are_named(tmp_path: Path, certificates: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    for options, field in (
        (ConnectOptions(tls_ca=tmp_path / "absent.pem"), "tls_ca"),
        (ConnectOptions(tls_cert=tmp_path / "absent.pem"), "tls_cert"),
        (ConnectOptions(tls_cert=certificates / "client.pem", tls_key=tmp_path / "absent.key"), "tls_key"),
        (ConnectOptions(tls_key=certificates / "client.key"), "tls_key"),
        (ConnectOptions(tls_ca=junk), "tls"),
        (ConnectOptions(tls_cert=certificates / "client.pem", tls_key=certificates / "server.key"), "tls"),
        (ConnectOptions(creds=junk), "creds"),
    ):
        with pytest.raises(InvalidInputError) as refused:
            await connect(options)
        assert refused.value.field == field
