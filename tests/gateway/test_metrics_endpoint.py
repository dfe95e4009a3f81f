"""`/metrics` of every long-lived process, read during a real run in which everything happens that a metric tells of."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from motet_bus.instruments import (
    ACK_PENDING,
    AGENT_RESTARTS,
    CLAIMS_LIVE,
    ESCALATIONS_OVERDUE,
    INSTRUMENTS,
    LAG,
    Instrument,
)
from motet_gateway.config import load_settings
from motet_gateway.measuring import port_of_child
from motet_schemas import InvalidInputError
from tests.gateway.command import Motet, eventually
from tests.gateway.troubled import Run, prometheus_names, read, scrape, troubled_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_LATER = (ACK_PENDING, AGENT_RESTARTS, CLAIMS_LIVE, ESCALATIONS_OVERDUE, LAG)
"""What is 0 when all goes well; the first four move in tests of their own, the census has its own."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Generator[Run]:
    with troubled_run(tmp_path_factory.mktemp("troubled")) as run:
        yield run


def test_every_long_lived_process_shows_its_metrics(run: Run) -> None:
    assert set(run.urls) == {"up", "orchestrator", "planner", "executor", "verifier", "trouble"}
    for name, url in run.urls.items():
        shown = scrape(url)
        [info] = shown["target_info"]
        assert dict(info)["service_name"] == f"motet-{name}"
        assert sum(shown["process_cpu_seconds_total"].values()) > 0
        assert ("motet_consumer_lag" in shown) == (name != "up")


def test_every_metric_is_there_and_has_moved(run: Run) -> None:
    eventually(lambda: sum(run.series()["motet_telemetry_lost_total"].values()) > 0, "spans were lost")
    series = run.series()
    missing = [one.name for one in INSTRUMENTS if prometheus_names(one)[1] not in series]
    assert missing == []
    still = [one.name for one in INSTRUMENTS if sum(series[prometheus_names(one)[1]].values()) == 0]
    assert set(still) <= {one.name for one in _LATER}


def test_each_fact_is_counted_once(run: Run) -> None:
    kinds = run.kinds("first", "second")
    series = run.series()

    def total(name: str, **labels: str) -> float:
        return sum(value for found, value in series[name].items() if set(labels.items()) <= set(found))

    assert total("motet_steps_total") == kinds["step.executed"]
    assert total("motet_claims_total", event="taken") == kinds["step.claimed"]
    assert total("motet_escalations_total") == kinds["escalate.raised"]
    assert total("motet_escalation_response_duration_seconds_count") == kinds["escalate.answered"] == 1
    assert total("motet_conversations_started_total") == 2
    assert total("motet_conversations_ended_total") == kinds["task.completed"] == 1
    assert total("motet_dead_letters_total") == kinds["letter.dead"] == 1
    assert total("motet_escalations_pending") == 1
    assert total("motet_tokens_total", direction="input") == 120
    assert total("motet_cost_usd_total") == pytest.approx(0.02)
    assert total("motet_redeliveries_total", consumer="trouble-step-executed") == 1
    assert total("motet_errors_total", error_type="PermanentError") == 1


def test_a_label_is_one_that_is_declared_and_no_value_names_a_conversation(run: Run) -> None:
    declared = {prometheus_names(one)[0]: one for one in INSTRUMENTS}
    for name, found in run.series().items():
        one = _of(name, declared)
        if one is None:
            assert name.startswith(("process_", "target_info")), name
            continue
        allowed = {label.replace(".", "_") for label in one.labels} | {"le"}
        for labels in found:
            assert {label for label, _ in labels} <= allowed, name
            assert not {value for _, value in labels} & {"first", "second"}


def _of(sample: str, declared: dict[str, Instrument]) -> Instrument | None:
    for suffix in ("", "_total", "_bucket", "_count", "_sum"):
        if sample.endswith(suffix) and (one := declared.get(sample.removesuffix(suffix))) is not None:
            return one
    return None


def test_claims_that_are_held_and_what_waits_behind_them_are_seen(run: Run) -> None:
    for conversation in ("held-1", "held-2"):
        run.submit(conversation, "held", wait=False)

    def seen() -> bool:
        shown = scrape(run.urls["trouble"])
        held = shown["motet_claims_live"][("capability", "hold"),]
        waits = [
            shown[name][("consumer", "step-hold"),] for name in ("motet_consumer_ack_pending", "motet_consumer_lag")
        ]
        return [held, *waits] == [1, 1, 1]

    eventually(seen, "one claim is held, and one step waits for it")
    (run.folder / "released").touch()
    eventually(lambda: sum(scrape(run.urls["trouble"])["motet_claims_live"].values()) == 0, "no claim is held any more")


def test_an_agent_that_is_killed_counts_as_restarted(run: Run) -> None:
    [pid] = [card.pid for card in run.cards() if card.name == "executor"]
    os.kill(pid, signal.SIGKILL)

    def restarted() -> bool:
        shown = scrape(run.urls["up"])
        times = shown["motet_agent_restarts_total"][("agent", "executor"),]
        return times == 1 and shown["motet_agents"] == {(("state", "ready"),): 4}

    eventually(restarted, "the executor runs again")


def test_only_metrics_are_shown(run: Run) -> None:
    for path in ("/", "/metrics/x", "/../etc/passwd"):
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            read(run.urls["planner"].removesuffix("/metrics") + path)


def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = Motet(tmp_path)("up", "--metrics-port", str(port))
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_agents_take_the_ports_behind_that_of_up() -> None:
    settings = load_settings({"metrics_port": 9_464}, environ={})
    assert [port_of_child(settings, position) for position in range(3)] == [9_465, 9_466, 9_467]
    assert "MOTET_METRICS_PORT" not in settings.environment("nats://127.0.0.1:4222", {})
    assert port_of_child(load_settings({"metrics_port": 0}, environ={}), 3) == 0
    assert port_of_child(load_settings(environ={}), 3) is None
    with pytest.raises(InvalidInputError, match="leaves too few ports"):
        port_of_child(load_settings({"metrics_port": 65_534}, environ={}), 1)
