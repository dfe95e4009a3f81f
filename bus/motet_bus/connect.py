"""Making the connection: a clear error within seconds at the start, reconnects for ever afterwards.

No secret (password, token, credentials) is ever part of an error or a log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import nats.errors
import structlog
from motet_schemas.errors import (
    BusUnavailableError,
    BusUnsuitableError,
    InvalidInputError,
    MotetError,
    NotAllowedError,
)
from nats.aio.client import Server

from motet_bus.backoff import Backoff, backoff_s
from motet_bus.link import ErrorCallback, Link
from motet_bus.wire_client import WireClient

log = structlog.get_logger(__name__)

OLDEST_SERVER: Final = (2, 12)
_FIRST_WAIT_S: Final = 0.25
_RECONNECT_FIRST_S: Final = 0.1
_RECONNECT_MOST_S: Final = 2.0
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class ConnectOptions:
    """How to reach the bus. Times in seconds.

    `url` is `nats://host:port` or `tls://…`, may hold `user:password@` or `token@`, and may be a list separated by
    commas. `creds` is the path of a credentials file (needs the `nkeys` package). `tls_ca`, `tls_cert` and `tls_key`
    are paths of PEM files.
    """

    url: str = "nats://127.0.0.1:4222"
    name: str | None = None
    creds: Path | str | None = None
    token: str | None = field(default=None, repr=False)
    tls_ca: Path | str | None = None
    tls_cert: Path | str | None = None
    tls_key: Path | str | None = None
    inbox_prefix: str = "_INBOX"
    connect_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class _Target:
    """A parsed `url`: servers without user information, and who we are."""

    servers: list[str]
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    tls: bool

    @property
    def shown(self) -> str:
        return ",".join(self.servers)


async def connect(options: ConnectOptions, *, on_error: ErrorCallback | None = None) -> Link:
    """Connect and return a link that reconnects for ever.

    Tries for `connect_timeout_s` seconds at most. Raises `BusUnavailableError` when nothing usable listens there,
    `NotAllowedError` when the server refuses the credentials, `BusUnsuitableError` when it is older than 2.12 or has no
    JetStream, `InvalidInputError` for an option that cannot be right. `on_error` gets errors that no call waits for.
    """
    target = _parse_url(options)
    arguments = _client_arguments(options, target)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.connect_timeout_s
    backoff = Backoff(_FIRST_WAIT_S, options.connect_timeout_s)
    while True:
        try:
            return await _attempt(options, arguments, target, deadline - loop.time(), on_error)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            pause_s = backoff.next_s()
            if loop.time() + pause_s >= deadline:
                raise _unavailable(target, error) from error
        await asyncio.sleep(pause_s)


async def _attempt(
    options: ConnectOptions, arguments: dict[str, Any], target: _Target, within_s: float, on_error: ErrorCallback | None
) -> Link:
    """Connect once. nats-py would try for ever; the first error it reports ends this attempt."""
    client = WireClient(require_tls=target.tls)
    link = Link(client, inbox_prefix=options.inbox_prefix, on_error=on_error)
    first_error: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def report(error: Exception) -> None:
        if first_error.done():
            await link.on_client_error(error)
        else:
            first_error.set_exception(error)

    connecting = asyncio.ensure_future(client.connect(**arguments, error_cb=report, **_callbacks(link)))
    try:
        await asyncio.wait({connecting, first_error}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if first_error.done() and (error := first_error.exception()) is not None:
            raise _meaning(error, target)
        if not connecting.done():
            raise TimeoutError(f"no answer within {options.connect_timeout_s:g} s")
        connecting.result()
        _check_server(client, target)
        first_error.cancel()
        await link.open()
    except BaseException:
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        first_error.cancel()
        await _discard(client)
        raise
    return link


async def _discard(client: WireClient) -> None:
    with contextlib.suppress(OSError, nats.errors.Error, TimeoutError):
        async with asyncio.timeout(1):
            await client.close()


def _callbacks(link: Link) -> dict[str, Any]:
    return {
        "disconnected_cb": link.on_disconnected,
        "reconnected_cb": link.on_reconnected,
        "closed_cb": link.on_closed,
    }


def _client_arguments(options: ConnectOptions, target: _Target) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "servers": target.servers,
        "name": options.name,
        "inbox_prefix": options.inbox_prefix,
        "connect_timeout": options.connect_timeout_s,
        "max_reconnect_attempts": -1,
        "reconnect_to_server_handler": _next_server,
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
    if options.tls_ca or options.tls_cert or options.tls_key:
        arguments["tls"] = _tls_context(options)
    return arguments


def _next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """Choose whom to try next, after how many seconds: fewest failures first, the wait doubling, half of it random."""
    server = min(servers, key=lambda candidate: candidate.reconnects)
    return server, backoff_s(server.reconnects, _RECONNECT_FIRST_S, _RECONNECT_MOST_S)


def _parse_url(options: ConnectOptions) -> _Target:
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
    return _Target(servers, user, password, token, tls)


def _readable(path: Path | str, name: str) -> Path:
    found = Path(path)
    try:
        with found.open("rb"):
            return found
    except OSError as error:
        raise InvalidInputError(
            f"{name}: cannot read {found}: {error.strerror}", field=name, value=str(found), rule="a readable file"
        ) from error


def _credentials(path: Path | str) -> Path:
    """Return the path of a credentials file that nats-py can read: on another it would hang or fail without a reason."""
    if importlib.util.find_spec("nkeys") is None:
        raise InvalidInputError("creds: reading a credentials file needs `pip install nats-py[nkeys]`", field="creds")
    found = _readable(path, "creds")
    text = found.read_bytes()
    if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
        raise InvalidInputError(
            f"creds: {found} is no NATS credentials file (it has no user JWT or no seed)",
            field="creds",
            value=str(found),
        )
    return found


def _tls_context(options: ConnectOptions) -> ssl.SSLContext:
    ca = _readable(options.tls_ca, "tls_ca") if options.tls_ca else None
    try:
        context = ssl.create_default_context(cafile=ca)
        if options.tls_cert:
            cert = _readable(options.tls_cert, "tls_cert")
            key = _readable(options.tls_key, "tls_key") if options.tls_key else None
            context.load_cert_chain(cert, key)
        elif options.tls_key:
            raise InvalidInputError("tls_key: a key without tls_cert, its certificate", field="tls_key")
    except ssl.SSLError as error:
        raise InvalidInputError(
            f"tls: these files do not make a TLS identity: {error.reason or error}", field="tls", rule="PEM files"
        ) from error
    return context


def _check_server(client: WireClient, target: _Target) -> None:
    """Raise `BusUnsuitableError` when the server cannot carry Motet."""
    version = client.server_version_text
    oldest = ".".join(map(str, OLDEST_SERVER))
    parsed = _VERSION.match(version)
    if parsed is None or (int(parsed[1]), int(parsed[2])) < OLDEST_SERVER:
        raise BusUnsuitableError(
            f"the server at {target.shown} is nats-server {version or 'of unknown version'}; Motet needs {oldest} or "
            "newer (fences and message schedules): upgrade it, or let `motet up` start its own"
        )
    if not client.server_has_jetstream:
        raise BusUnsuitableError(
            f"nats-server {version} at {target.shown} runs without JetStream; Motet needs {oldest} or newer with "
            "JetStream: start it with `-js` (or a `jetstream` block in its configuration)"
        )


def _meaning(error: BaseException, target: _Target) -> BaseException:
    """Return what a failed attempt means: errors that another attempt cannot mend become `MotetError`s."""
    if isinstance(error, MotetError):
        return error
    text = str(error).lower()
    if isinstance(error, nats.errors.AuthorizationError) or "authorization" in text or "authentication" in text:
        return NotAllowedError(
            f"the server at {target.shown} refused the credentials; check user and password, token, or the "
            "credentials file"
        )
    if isinstance(error, nats.errors.SecureConnWantedError):
        return BusUnsuitableError(
            f"the server at {target.shown} does not offer TLS, but TLS is asked for; nothing was sent to it"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return NotAllowedError(
            f"the certificate of the server at {target.shown} cannot be verified ({error.verify_message}); "
            "give the certificate authority with tls_ca"
        )
    if isinstance(error, ssl.SSLError):
        return NotAllowedError(
            f"no TLS connection to {target.shown}: {error.reason or error}; check tls_ca, tls_cert and tls_key"
        )
    return error


def _unavailable(target: _Target, error: Exception) -> BusUnavailableError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return BusUnavailableError(
        f"cannot reach a NATS server at {target.shown}: {reason}; start one (`motet up`), or set MOTET_NATS_URL to "
        "where it listens"
    )
