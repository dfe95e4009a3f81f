"""How to reach the bus, and what nats-py is told for it."""

from __future__ import annotations

import importlib.util
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from motet_bus.files import read_file
from motet_schemas.errors import InvalidInputError

_LARGEST_FILE: Final = 1 << 20
_SEED: Final = re.compile(rb"SU[A-Z2-7]{56}")


@dataclass(frozen=True, kw_only=True)
class ConnectOptions:
    """How to reach the bus. Times in seconds.

    `url` is `nats://host:port` or `tls://…`, may hold `user:password@` or `token@`, and may be a list separated by
    commas. `creds` is the path of a credentials file, `nkey` that of a file that holds an nkey's seed (the server keeps
    its public half only). `tls_ca`, `tls_cert` and `tls_key` are paths of PEM files. `inbox_prefix` is where answers
    come, `api_prefix` what JetStream's API is called in this user's account. `replicas` is how many nodes of a cluster
    keep each stream that is created over this connection.
    """

    url: str = field(default="nats://127.0.0.1:4222", repr=False)
    name: str | None = None
    creds: Path | str | None = None
    nkey: Path | str | None = None
    token: str | None = field(default=None, repr=False)
    tls_ca: Path | str | None = None
    tls_cert: Path | str | None = None
    tls_key: Path | str | None = None
    inbox_prefix: str = "_INBOX"
    api_prefix: str = "$JS.API"
    connect_timeout_s: float = 5.0
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed `url`: servers without user information, and who we are."""

    servers: list[str]
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    tls: bool

    @property
    def shown(self) -> str:
        """The servers, safe to show."""
        return ",".join(self.servers)


def client_arguments(options: ConnectOptions, target: Target) -> dict[str, Any]:
    """Return what nats-py's `connect` takes. Raises `InvalidInputError` for a file that cannot be used."""
    arguments: dict[str, Any] = {
        "servers": target.servers,
        "name": options.name,
        "inbox_prefix": options.inbox_prefix,
        "connect_timeout": options.connect_timeout_s,
        "max_reconnect_attempts": -1,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "pending_size": 8 << 20,
        "flush_timeout": 10,
        "user": target.user,
        "password": target.password,
        "token": target.token,
    }
    if options.creds is not None:
        arguments["user_credentials"] = str(_credentials(options.creds))
    if options.nkey is not None:
        arguments["nkeys_seed"] = str(_seed_file(options.nkey))
    if options.tls_ca or options.tls_cert or options.tls_key:
        arguments["tls"] = _tls_context(options)
    return arguments


def parse_url(options: ConnectOptions) -> Target:
    """Take `options.url` apart. Raises `InvalidInputError`, without showing it: it may hold a password."""
    servers: list[str] = []
    user = password = None
    token = options.token
    for part in options.url.split(","):
        text = part.strip()
        try:
            parsed = urlsplit(text if "://" in text else f"nats://{text}")
            host, port = parsed.hostname, parsed.port
        except ValueError:
            host, port, parsed = None, None, urlsplit("")
        if not host or parsed.scheme not in ("nats", "tls", "ws", "wss"):
            raise InvalidInputError(
                "url: not a NATS address; write nats://host:4222 or tls://host:4222",
                field="url",
                rule="nats://host:port",
            )
        shown_host = f"[{host}]" if ":" in host else host
        servers.append(f"{parsed.scheme}://{shown_host}:{port or 4222}")
        if parsed.username and parsed.password is not None:
            user, password = unquote(parsed.username), unquote(parsed.password)
        elif parsed.username:
            token = unquote(parsed.username)
    tls = bool(options.tls_ca or options.tls_cert) or any(server.startswith(("tls:", "wss:")) for server in servers)
    return Target(servers, user, password, token, tls)


def _readable(path: Path | str, name: str) -> tuple[Path, bytes]:
    """Return the path of a small regular file, and what it holds: a library that opens a pipe would hang."""
    found = Path(path)
    return found, read_file(found, name, max_bytes=_LARGEST_FILE)


def _credentials(path: Path | str) -> Path:
    """Return the path of a credentials file that nats-py can read; on any other it would hang."""
    if importlib.util.find_spec("nkeys") is None:
        raise InvalidInputError("creds: reading a credentials file needs `pip install nats-py[nkeys]`", field="creds")
    found, text = _readable(path, "creds")
    if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
        raise InvalidInputError(
            f"creds: {found} is no NATS credentials file (it has no user JWT or no seed)",
            field="creds",
            value=str(found),
        )
    return found


def _seed_file(path: Path | str) -> Path:
    """Return the path of a file that holds a user's seed and nothing else; what it holds is never shown."""
    found, text = _readable(path, "nkey")
    if not _SEED.fullmatch(text.strip()):
        raise InvalidInputError(
            f"nkey: {found} holds no seed of a user (58 characters that begin with SU); `motet auth init` writes such",
            field="nkey",
            value=str(found),
        )
    return found


def _tls_context(options: ConnectOptions) -> ssl.SSLContext:
    ca = _readable(options.tls_ca, "tls_ca")[0] if options.tls_ca else None
    try:
        context = ssl.create_default_context(cafile=ca)
        if options.tls_cert:
            cert, _ = _readable(options.tls_cert, "tls_cert")
            key = _readable(options.tls_key, "tls_key")[0] if options.tls_key else None
            context.load_cert_chain(cert, key)
        elif options.tls_key:
            raise InvalidInputError("tls_key: a key without tls_cert, its certificate", field="tls_key")
    except ssl.SSLError as error:
        raise InvalidInputError(
            f"tls: these files do not make a TLS identity: {error.reason or error}", field="tls", rule="PEM files"
        ) from error
    return context
