"""Every finding of the doctor: what is well, what is not, and what to do about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from motet_bus import AgentCard, ConsumerCard
from motet_bus.link import Link
from motet_bus.topology import apply_streams, conversations_stream
from motet_gateway.config import Settings
from motet_gateway.consumers import ConsumerState, consumer_states
from motet_gateway.doctor import (
    claims_finding,
    clock_finding,
    consumer_findings,
    dead_letters_finding,
    disk_finding,
    examine,
    roles_finding,
)
from motet_gateway.render import findings_of_doctor
from motet_gateway.terminal import console
from motet_schemas import Namespace
from tests.gateway.recorded import START, TONE, Recorded


def _card(role: str, *consumers: str) -> AgentCard:
    return AgentCard(
        role=role,
        name=role,
        instance=f"{role}-1",
        pid=1,
        version="0.1.0",
        started_at=datetime.now(UTC),
        consumers=tuple(ConsumerCard(name=name, in_flight=0) for name in consumers),
    )


def _state(name: str, *, pending: int = 0, asking: int = 0) -> ConsumerState:
    return ConsumerState(name=name, pending=pending, unacknowledged=0, redelivered=0, asking=asking)


@pytest.mark.parametrize(("skew_s", "status"), [(0.1, "ok"), (-1.9, "ok"), (5.0, "warning"), (-60.0, "problem")])
def test_clocks_are_compared(skew_s: float, status: str) -> None:
    finding = clock_finding(skew_s)
    assert finding.status == status
    assert bool(finding.advice) == (status != "ok")


def test_a_full_disk_is_a_problem() -> None:
    assert disk_finding(Path("store"), 10 << 30).status == "ok"
    assert disk_finding(Path("store"), 1 << 20).status == "problem"


def test_dead_letters_are_counted_and_can_be_found() -> None:
    finding = dead_letters_finding("stream DEAD_LETTERS", 10)
    assert (finding.status, finding.found) == ("warning", "10 dead letters, messages that could not be handled")
    assert "`motet show CONVERSATION`" in finding.advice
    assert "reached a human as a question" in finding.advice


def test_a_role_that_nobody_plays_is_a_problem() -> None:
    roles = ("orchestrator", "planner", "executor", "verifier")
    assert roles_finding([_card(role) for role in roles]).status == "ok"
    lacking = roles_finding([_card("planner"), _card("executor")])
    assert lacking.status == "problem"
    assert "none is orchestrator, verifier" in lacking.found


def test_work_that_waits_for_nobody_is_a_problem() -> None:
    states = [_state("a", pending=3), _state("b", pending=3), _state("c"), _state("d", pending=1, asking=1)]
    found = {finding.check: finding.status for finding in consumer_findings(states, [_card("executor", "b")])}
    assert found == {"consumer a": "problem", "consumer b": "ok", "consumer c": "ok", "consumer d": "ok"}


def test_a_claim_whose_owner_is_gone_is_told() -> None:
    claimed = Recorded().submitted().planned().ready(TONE).claimed(TONE).state
    assert claims_finding([claimed], START).status == "ok"
    assert claims_finding([claimed], START + timedelta(hours=1)).status == "warning"


async def test_a_stream_that_somebody_changed_is_a_problem(link: Link, namespace: Namespace, nats_url: str) -> None:
    settings = Settings(nats_url=nats_url, namespace=namespace.name)
    before = {finding.check: finding for finding in await examine(settings)}
    assert before[f"stream {namespace.stream('CONVERSATIONS')}"].found.startswith("not there yet")
    await apply_streams(link, namespace)
    assert await consumer_states(link, namespace) == []
    spec = conversations_stream(namespace)
    await link.api(f"STREAM.UPDATE.{spec.name}", {**spec.config(), "max_age": 3_600_000_000_000})
    after = {finding.check: finding for finding in await examine(settings)}
    changed = after[f"stream {spec.name}"]
    assert changed.status == "problem"
    assert "max_age" in changed.found
    assert after["clock"].status == "ok"


async def test_a_server_that_does_not_answer_is_a_problem() -> None:
    [finding] = await examine(Settings(nats_url="nats://127.0.0.1:1"))
    assert finding.status == "problem"
    assert "cannot reach" in finding.found


def test_findings_are_shown_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    shown = [clock_finding(60.0).to_document(), disk_finding(Path("store"), 10 << 30).to_document()]
    console(sys.stdout).print(findings_of_doctor(shown))
    out = capsys.readouterr().out
    assert "problem  clock:" in out
    assert "→ claims and due dates" in out
    assert "ok       disk:" in out
