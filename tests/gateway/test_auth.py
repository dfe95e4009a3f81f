"""`motet auth` and `motet topology`: what is written, what is not shown, and that it works as it stands."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from motet_gateway.certificates import hosts_of
from motet_gateway.commands.auth import built_in_principals
from motet_gateway.credentials import everybody, named_specialist, rotate, server_config, specialist
from motet_gateway.user_keys import new_seed, public_key
from motet_schemas import InvalidInputError, NotFoundError
from tests.bus.servers import free_port, nats_server_binary
from tests.gateway.command import EXAMPLES, Motet, eventually

pytestmark = pytest.mark.slow

USERS = ["orchestrator", "planner", "executor", "verifier", "operator", "desk", "client", "outsider"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A directory that `motet auth init` wrote, what it printed, and everything it said."""
    folder = tmp_path_factory.mktemp("auth")
    motet = Motet(folder)
    done = motet("auth", "init", folder / "bus", "--port", str(free_port()), "--host", "bus.example.org", "--json",
                 "--specialist", "link-checker:check-links,check-more")  # fmt: skip
    assert done.returncode == 0, done.stderr
    import json

    return folder / "bus", json.loads(done.stdout), done.stdout + done.stderr


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def secrets_in(directory: Path) -> list[str]:
    keys = [path.read_text().strip() for path in directory.glob("keys/*.nk")]
    pems = [line for path in directory.glob("tls/*.key") for line in path.read_text().splitlines()[1:-1]]
    return [*keys, *pems]


def test_everything_is_private_and_nothing_secret_is_printed(made: tuple[Path, dict[str, Any], str]) -> None:
    directory, document, said = made
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_in(directory)} == {0o600}
    assert sorted(document["environments"]) == sorted([*USERS, "link-checker"])
    assert len(secrets_in(directory)) >= len(USERS) + 1
    for secret in secrets_in(directory):
        assert secret not in said
    configuration = "".join(path.read_text() for path in (directory / "nats.conf", directory / "accounts.conf"))
    environments = "".join(path.read_text() for path in directory.glob("env/*.env"))
    for secret in secrets_in(directory):
        assert secret not in configuration + environments


def test_the_server_accepts_the_configuration(made: tuple[Path, dict[str, Any], str]) -> None:
    checked = subprocess.run(
        [nats_server_binary(), "-c", made[0] / "nats.conf", "-t"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_certificate_is_good_for_loopback_and_the_named_host(made: tuple[Path, dict[str, Any], str]) -> None:
    certificate = (made[0] / "tls" / "server.pem").read_bytes()
    assert set(hosts_of(certificate)) == {"localhost", "127.0.0.1", "::1", "bus.example.org"}
    authority = x509.load_pem_x509_certificate((made[0] / "tls" / "ca.pem").read_bytes())
    x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(authority)
    assert made[1]["url"].startswith("tls://bus.example.org:")


def test_nothing_is_overwritten(made: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in files_in(made[0])}
    done = Motet(tmp_path)("auth", "init", made[0])
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert {path: path.read_bytes() for path in files_in(made[0])} == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--specialist", "link-checker"), "NAME:CAPABILITY"),
        (("--specialist", "a.b:c"), "specialist"),
        (("--specialist", "executor:x"), "two users"),
        (("--specialist", "server:x"), "two users"),
        (("--host", "no host"), "neither a DNS name nor an IP address"),
        (("--namespace", "a.b"), "namespace"),
        (("--agent", "tests.nowhere:agent"), "no module"),
    ],
)
def test_what_cannot_be_right_is_a_clear_error_and_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    done = Motet(tmp_path)("auth", "init", tmp_path / "bus", *arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bus").exists()


def test_a_rotated_key_is_another_and_the_configuration_knows_it(
    made: tuple[Path, dict[str, Any], str],
) -> None:
    seed_file = made[0] / "keys" / "client.nk"
    old = public_key(seed_file.read_bytes())
    assert rotate(made[0], "client") == seed_file
    new = public_key(seed_file.read_bytes())
    config = (made[0] / "accounts.conf").read_text()
    assert new != old
    assert new in config
    assert old not in config
    assert stat.S_IMODE(seed_file.stat().st_mode) == 0o600
    before = (made[0] / "tls" / "server.pem").read_bytes()
    rotate(made[0], "server")
    after = (made[0] / "tls" / "server.pem").read_bytes()
    assert after != before
    assert hosts_of(after) == hosts_of(before)
    with pytest.raises(NotFoundError, match="nobody"):
        rotate(made[0], "nobody")
    with pytest.raises(InvalidInputError):
        rotate(made[0] / "keys", "server")


def test_the_built_in_agents_may_pull_what_they_register_and_no_more() -> None:
    found = {principal.name: principal.consumers for principal in built_in_principals()}
    assert found == {
        "orchestrator": ("orchestrator",),
        "planner": ("planner",),
        "executor": ("step-tone", "step-compliance", "step-links"),
        "verifier": ("verifier",),
    }
    assert specialist("me:a,b").consumers == ("step-a", "step-b")
    assert named_specialist("me:a,b") == ("me", ("a", "b"))
    assert [one.name for one in everybody(built_in_principals())] == USERS


def test_a_key_is_written_as_nats_writes_it() -> None:
    seed = b"SUAGMJH5XLGZKQQWAWKRZJIGMOU4HPFUYLXJMXOO5NLFEO2OOQJ5LPRDPM"
    nkeys = pytest.importorskip("nkeys")
    made = new_seed()
    assert nkeys.from_seed(bytearray(made)).public_key.decode() == public_key(made)
    with pytest.raises(ValueError, match="not the seed"):
        public_key(seed[:-1] + b"A")


def test_a_path_that_a_configuration_cannot_hold_is_refused(tmp_path: Path) -> None:
    done = Motet(tmp_path)("auth", "init", tmp_path / 'a"b')
    assert done.returncode == 2
    assert "quotes" in done.stderr


# As it stands


def environment_of(directory: Path, name: str) -> dict[str, str]:
    lines = (directory / "env" / f"{name}.env").read_text().splitlines()
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


@contextmanager
def server_on(directory: Path) -> Generator[subprocess.Popen[bytes]]:
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen([nats_server_binary(), "-c", directory / "nats.conf"], stdout=log, stderr=log)
        try:
            eventually(lambda: b"Server is ready" in (directory / "server.log").read_bytes(), "the server is ready")
            yield process
        finally:
            process.kill()
            process.wait()


def test_each_role_works_with_its_own_key_and_an_outsider_submits_and_asks(tmp_path: Path) -> None:
    directory = tmp_path / "bus"
    plain = Motet(tmp_path)
    plain.json("auth", "init", directory, "--port", str(free_port()), "--namespace", "team-a")
    users = {name: Motet(tmp_path, **environment_of(directory, name)) for name in USERS}
    task = EXAMPLES / "flawed" / "task.yaml"
    with server_on(directory) as server, ExitStack() as running:
        missing = users["executor"]("agent", "motet_agents.executor:agent")
        assert missing.returncode == 4
        assert "motet topology" in missing.stderr
        assert "step-tone" in users["operator"].json("topology")["consumers"]
        for role in ("orchestrator", "planner", "executor", "verifier"):
            running.enter_context(users[role].started("agent", f"motet_agents.{role}:agent", "--json"))
        eventually(lambda: len(users["client"].json("agents")) == 4, "all four answer")
        report = users["client"].json("submit", task, "--wait")
        assert report["report"]["verdict"] == "changes_needed"

        from_outside = users["outsider"].json("submit", task, "--wait")
        assert from_outside["status"] == "completed"
        findings = [{**one, "step": None} for one in from_outside["report"]["findings"]]
        assert findings == [{**one, "step": None} for one in report["report"]["findings"]]
        refused = users["outsider"]("list")
        assert refused.returncode == 4
        assert "is an outsider here" in refused.stderr

        everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*.log"))
        for secret in secrets_in(directory):
            assert secret.encode() not in everything

        known = environment_of(directory, "client")
        (tmp_path / "old.nk").write_bytes((directory / "keys" / "client.nk").read_bytes())
        plain.json("auth", "rotate", directory, "client")
        os.kill(server.pid, signal.SIGHUP)
        eventually(lambda: users["client"]("list").returncode == 0, "the new key is known")
        old = Motet(tmp_path, **{**known, "MOTET_NATS_NKEY": str(tmp_path / "old.nk")})("list")
        assert old.returncode == 4
        assert "refused the credentials" in old.stderr


def test_the_configuration_names_its_limits() -> None:
    from motet_gateway.credentials import Server

    text = server_config(Path("/srv/motet"), Server(hosts=("bus",), port=4333))
    assert 'listen: "0.0.0.0:4333"' in text
    assert 'listen: "127.0.0.1:4222"' in server_config(Path("/srv/motet"), Server())
    for limit in ("max_payload", "max_connections", "max_subscriptions", "max_control_line", "max_pending"):
        assert limit in text
