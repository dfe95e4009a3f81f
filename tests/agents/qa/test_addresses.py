"""A draft cannot make us connect to what is not public, however the address is dressed up."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator, Sequence

import pytest

from motet_agents.qa import LinkRules, check_links, document_of
from motet_agents.qa.addresses import AddressPolicy, RefusedAddressError, is_public
from tests.agents.qa.link_server import LinkServer, link_server


@pytest.fixture
async def server() -> AsyncIterator[LinkServer]:
    async with link_server() as running:
        yield running


class Names:
    """A resolver that knows what it is told, one answer after another, and remembers who asked."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(addresses) for name, addresses in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        known = self.answers[host]
        return known.pop(0) if len(known) > 1 else known[0]


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.1",
            "100.64.0.1",
        ),
        *(
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "192.88.99.1",
            "::1",
            "::",
            "fe80::1",
        ),
        *("fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fec0::1"),
        *("2001:db8::1", "2001::1", "::127.0.0.1", "fe80::1%eth0"),
    ],
)
async def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    policy = AddressPolicy.of((), Names(x_example=[[address]]))
    with pytest.raises(RefusedAddressError, match="not a public address"):
        await policy.addresses("x.example", 80)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
async def test_public_addresses_pass(address: str) -> None:
    assert await AddressPolicy.of((), Names(x_example=[[address]])).addresses("x.example", 80) == [address]


async def test_one_bad_address_among_good_ones_is_enough() -> None:
    policy = AddressPolicy.of((), Names(x_example=[["93.184.216.34", "127.0.0.1"]]))
    with pytest.raises(RefusedAddressError):
        await policy.addresses("x.example", 80)


@pytest.mark.parametrize(
    ("entry", "host", "port", "allowed"),
    [
        ("127.0.0.1:8081", "127.0.0.1", 8081, True),
        ("127.0.0.1:8081", "127.0.0.1", 8082, False),
        ("127.0.0.1", "127.0.0.1", 9, True),
        ("LocalHost", "localhost.", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]", "[::1]", 81, True),
        ("example.com", "sub.example.com", 80, False),
    ],
)
def test_hosts_are_allowed_by_name_and_port(entry: str, host: str, port: int, allowed: bool) -> None:
    assert AddressPolicy.of((entry,)).allows(host, port) is allowed


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/",
        "http://a.localhost:1/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "//127.0.0.1/x",
    ],
)
async def test_this_machine_is_refused_without_a_question(url: str) -> None:
    names = Names()
    result = await check_links(document_of(f"[a]({url})"), LinkRules(), "links", resolver=names)
    assert [finding.rule for finding in result.findings] == ["links.refused"]
    assert names.asked == []
    assert result.confidence == 0.99


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1"])
async def test_numbers_in_disguise_are_resolved_and_refused(host: str) -> None:
    result = await check_links(document_of(f"[a](http://{host}/)"), LinkRules(), "links")
    assert [finding.rule for finding in result.findings] == ["links.refused"]


async def test_a_redirect_to_a_private_address_is_refused(server: LinkServer) -> None:
    draft = f"[a]({server.url('/to/http://10.0.0.1/secret')})"
    result = await check_links(document_of(draft), LinkRules(allow_hosts=(server.host,)), "links")
    assert [finding.rule for finding in result.findings] == ["links.refused"]
    assert "redirects to http://10.0.0.1/secret" in result.findings[0].message


async def test_a_name_that_changes_its_mind_gains_nothing(server: LinkServer) -> None:
    names = Names(rebind_example=[["8.8.8.8"], ["127.0.0.1"]])
    policy = AddressPolicy.of((), names)
    assert await policy.addresses("rebind.example", server.port) == ["8.8.8.8"]
    result = await check_links(
        document_of(f"[a](http://rebind.example:{server.port}/)"), LinkRules(), "links", resolver=names
    )
    assert [finding.rule for finding in result.findings] == ["links.refused"]
    assert server.requests == []


async def test_the_connection_goes_to_the_address_that_was_checked_with_the_name_of_the_link(
    server: LinkServer,
) -> None:
    names = Names(named_example=[["127.0.0.1"]])
    host = f"named.example:{server.port}"
    rules = LinkRules(allow_hosts=(host,))
    result = await check_links(document_of(f"[a](http://{host}/ok)"), rules, "links", resolver=names)
    assert result.findings == ()
    assert server.headers["host"] == host
    assert names.asked == ["named.example"]


async def test_tls_asks_for_the_name_of_the_link_and_a_bad_certificate_is_unknown(server: LinkServer) -> None:
    names = Names(tls_example=[["127.0.0.1"]])
    host = f"tls.example:{server.port}"
    seen: list[str] = []

    class _Context(ssl.SSLContext):
        def wrap_bio(self, *args: object, **named: object) -> ssl.SSLObject:
            seen.append(repr((args, named)))
            raise ssl.SSLError("no certificate")

    result = await check_links(
        document_of(f"[a](https://{host}/)"),
        LinkRules(allow_hosts=(host,)),
        "links",
        resolver=names,
        ssl_context=_Context(ssl.PROTOCOL_TLS_CLIENT),
    )
    assert [finding.rule for finding in result.findings] == ["links.unreachable"]
    assert seen
    assert all("tls.example" in call for call in seen)


async def test_the_second_address_is_tried_when_the_first_does_not_answer(server: LinkServer) -> None:
    names = Names(two_example=[["127.0.0.9", "127.0.0.1"]])
    host = f"two.example:{server.port}"
    result = await check_links(
        document_of(f"[a](http://{host}/ok)"), LinkRules(allow_hosts=(host,)), "links", resolver=names
    )
    assert result.findings == ()


def test_what_is_public_is_decided_by_the_address_alone() -> None:
    assert is_public(ipaddress.ip_address("1.1.1.1"))
    assert not is_public(ipaddress.ip_address("192.0.0.170"))
