"""Making the connection: a clear error within seconds at the start, reconnects for ever afterwards.

No secret (password, token, credentials) is ever part of an error or a log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import Any, Final

import nats.errors
from nats.aio.client import Server

from motet_bus.backoff import Backoff, backoff_s
from motet_bus.connect_options import ConnectOptions, Target, client_arguments, parse_url
from motet_bus.link import ErrorCallback, Link
from motet_bus.wire_client import WireClient
from motet_schemas.errors import (
    BusUnavailableError,
    BusUnsuitableError,
    MotetError,
    NotAllowedError,
)

__all__ = ["OLDEST_SERVER", "ConnectOptions", "connect"]

OLDEST_SERVER: Final = (2, 12)
_FIRST_WAIT_S: Final = 0.25
_RECONNECT_FIRST_S: Final = 0.1
_RECONNECT_MOST_S: Final = 2.0
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


async def connect(options: ConnectOptions, *, on_error: ErrorCallback | None = None) -> Link:
    """Connect and return a link that reconnects for ever.

    Tries for `connect_timeout_s` seconds at most. Raises `BusUnavailableError` when nothing usable listens there,
    `NotAllowedError` when the server refuses the credentials, `BusUnsuitableError` when it is older than 2.12 or has no
    JetStream, `InvalidInputError` for an option that cannot be right. `on_error` gets errors that no call waits for.
    """
    target = parse_url(options)
    arguments = client_arguments(options, target)
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
    options: ConnectOptions, arguments: dict[str, Any], target: Target, within_s: float, on_error: ErrorCallback | None
) -> Link:
    """Connect once. nats-py would try for ever; the first error it reports ends this attempt."""
    client = WireClient(require_tls=target.tls)
    link = Link(client, inbox_prefix=options.inbox_prefix, api_prefix=options.api_prefix, on_error=on_error)
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
        "reconnect_to_server_handler": _next_server,
    }


def _next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """Choose whom to try next, after how many seconds: fewest failures first, the wait doubling, half of it random."""
    server = min(servers, key=lambda candidate: candidate.reconnects)
    return server, backoff_s(server.reconnects, _RECONNECT_FIRST_S, _RECONNECT_MOST_S)


def _check_server(client: WireClient, target: Target) -> None:
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


def _meaning(error: BaseException, target: Target) -> BaseException:
    """Return what a failed attempt means: errors that another attempt cannot mend become `MotetError`s."""
    if isinstance(error, MotetError):
        return error
    text = str(error).lower()
    if isinstance(error, nats.errors.AuthorizationError) or "authorization" in text or "authentication" in text:
        return NotAllowedError(
            f"the server at {target.shown} refused the credentials; check user and password, token, or the "
            "credentials or nkey file"
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


def _unavailable(target: Target, error: Exception) -> BusUnavailableError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return BusUnavailableError(
        f"cannot reach a NATS server at {target.shown}: {reason}; start one (`motet up`), or set MOTET_NATS_URL to "
        "where it listens"
    )
