"""Makes what a secured bus needs: the server's configuration, a certificate, an nkey and settings for each user.

Seeds and private keys go into files of mode 0600, and nowhere else.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from motet_bus import Agent
from motet_bus.agent import step_consumer
from motet_bus.grants import Role
from motet_bus.permissions import API, Principal, accounts
from motet_gateway.certificates import hosts_of, issue_server_certificate, make_authority
from motet_gateway.user_keys import new_seed, public_key
from motet_schemas import InvalidInputError, Namespace, NotFoundError
from motet_schemas.ids import check_token

CONFIG: Final = "nats.conf"
ACCOUNTS: Final = "accounts.conf"
SERVER: Final = "server"
_PEOPLE: Final[tuple[Role, ...]] = ("operator", "desk", "client", "outsider")
_UNSAFE_IN_PATHS: Final = frozenset("\"'\\$\n\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How the server is reached: the first of `hosts` is the name in URLs; without any it listens on loopback only."""

    hosts: tuple[str, ...] = ()
    port: int = 4222

    @property
    def url(self) -> str:
        """The URL by which its users reach it."""
        host = self.hosts[0] if self.hosts else "127.0.0.1"
        return f"tls://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def listens(self) -> str:
        """Host and port to bind."""
        return f"{'0.0.0.0' if self.hosts else '127.0.0.1'}:{self.port}"  # noqa: S104 - whoever names a host wants it reached


def principal_of(agent: Agent) -> Principal:
    """Return the credentials that an agent needs: its role, and the consumers that it registers."""
    durables = tuple(registration.durable for registration in agent.registrations)
    return Principal(name=agent.name, role=agent.role, consumers=durables)


def named_specialist(text: str) -> tuple[str, tuple[str, ...]]:
    """Return name and capabilities of `NAME:capability[,capability]`; `InvalidInputError` for anything else."""
    name, _, listed = text.partition(":")
    capabilities = [capability for capability in listed.split(",") if capability]
    if not name or not capabilities:
        raise InvalidInputError(
            f"specialist: {text!r} is not NAME:CAPABILITY[,CAPABILITY], for example link-checker:check-links",
            field="specialist",
            value=text,
        )
    for token in (name, *capabilities):
        check_token(token, "specialist")
    return name, tuple(capabilities)


def specialist(text: str) -> Principal:
    """Return the credentials of a specialist, as `named_specialist` reads it."""
    name, capabilities = named_specialist(text)
    return Principal(name=name, role="specialist", consumers=tuple(map(step_consumer, capabilities)))


def everybody(workers: Iterable[Principal]) -> list[Principal]:
    """Return the workers, and those for people and strangers. Raises `InvalidInputError` for a name used twice."""
    found = [*workers, *(Principal(name=role, role=role) for role in _PEOPLE)]
    taken = {SERVER}
    for principal in found:
        if principal.name in taken:
            raise InvalidInputError(
                f"name: two users would be called {principal.name!r}; choose another",
                field="name",
                value=principal.name,
            )
        taken.add(principal.name)
    return found


def write_bus(directory: Path, principals: Sequence[Principal], server: Server, namespace: Namespace) -> list[Path]:
    """Write everything into `directory`, which must be new or empty, and return the files.

    Raises `InvalidInputError` when it is neither, cannot be written, or has a name that configurations cannot hold.
    """
    root = directory.absolute()
    if _UNSAFE_IN_PATHS & set(str(root)):
        raise InvalidInputError(f"directory: {str(root)!r} holds quotes, '$' or line breaks", field="directory")
    authority, authority_key = make_authority()
    certificate, key = issue_server_certificate(authority, authority_key, server.hosts)
    seeds = {principal.name: new_seed() for principal in principals}
    public = {name: public_key(seed) for name, seed in seeds.items()}
    found = accounts(principals, namespace, public)
    files: dict[str, bytes] = {
        CONFIG: server_config(root, server).encode(),
        ACCOUNTS: _as_config({"accounts": found}),
        "tls/ca.pem": authority,
        "tls/ca.key": authority_key,
        "tls/server.pem": certificate,
        "tls/server.key": key,
    }
    files |= {f"keys/{name}.nk": seed for name, seed in seeds.items()}
    for principal in principals:
        files[f"env/{principal.name}.env"] = _environment(root, principal, server, namespace)
    _make_empty(root)
    for name, content in files.items():
        _write(root / name, content)
    return [root / name for name in files]


def rotate(directory: Path, name: str) -> Path:
    """Give one user a new key, or the server a new certificate (`server`); return the file that has changed.

    The old one is worth nothing once the server has read its configuration again. Raises `NotFoundError` when
    `directory` holds no such user, `InvalidInputError` when it is not one that `write_bus` made.
    """
    root = directory.absolute()
    try:
        if name == SERVER:
            return _renew_certificate(root / "tls")
        seed_file = root / "keys" / f"{check_token(name, 'name')}.nk"
        if not seed_file.exists():
            known = ", ".join(sorted(path.stem for path in (root / "keys").glob("*.nk")))
            raise NotFoundError(f"there is no user {name!r} in {root}; there are {known or 'none'}, and {SERVER!r}")
        old, new = public_key(seed_file.read_bytes()), new_seed()
        config = (root / ACCOUNTS).read_text()
        if old not in config:
            raise InvalidInputError(f"directory: {ACCOUNTS} does not know the key of {name}", field="directory")
        _replace(seed_file, new)
        _replace(root / ACCOUNTS, config.replace(old, public_key(new)).encode())
    except OSError as error:
        raise InvalidInputError(f"directory: {error.filename}: {error.strerror}", field="directory") from error
    except ValueError as error:
        raise InvalidInputError(
            f"directory: {root} does not hold what `motet auth init` writes", field="directory"
        ) from error
    return seed_file


def _renew_certificate(tls: Path) -> Path:
    hosts = hosts_of((tls / "server.pem").read_bytes())
    certificate, key = issue_server_certificate((tls / "ca.pem").read_bytes(), (tls / "ca.key").read_bytes(), hosts)
    _replace(tls / "server.key", key)
    _replace(tls / "server.pem", certificate)
    return tls / "server.pem"


def server_config(root: Path, server: Server) -> str:
    """Return nats-server's configuration, but for the accounts, which it includes."""
    return f"""\
# Written by `motet auth init`. Start the server with: nats-server -c {root / CONFIG}
server_name: motet
listen: "{server.listens}"

# What one client, and all together, may take.
max_payload: 1MB
max_connections: 4096
max_subscriptions: 4096
max_control_line: 4KB
max_pending: 64MB
write_deadline: "10s"

jetstream {{
  store_dir: "{root / "store"}"
  # What a power cut may lose at most. The default of the server is two minutes.
  sync_interval: 100ms
}}

tls {{
  cert_file: "{root / "tls" / "server.pem"}"
  key_file: "{root / "tls" / "server.key"}"
  min_version: "1.2"
  timeout: 5
}}

# Who may do what. Nobody without a key gets in.
include "{ACCOUNTS}"
"""


def _environment(root: Path, principal: Principal, server: Server, namespace: Namespace) -> bytes:
    """Return the settings (`NAME=value`, as shells and systemd read them) by which a user's processes connect."""
    values: dict[str, str | Path] = {
        "MOTET_NATS_URL": server.url,
        "MOTET_NATS_TLS_CA": root / "tls" / "ca.pem",
        "MOTET_NATS_NKEY": root / "keys" / f"{principal.name}.nk",
        "MOTET_NATS_INBOX_PREFIX": principal.inbox_prefix,
    }
    if principal.api_prefix != API:
        values["MOTET_NATS_API_PREFIX"] = principal.api_prefix
    if namespace.name:
        values["MOTET_NAMESPACE"] = namespace.name
    if principal.role == "outsider":
        values["MOTET_OUTSIDER"] = principal.name
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items()).encode()


def _as_config(settings: Mapping[str, Any]) -> bytes:
    """Return settings for nats-server, whose language is a superset of JSON."""
    return (json.dumps(settings, indent=1) + "\n").encode()


def _make_empty(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise InvalidInputError(
                f"directory: {root} is not empty, and no key is ever overwritten; name a new one, or give one user a "
                "new key with `motet auth rotate`",
                field="directory",
                value=str(root),
            )
        root.chmod(0o700)
    except OSError as error:
        raise InvalidInputError(f"directory: cannot use {root}: {error.strerror}", field="directory") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    """Replace a file at once: whoever reads it sees the old one or the new one."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _write(fresh, content)
    fresh.replace(path)
