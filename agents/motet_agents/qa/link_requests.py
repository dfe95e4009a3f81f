"""Asks whether one address answers: HEAD, then GET, redirects by hand, and never an address that was not checked.

The connection is made to the very address that the policy saw, so a name that resolves differently a moment later
gains nothing; the Host header and the TLS name stay those of the link.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, cast

import httpcore
import httpx

from motet_agents.qa.addresses import AddressPolicy, RefusedAddressError

Result = Literal["ok", "broken", "unreachable", "refused", "relative", "not-requested"]

MAX_REDIRECTS: Final = 5
USER_AGENT: Final = "motet-link-checker/0.1 (checks the links of a draft; one HEAD or GET for each)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CLOSED_DOORS = frozenset({401, 403, 407, 408, 425, 429, 451})
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of asking for an address."""

    result: Result
    reason: str
    status_code: int | None = None


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that the policy has passed."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._policy.addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"the name {host} could not be resolved ({error})") from error
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class CheckedTransport(httpx.AsyncBaseTransport):
    """An httpx transport whose every connection is checked; it knows no proxy and keeps no cookies."""

    def __init__(self, policy: AddressPolicy, ssl_context: ssl.SSLContext | None = None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            network_backend=_CheckedBackend(policy),
            max_connections=64,
            max_keepalive_connections=16,
            keepalive_expiry=5,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; the response's body is not read. Raises `httpcore` errors and `RefusedAddressError`."""
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def usual_ssl_context() -> ssl.SSLContext:
    """Return the context that trusts the usual certificate authorities, whatever the environment says."""
    return httpx.create_ssl_context(trust_env=False)


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


class Prober:
    """Asks for addresses with one client; `timeout_s` is for one request, connecting and headers together."""

    def __init__(self, client: httpx.AsyncClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    @classmethod
    @asynccontextmanager
    async def open(
        cls, policy: AddressPolicy, timeout_s: float, ssl_context: ssl.SSLContext | None = None
    ) -> AsyncGenerator[Prober]:
        """Return a prober that is closed at the end."""
        transport = CheckedTransport(policy, ssl_context)
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout_s) as client:
            yield cls(client, timeout_s)

    async def probe(self, target: str) -> Verdict:
        """Return what came of asking for `target`; never raises for anything the other side does."""
        try:
            return await self._follow(httpx.URL(target))
        except RefusedAddressError as error:
            return Verdict("refused", str(error))
        except httpx.InvalidURL as error:
            return Verdict("broken", f"is no valid address ({error})")
        except TimeoutError:
            return Verdict("unreachable", f"gave no answer within {self._timeout_s:g} s")
        except (httpcore.TimeoutException, httpx.TimeoutException):
            return Verdict("unreachable", f"gave no answer within {self._timeout_s:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.TransportError, OSError, ValueError) as error:
            return Verdict("unreachable", _reason(error))

    async def _follow(self, url: httpx.URL) -> Verdict:
        status = 0
        for hop in range(MAX_REDIRECTS + 1):
            via = "" if not hop else f"it redirects to {url}, but "
            refused = _wrong_scheme(url)
            if refused:
                return Verdict("refused", via + refused)
            try:
                status, location = await self._ask(url)
            except RefusedAddressError as error:
                raise RefusedAddressError(f"{via}{error}") from error
            if status not in _REDIRECTS or not location:
                return _judge(status)
            url = url.join(location)
        return Verdict("unreachable", f"redirects more than {MAX_REDIRECTS} times", status)

    async def _ask(self, url: httpx.URL) -> tuple[int, str | None]:
        """Return status and redirect of `url`: by HEAD, and whatever that refuses is confirmed by GET."""
        try:
            status, location = await self._request("HEAD", url)
        except (httpcore.ReadError, httpcore.RemoteProtocolError):
            return await self._request("GET", url)
        if status < 400 or status == 429:
            return status, location
        return await self._request("GET", url)

    async def _request(self, method: str, url: httpx.URL) -> tuple[int, str | None]:
        bare = url.copy_with(fragment=None, username=None, password=None)
        request = self._client.build_request(method, bare, headers=_HEADERS)
        async with asyncio.timeout(self._timeout_s):
            response = await self._client.send(request, stream=True, follow_redirects=False)
        await response.aclose()
        return response.status_code, response.headers.get("location")


def _judge(status: int) -> Verdict:
    if 200 <= status < 300:
        return Verdict("ok", "answers", status)
    if status in _CLOSED_DOORS:
        return Verdict("unreachable", f"answers, but lets nobody read it (status {status})", status)
    if 400 <= status < 500:
        return Verdict("broken", f"is not there (status {status})", status)
    return Verdict("unreachable", f"answers with status {status}", status)


def _wrong_scheme(url: httpx.URL) -> str:
    if url.scheme not in ("http", "https"):
        return f"the scheme {url.scheme or '(none)'} is not requested"
    return "" if url.host else "it names no host"


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return f"could not be reached: {text[:300]}"
