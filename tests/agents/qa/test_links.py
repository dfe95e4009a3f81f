"""Links are asked for over real sockets; what is not known is not called broken."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from motet_agents.qa import CheckResult, LinkRules, check_links, document_of, links_complete, quotes_stand
from motet_agents.qa.link_requests import MAX_REDIRECTS
from tests.agents.qa.link_server import LinkServer, link_server


@pytest.fixture
async def server() -> AsyncIterator[LinkServer]:
    async with link_server() as running:
        yield running


async def _refuse_to_resolve(host: str, port: int) -> Sequence[str]:
    raise AssertionError(f"{host}:{port} must not be resolved")


async def _unknown(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def _check(draft: str, *allow: str, media_type: str = "text/markdown", timeout_s: float = 5) -> CheckResult:
    document = document_of(draft, media_type=media_type)
    rules = LinkRules(allow_hosts=allow, timeout_s=timeout_s)
    result = await check_links(document, rules, "links", resolver=_unknown)
    assert quotes_stand(draft, result.findings).passed
    assert links_complete(document, result.output).passed
    return result


async def _verdict(server: LinkServer, path: str, timeout_s: float = 5) -> tuple[str, str, CheckResult]:
    result = await _check(f"[a]({server.url(path)})", server.host, timeout_s=timeout_s)
    (entry,) = _entries(result)
    rules = [finding.rule for finding in result.findings]
    return str(entry["result"]), rules[0] if rules else "", result


def _entries(result: CheckResult) -> list[dict[str, object]]:
    listed = result.output["links"]
    assert isinstance(listed, list)
    return [dict(entry) for entry in listed if isinstance(entry, dict)]


@pytest.mark.parametrize(
    ("path", "expected", "rule"),
    [
        ("/ok", "ok", ""),
        ("/status/204", "ok", ""),
        ("/status/404", "broken", "links.broken"),
        ("/status/410", "broken", "links.broken"),
        ("/status/400", "broken", "links.broken"),
        ("/status/401", "unreachable", "links.unreachable"),
        ("/status/403", "unreachable", "links.unreachable"),
        ("/status/429", "unreachable", "links.unreachable"),
        ("/status/500", "unreachable", "links.unreachable"),
        ("/status/503", "unreachable", "links.unreachable"),
        ("/status/304", "unreachable", "links.unreachable"),
        ("/head/405", "ok", ""),
        ("/head/404", "ok", ""),
        ("/head/501", "ok", ""),
        ("/head/403", "ok", ""),
        ("/reset-head", "ok", ""),
        ("/reset", "unreachable", "links.unreachable"),
        ("/garbage", "unreachable", "links.unreachable"),
        ("/to//ok", "ok", ""),
        ("/to//to//status/404", "broken", "links.broken"),
        ("/to/ftp://x.example/", "refused", "links.refused"),
        ("/loop", "unreachable", "links.unreachable"),
        ("/status/302", "unreachable", "links.unreachable"),
    ],
)
async def test_answers_are_told_apart(server: LinkServer, path: str, expected: str, rule: str) -> None:
    result, found, whole = await _verdict(server, path)
    assert (result, found) == (expected, rule)
    assert (whole.confidence >= 0.7) == (expected != "unreachable")


async def test_broken_is_only_said_after_a_get(server: LinkServer) -> None:
    await _verdict(server, "/status/404")
    assert server.requests == ["HEAD /status/404", "GET /status/404"]


async def test_a_link_that_answers_to_head_is_not_fetched(server: LinkServer) -> None:
    _, _, result = await _verdict(server, "/ok")
    assert server.requests == ["HEAD /ok"]
    assert _entries(result)[0]["status_code"] == 200


async def test_redirects_are_followed_only_so_far(server: LinkServer) -> None:
    await _verdict(server, "/loop")
    assert len(server.requests) == MAX_REDIRECTS + 1


async def test_an_endless_body_is_not_read(server: LinkServer) -> None:
    result, _, _ = await _verdict(server, "/endless")
    assert result == "ok"
    assert server.sent_bytes < 20_000_000


async def test_a_slow_answer_is_unknown_within_the_timeout(server: LinkServer) -> None:
    began = time.monotonic()
    result, rule, whole = await _verdict(server, "/slow/30", timeout_s=0.2)
    assert (result, rule) == ("unreachable", "links.unreachable")
    assert "0.2 s" in whole.findings[0].message
    assert time.monotonic() - began < 20


async def test_nobody_listening_is_unknown_and_not_broken() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    result = await _check(f"[a](http://{host}/)", host)
    assert [finding.rule for finding in result.findings] == ["links.unreachable"]
    assert result.confidence < 0.7


async def test_a_name_that_does_not_resolve_is_unknown_but_invalid_is_broken() -> None:
    result = await _check("http://nowhere.example/ http://anything.invalid/x")
    assert {finding.quote: finding.rule for finding in result.findings} == {
        "http://nowhere.example/": "links.unreachable",
        "http://anything.invalid/x": "links.broken",
    }


async def test_each_distinct_address_is_asked_once_and_every_use_is_listed(server: LinkServer) -> None:
    url = server.url("/status/404")
    result = await _check(f"[a]({url}) [b]({url}#x) {url} [c]({server.url('/ok')})", server.host)
    assert server.asked() == {"/status/404": 2, "/ok": 1}
    assert len(_entries(result)) == 4
    assert [finding.rule for finding in result.findings] == ["links.broken"] * 3


async def test_a_host_is_asked_only_twice_at_a_time(server: LinkServer) -> None:
    links = " ".join(server.url(f"/slow/0.02?{number}") for number in range(12)).replace("/0.02?", "/0.02#")
    await _check(links.replace("#", "?").replace("?", "0"), server.host)
    assert len(server.requests) == 12
    assert 1 <= server.most <= 2


async def test_no_cookie_and_no_credentials_are_sent(server: LinkServer) -> None:
    await _check(f"http://user:secret@{server.host}/a http://user:secret@{server.host}/b", server.host)
    assert "cookie" not in server.headers
    assert "authorization" not in server.headers
    assert server.headers["user-agent"].startswith("motet-link-checker")
    assert server.headers["host"] == server.host


async def test_proxies_of_the_environment_are_not_used(server: LinkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await _verdict(server, "/ok"))[0] == "ok"


async def test_what_the_time_budget_leaves_out_is_unknown(server: LinkServer) -> None:
    document = document_of(" ".join(server.url(f"/slow/9{number}") for number in range(4)))
    rules = LinkRules(allow_hosts=(server.host,), timeout_s=60, time_budget_s=1)
    result = await check_links(document, rules, "links")
    assert [finding.rule for finding in result.findings] == ["links.unreachable"] * 4


async def test_more_links_than_allowed_are_listed_as_unknown(server: LinkServer) -> None:
    document = document_of(" ".join(server.url(f"/ok{number}") for number in range(5)))
    result = await check_links(document, LinkRules(allow_hosts=(server.host,), max_links=3), "links")
    assert [entry["result"] for entry in _entries(result)] == ["ok"] * 3 + ["unreachable"] * 2
    assert result.confidence < 0.7


@pytest.mark.parametrize(
    "target",
    ["javascript:alert(1)", "file:///etc/passwd", "ftp://x.example/a", "vbscript:x", "gopher://x.example"],
)
async def test_other_schemes_are_refused_without_asking(target: str) -> None:
    document = document_of(f"[a]({target})")
    result = await check_links(document, LinkRules(), "links", resolver=_refuse_to_resolve)
    assert [(finding.rule, finding.severity) for finding in result.findings] == [("links.refused", "warning")]
    assert result.confidence == 0.99


async def test_mail_and_telephone_links_are_fine() -> None:
    result = await _check("[a](mailto:a@x.example) [b](tel:+1) <me@x.example> ![i](data:image/png;base64,AA)")
    assert result.findings == ()
    assert {entry["result"] for entry in _entries(result)} == {"not-requested"}


async def test_relative_links_are_owned_up_to() -> None:
    result = await _check("[a](other.md) [b](/root#x)")
    assert [(finding.rule, finding.severity) for finding in result.findings] == [("links.relative", "info")] * 2
    assert 0.7 < result.confidence < 0.99


async def test_relative_links_with_a_base_are_asked_for(server: LinkServer) -> None:
    draft = f"<base href='{server.url('/status/')}'><a href='404'>x</a><a href='200'>y</a>"
    result = await _check(draft, server.host, media_type="text/html")
    assert [(finding.rule, finding.quote) for finding in result.findings] == [("links.broken", "404")]


async def test_anchors_are_checked_and_the_nearest_is_proposed() -> None:
    result = await _check(
        "# Our Terms\n\n[a](#our-terms) [b](#our-trems) [c](#) [d](#top) [e](#f%C3%BCr)\n\n<p id='für'>"
    )
    assert [(finding.rule, finding.quote) for finding in result.findings] == [("links.anchor", "#our-trems")]
    assert "#our-terms" in result.findings[0].message
    assert result.confidence == 0.99


async def test_a_draft_without_links_is_a_clean_result() -> None:
    result = await _check("Nothing here.")
    assert (result.findings, result.confidence, result.output["links"]) == ((), 0.99, [])


@pytest.mark.parametrize(
    "target", ["http://[bad/", "http://", "https://a..b/", "http://x.example:99999/", "http://ex ample/"]
)
async def test_targets_that_are_no_addresses_never_break_the_check(target: str) -> None:
    result = await _check(f"[a](<{target}>)")
    assert len(result.findings) == 1


async def test_notes_count_what_was_decided(server: LinkServer) -> None:
    result = await _check(f"{server.url('/ok')} {server.url('/status/404')} {server.url('/status/500')}", server.host)
    assert "3 links" in result.notes
    assert "1 broken" in result.notes
    assert "1 unknown" in result.notes
    assert result.confidence == 0.5
