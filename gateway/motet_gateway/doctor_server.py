"""The doctor's look at the server: has it room, does its clock agree, are the streams as Motet made them?"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from motet_bus.link import Link
from motet_bus.topology import StreamSpec, conversations_stream, ensure_stream
from motet_gateway.doctor_finding import Finding, Status
from motet_gateway.places import Place
from motet_schemas import BusUnavailableError, BusUnsuitableError, MotetError, Namespace, NotAllowedError, NotFoundError

LEAST_FREE_BYTES: Final = 1 << 30
LITTLE_LEFT: Final = 0.2
TOO_LITTLE_LEFT: Final = 0.05
SKEW_WARNING_S: Final = 2.0
SKEW_PROBLEM_S: Final = 30.0
LONGEST_SYNC_S: Final = 1.0

_DURATION: Final = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DEFAULT_SYNC_S: Final = 120.0


def no_server_finding(error: MotetError) -> Finding:
    """Tell why no work is possible on the server that was looked for."""
    advice = "see `motet doctor --help` for how to say where it is"
    if isinstance(error, BusUnsuitableError):
        advice = "upgrade the server or switch JetStream on, or let `motet up` start one that fits"
    elif isinstance(error, NotAllowedError):
        advice = "check the credentials: MOTET_NATS_CREDS, MOTET_NATS_TOKEN, or user and password in MOTET_NATS_URL"
    return Finding(name="server", status="fail", found=error.message, advice=advice)


def server_finding(link: Link, place: Place) -> Finding:
    """Tell which server answers."""
    whose = "embedded" if place.embedded else "run by `motet up` or `motet run`" if place.discovery else "external"
    found = f"nats-server {link.server_version} with JetStream answers ({whose})"
    return Finding(name="server", status="ok", found=found)


def permissions_finding(denied: Sequence[str], stream: str) -> Finding:
    """Judge what the server refused to these credentials: no role can do without reading the stream."""
    if not denied:
        return Finding(name="permissions", status="ok", found="all that was looked at may be looked at")
    needed = (f"STREAM.INFO.{stream}", f"DIRECT.GET.{stream}")
    status: Status = "fail" if any(subject.endswith(needed) for subject in denied) else "warn"
    advice = "grant them: `motet auth init DIR` writes the least permissions that work for each role (docs/security.md)"
    if status == "warn":
        advice = "these credentials can work, and not see everything: let the doctor use an operator's"
    return Finding(name="permissions", status=status, found=f"refused: {', '.join(sorted(set(denied)))}", advice=advice)


async def account_findings(link: Link, place: Place) -> list[Finding]:
    """Judge what the account may still store, and the disk under it where it is this machine's."""
    local = place.embedded is not None or place.discovery is not None
    disk = [disk_finding(place.store, shutil.disk_usage(place.store).free)] if local else []
    try:
        info = await link.api("INFO", {})
    except NotAllowedError:
        hidden = "these credentials may not ask what their account may store"
        return [*disk, Finding(name="storage", status="unknown", found=hidden)]
    except (BusUnavailableError, BusUnsuitableError) as error:
        advice = "enable JetStream for this account (`jetstream: enabled` in its configuration)"
        return [*disk, Finding(name="storage", status="fail", found=error.message, advice=advice)]
    return [*disk, storage_finding(int(info["storage"]), int(info["limits"]["max_storage"]), seen=local)]


def storage_finding(used: int, limit: int, *, seen: bool) -> Finding:
    """Judge an account's room in bytes; a limit of -1 is none, and then the disk counts, which may be `seen` or not."""
    shown = f"{used / 1e6:,.1f} MB stored"
    if limit < 0:
        found = f"{shown}; the account has no limit"
        if seen:
            return Finding(name="storage", status="ok", found=found)
        advice = "watch the disk on the server's machine: when it is full, nothing is recorded any more"
        return Finding(
            name="storage", status="unknown", found=f"{found}, and the disk is not this machine's", advice=advice
        )
    left = max(0.0, 1 - used / limit) if limit else 0.0
    status: Status = "fail" if left < TOO_LITTLE_LEFT else "warn" if left < LITTLE_LEFT else "ok"
    advice = "raise the account's max_file, or archive old conversations (`motet archive`)" if status != "ok" else ""
    found = f"{shown} of {limit / 1e6:,.1f} MB that the account may store"
    return Finding(name="storage", status=status, found=found, advice=advice)


def disk_finding(store: Path, free_bytes: int) -> Finding:
    """Judge the space left for the store, in bytes."""
    found = f"{free_bytes / 1e9:,.1f} GB free for {store}"
    if free_bytes < LEAST_FREE_BYTES:
        advice = (
            "the server stops recording when the disk is full: free some space, archive old conversations "
            "(`motet archive --to DIR`), or name another store"
        )
        return Finding(name="disk", status="fail", found=found, advice=advice)
    return Finding(name="disk", status="ok", found=found)


def sync_finding(place: Place) -> Finding:
    """Judge how much a power cut can take, where the server's configuration can be seen."""
    if place.embedded is None and place.discovery is None:
        advice = f"set jetstream.sync_interval to {LONGEST_SYNC_S:g}s or less there; by default it is 2 minutes"
        return Finding(name="sync", status="unknown", found="the server's sync_interval cannot be seen", advice=advice)
    try:
        config: Any = json.loads((place.store / "nats" / "server.conf").read_text(encoding="utf-8"))
        written = str(config["jetstream"].get("sync_interval", "2m"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        unreadable = f"the server's configuration cannot be read: {error}"
        return Finding(name="sync", status="unknown", found=unreadable)
    return sync_interval_finding(written)


def sync_interval_finding(written: str) -> Finding:
    """Judge a sync_interval as it is written: `100ms`, `2m`, `always`."""
    found = f"sync_interval is {written}"
    if written == "always" or _seconds(written) <= LONGEST_SYNC_S:
        return Finding(name="sync", status="ok", found=found)
    advice = (
        f"a power cut takes what was recorded in that time: set jetstream.sync_interval to {LONGEST_SYNC_S:g}s or less"
    )
    return Finding(name="sync", status="warn", found=found, advice=advice)


def _seconds(written: str) -> float:
    parts = _DURATION.findall(written)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else _DEFAULT_SYNC_S


async def stream_findings(link: Link, spec: StreamSpec, *, replicas: int = 1) -> list[Finding]:
    """Judge one stream: is it there, is it as Motet made it, and do as many nodes keep it as was asked for?"""
    name = f"stream {spec.name}"
    try:
        info = await link.api(f"STREAM.INFO.{spec.name}", {})
        await ensure_stream(link, spec)
    except NotFoundError:
        return [Finding(name=name, status="ok", found="not there yet; it is created at the first use")]
    except BusUnsuitableError as error:
        advice = "set the stream back, or use another namespace (MOTET_NAMESPACE)"
        return [Finding(name=name, status="fail", found=error.message, advice=advice)]
    state = info["state"]
    found = f"as it must be; {state['messages']:,} messages, {state['bytes'] / 1e6:,.1f} MB"
    return [copies_finding(name, found, info, asked=replicas)]


def copies_finding(name: str, found: str, info: dict[str, Any], *, asked: int) -> Finding:
    """Judge how many nodes keep a stream, and whether all of them are there, by its `STREAM.INFO`."""
    copies = int(info["config"].get("num_replicas", 1))
    peers = info.get("cluster", {}).get("replicas", [])
    gone = [str(peer["name"]) for peer in peers if peer.get("offline") or not peer.get("current")]
    if copies < asked:
        found = f"{copies} of the {asked} copies that are asked for (MOTET_REPLICAS)"
        advice = f"stop the agents, run `nats stream edit {name.split()[-1]} --replicas {asked}`, start them again"
        return Finding(name=name, status="warn", found=found, advice=advice)
    if gone:
        found = f"{copies} copies, of which these are down or behind: {', '.join(gone)}"
        return Finding(name=name, status="warn", found=found, advice="start these nodes: fewer failures can be borne")
    return Finding(name=name, status="ok", found=found if copies == 1 else f"{found}, {copies} copies")


async def clock_findings(link: Link, namespace: Namespace) -> list[Finding]:
    """Compare the clocks: half of the round trip is what the measurement can be wrong by."""
    before = datetime.now(UTC)
    try:
        info = await link.api(f"STREAM.INFO.{conversations_stream(namespace).name}", {})
    except NotFoundError:
        return []
    half_trip = (datetime.now(UTC) - before) / 2
    skew_s = (datetime.fromisoformat(str(info["ts"])) - (before + half_trip)).total_seconds()
    return [clock_finding(skew_s, wrong_by_s=half_trip.total_seconds())]


def clock_finding(skew_s: float, *, wrong_by_s: float = 0.0) -> Finding:
    """Judge how far the server's clock is ahead of this machine's, in seconds, give or take `wrong_by_s`."""
    found = f"the server's clock is {abs(skew_s):.2f} s {'ahead of' if skew_s >= 0 else 'behind'} this machine's"
    sure_s = max(0.0, abs(skew_s) - wrong_by_s)
    status: Status = "fail" if sure_s > SKEW_PROBLEM_S else "warn" if sure_s > SKEW_WARNING_S else "ok"
    advice = "claims and due dates go by the server's clock: let NTP set both" if status != "ok" else ""
    return Finding(name="clock", status=status, found=found, advice=advice)
