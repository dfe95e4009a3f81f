"""Which addresses a draft may make us connect to: public ones, and what the task allows by name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host, as text. Raises `OSError` when it has none, or cannot be asked."""

_CARRIES_IPV4: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
_MORE_RESERVED: Final = (ipaddress.IPv4Network("192.88.99.0/24"), ipaddress.IPv6Network("fec0::/10"))


class RefusedAddressError(Exception):
    """The address is private, local or reserved, and the task does not allow its host."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Resolves hosts, and refuses what must not be connected to."""

    allow_hosts: frozenset[str]
    resolver: Resolver = resolve

    @classmethod
    def of(cls, allow_hosts: Sequence[str], resolver: Resolver | None = None) -> AddressPolicy:
        """Return the policy for `allow_hosts`, each `host` or `host:port`."""
        return cls(frozenset(_normal(entry) for entry in allow_hosts), resolver or resolve)

    def allows(self, host: str, port: int) -> bool:
        """Say whether the task names the host, or this port of it."""
        name = _normal(host)
        bracketed = f"[{name}]" if ":" in name else name
        return bool({name, bracketed, f"{bracketed}:{port}"} & self.allow_hosts)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses to connect to, every one of them checked.

        Raises `RefusedAddressError` when any is refused, and `OSError` when the host has none.
        """
        name = _normal(host)
        allowed = self.allows(host, port)
        if not allowed and (name == "localhost" or name.endswith(".localhost")):
            raise RefusedAddressError(f"{name} is this machine; links.allow_hosts can allow it")
        literal = _parse(name)
        found = [str(literal)] if literal is not None else list(await self.resolver(name, port))
        if not found:
            raise OSError(f"{name} has no address")
        if not allowed:
            for text in found:
                address = _parse(text)
                if address is None or not is_public(address):
                    at = "" if name == text else f" is at {text}, which"
                    raise RefusedAddressError(f"{name}{at} is not a public address; links.allow_hosts can allow it")
        return found


def is_public(address: Address) -> bool:
    """Say whether `address` is one of the open Internet, also where an IPv6 address carries an IPv4 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.scope_id is not None or any(address in network for network in _CARRIES_IPV4):
            return False
    special = (
        address.is_private,
        address.is_loopback,
        address.is_link_local,
        address.is_multicast,
        address.is_reserved,
        address.is_unspecified,
        any(address in network for network in _MORE_RESERVED if network.version == address.version),
    )
    return address.is_global and not any(special)


def _normal(host: str) -> str:
    return host.strip().rstrip(".").lower()


def _parse(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
