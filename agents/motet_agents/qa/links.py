"""The link check: every link of a draft, each distinct target asked once, and the anchors within the draft.

Confidence: what was answered, refused by rule or found in the draft is decided (0.99). Whatever could not be reached
is unknown, and no list of broken links is sure while one is: 0.6 at most, down to 0.3 with the share of unknown links.
Relative links without a base cannot be asked: 0.9 at most. A draft not read to the letter caps it at 0.6.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from motet_agents.qa.addresses import AddressPolicy, Resolver
from motet_agents.qa.checklist import LinkRules
from motet_agents.qa.documents import Document
from motet_agents.qa.link_requests import Prober, Result, Verdict, usual_ssl_context
from motet_agents.qa.reading import Link
from motet_agents.qa.results import CheckResult, count, in_order
from motet_schemas.base import Json
from motet_schemas.findings import Finding, Severity
from motet_schemas.validation import nearest

SURE: Final = 0.99
RELATIVE_UNCHECKED: Final = 0.9
UNDECIDED: Final = 0.6
_LEAST = 0.3
_AT_ONCE, _AT_ONCE_PER_HOST = 16, 2
_NOT_REQUESTED = frozenset({"mailto", "tel", "sms", "cid", "data"})
_ALWAYS_THERE = frozenset({"", "top"})


@dataclass(frozen=True, slots=True)
class _Kind:
    rule: str
    severity: Severity
    message: str


_FINDINGS: dict[Result, _Kind] = {
    "broken": _Kind("links.broken", "error", "the link {target} {reason}"),
    "unreachable": _Kind("links.unreachable", "warning", "unknown whether the link {target} works: it {reason}"),
    "refused": _Kind("links.refused", "warning", "the link {target} was not asked for: {reason}"),
    "relative": _Kind("links.relative", "info", "the relative link {target} was not checked: {reason}"),
}


async def check_links(
    document: Document,
    rules: LinkRules,
    step: str,
    *,
    resolver: Resolver | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> CheckResult:
    """Return what is wrong with the links of `document`; `step` names the finder in each finding.

    `resolver` stands in for the system's, `ssl_context` for the usual certificate authorities. Takes at most
    `rules.time_budget_s` seconds; what was not asked by then is unknown.
    """
    reading = await asyncio.to_thread(lambda: document.reading)
    links = reading.links
    addresses = {link: _address(link, reading.base) for link in links}
    verdicts = await _ask_all(list(dict.fromkeys(filter(None, addresses.values()))), rules, resolver, ssl_context)
    findings: list[Finding] = []
    listed: list[Json] = []
    results: list[Result] = []
    for link in links:
        address = addresses[link]
        verdict = verdicts[address] if address is not None else _without_asking(link, document)
        results.append(verdict.result)
        listed.append(_entry(link, verdict))
        if finding := _finding(link, verdict, document, step):
            findings.append(finding)
    output: dict[str, Json] = {"links": listed, "requested": len(verdicts)}
    notes = _notes(results, len(verdicts), reading.coarse)
    confidence = _confidence(results, coarse=reading.coarse is not None)
    return CheckResult(findings=in_order(findings, step, "links"), confidence=confidence, notes=notes, output=output)


def _address(link: Link, base: str | None) -> str | None:
    """Return the address to ask for, without its fragment; None for a link that is judged without asking."""
    target = link.target
    if target.startswith("//"):
        target = f"https:{target}"
    elif base and not target.startswith("#") and not _scheme(target):
        try:
            target = urljoin(base, target)
        except ValueError:
            return None
    return target.partition("#")[0] if _scheme(target) in ("http", "https") else None


def _scheme(target: str) -> str:
    scheme, colon, _ = target.partition(":")
    is_scheme = colon and scheme.isascii() and scheme[:1].isalpha() and all(c.isalnum() or c in "+-." for c in scheme)
    return scheme.lower() if is_scheme else ""


def _without_asking(link: Link, document: Document) -> Verdict:
    scheme = _scheme(link.target)
    if scheme in _NOT_REQUESTED:
        return Verdict("not-requested", f"{scheme} is no page")
    if scheme:
        return Verdict("refused", f"the scheme {scheme} is not requested")
    if not link.target.startswith("#"):
        return Verdict("relative", "the draft alone does not say where it leads")
    name = link.target[1:].partition(":~:")[0]
    if name in _ALWAYS_THERE or unquote(name) in document.anchors or name in document.anchors:
        return Verdict("ok", "stands in the draft")
    close = nearest(unquote(name), sorted(document.anchors))
    return Verdict("broken", "leads nowhere in the draft" + (f"; did you mean #{close}?" if close else ""))


async def _ask_all(
    targets: list[str], rules: LinkRules, resolver: Resolver | None, ssl_context: ssl.SSLContext | None
) -> dict[str, Verdict]:
    """Ask for every target once, the same host twice at a time at most."""
    verdicts = {target: Verdict("broken", _INVALID) for target in targets if _is_invalid(target)}
    waiting = [target for target in targets if target not in verdicts]
    verdicts |= {target: Verdict("unreachable", f"came after the first {rules.max_links:,}") for target in waiting}
    if not waiting:
        return verdicts
    everywhere = asyncio.Semaphore(_AT_ONCE)
    hosts: dict[str, asyncio.Semaphore] = {}

    policy = AddressPolicy.of(rules.allow_hosts, resolver)
    context = ssl_context or (usual_ssl_context() if any(target.startswith("https:") for target in waiting) else None)
    async with Prober.open(policy, rules.timeout_s, context) as prober:

        async def ask(target: str) -> None:
            host = hosts.setdefault(_host(target), asyncio.Semaphore(_AT_ONCE_PER_HOST))
            async with host, everywhere:
                verdicts[target] = await prober.probe(target)

        asked = waiting[: rules.max_links]
        verdicts |= {
            target: Verdict("unreachable", f"was not answered within the {rules.time_budget_s:g} s for all links")
            for target in asked
        }
        try:
            async with asyncio.timeout(rules.time_budget_s), asyncio.TaskGroup() as group:
                for target in asked:
                    group.create_task(ask(target))
        except TimeoutError:
            return verdicts
    return verdicts


_INVALID = "can never work: the name .invalid belongs to nobody (RFC 6761)"


def _is_invalid(target: str) -> bool:
    return _host(target).rstrip(".").rpartition(".")[2] == "invalid"


def _host(target: str) -> str:
    try:
        return urlsplit(target).hostname or ""
    except ValueError:
        return ""


def _entry(link: Link, verdict: Verdict) -> Json:
    entry: dict[str, Json] = {
        "target": link.target,
        "start": link.start,
        "end": link.end,
        "text": link.text,
        "kind": link.kind,
        "result": verdict.result,
        "reason": verdict.reason,
    }
    if verdict.status_code is not None:
        entry["status_code"] = verdict.status_code
    return entry


def _finding(link: Link, verdict: Verdict, document: Document, step: str) -> Finding | None:
    kind = _FINDINGS.get(verdict.result)
    if kind is None:
        return None
    is_anchor = link.target.startswith("#")
    target = link.target if len(link.target) <= 300 else f"{link.target[:299]}…"
    return Finding(
        step=step,
        rule="links.anchor" if is_anchor else kind.rule,
        severity=kind.severity,
        message=kind.message.format(target=target, reason=verdict.reason)[:2000],
        quote=document.text[link.start : link.end],
        start=link.start,
        end=link.end,
    )


def _confidence(results: list[Result], *, coarse: bool) -> float:
    confidence = SURE
    if unknown := results.count("unreachable"):
        confidence = round(UNDECIDED - (UNDECIDED - _LEAST) * unknown / len(results), 3)
    elif "relative" in results:
        confidence = RELATIVE_UNCHECKED
    return min(confidence, UNDECIDED) if coarse else confidence


def _notes(results: list[Result], requested: int, coarse: str | None) -> str:
    parts = [f"{count(len(results), 'link')}, {count(requested, 'distinct address', 'distinct addresses')} to ask"]
    names: dict[Result, str] = {
        "ok": "work",
        "broken": "broken",
        "unreachable": "unknown",
        "refused": "refused",
        "relative": "relative and not checked",
        "not-requested": "not for requesting",
    }
    parts += [f"{results.count(result):,} {name}" for result, name in names.items() if result in results]
    return "; ".join([", ".join(parts), coarse] if coarse else [", ".join(parts)]) + "."
