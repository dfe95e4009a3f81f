"""A collector in trouble slows nobody down, fills no log, and keeps no process from ending."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog

from motet_gateway.trace_export import trace_export_from
from motet_observability.export_health import ExportHealth
from motet_observability.tracing import TraceExport
from motet_schemas import InvalidInputError
from tests.gateway.command import Motet
from tests.observability.collectors import TROUBLES, bad_collector
from tests.observability.receiver import otlp_receiver

pytestmark = pytest.mark.slow

_NEVER_S = 10.0
"""Far below the 30 s and more that the SDK takes by itself, far above the 2 s that are promised."""

_EXPORTS = """
import json, os, sys, threading, time
from opentelemetry import trace
from motet_gateway.trace_export import trace_export_from
from motet_observability import set_up_logs, set_up_tracing
from motet_observability.export_health import ExportHealth
failures = threading.Semaphore(0)
class Counted(ExportHealth):
    def failed(self, items, reason):
        super().failed(items, reason)
        failures.release()
import motet_observability.export_health as health
health.ExportHealth = Counted
set_up_logs("info", "json")
tracing = set_up_tracing("motet-test", trace_export_from(os.environ))
tracer = trace.get_tracer("motet")
started = time.monotonic()
for number in range(2_000):
    tracer.start_span(f"span {number}").end()
made_s = time.monotonic() - started
for _ in range(int(sys.argv[1])):
    failures.acquire(timeout=60)
started = time.monotonic()
tracing.finish()
print(json.dumps({"made_s": made_s, "finished_s": time.monotonic() - started}))
"""


def _export(
    url: str, environment: dict[str, str], *, after_failures: int = 0
) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Make 2,000 spans in a process of its own; return what it measured and what it logged."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", _EXPORTS, str(after_failures)],
        env={**inherited, "OTEL_EXPORTER_OTLP_ENDPOINT": url, **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured, [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("trouble", ["is down", *TROUBLES])
def test_a_collector_in_trouble_neither_floods_the_log_nor_holds_up_the_end(trouble: str, protocol: str) -> None:
    with bad_collector(trouble) as url:
        waits = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.5", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        measured, lines = _export(url, {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **waits}, after_failures=2)
    assert measured["finished_s"] < _NEVER_S
    actions = [line["event"] for line in lines]
    assert actions.count("tracing.export_failed") == 1, lines
    assert set(actions) <= {"tracing.started", "tracing.export_failed", "tracing.not_sent", "telemetry.sdk"}
    assert len(actions) <= 6


def test_a_collector_that_was_never_heard_from_is_waited_for_at_the_end_for_a_moment_only() -> None:
    with bad_collector("hangs") as url:
        measured, lines = _export(url, {"OTEL_BSP_SCHEDULE_DELAY": "60000"})
    assert measured["finished_s"] < _NEVER_S
    assert "tracing.not_sent" in [line["event"] for line in lines]


@pytest.mark.timeout(90)
def test_agents_end_in_time_although_their_collector_hangs(tmp_path: Path) -> None:
    with bad_collector("hangs") as url:
        motet = Motet(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url)
        with motet.started("up", "--json") as up:
            assert up.stdout is not None
            json.loads(up.stdout.readline())
            started = time.monotonic()
            up.send_signal(signal.SIGTERM)
            up.communicate(timeout=60)
    assert time.monotonic() - started < 2 * _NEVER_S


def test_http_export_is_compressed_and_bears_the_headers_asked_for() -> None:
    with otlp_receiver() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=motet", "OTEL_BSP_MAX_QUEUE_SIZE": "30000"}
        _export(receiver.url, environment)
    assert len(receiver.spans) == 2_000
    assert {(one["content-encoding"], one["x-tenant"]) for one in receiver.requests} == {("gzip", "motet")}
    assert {span.service for span in receiver.spans} == {"motet-test"}


def test_grpc_export_sends_everything() -> None:
    with otlp_receiver(grpc=True) as receiver:
        environment = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_BSP_MAX_QUEUE_SIZE": "30000"}
        _export(receiver.grpc_url, environment)
    assert len(receiver.spans) == 2_000


def test_without_the_extra_grpc_is_refused_with_what_to_install() -> None:
    code = (
        "import sys; sys.modules['grpc'] = None\n"
        "from motet_observability import TraceExport, set_up_tracing\n"
        "from motet_schemas import InvalidInputError\n"
        "try:\n    set_up_tracing('x', TraceExport(endpoint='http://127.0.0.1:4317', protocol='grpc'))\n"
        "except InvalidInputError as error:\n    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert "pip install 'motet[grpc]'" in done.stdout


def test_a_failing_export_is_told_when_it_begins_once_a_minute_and_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    structlog.reset_defaults()
    monkeypatch.setattr("motet_observability.export_health.log", structlog.get_logger())
    now = 0.0
    health = ExportHealth("tracing", "http://me:secret@collector:4318", clock=lambda: now)
    with structlog.testing.capture_logs() as lines:
        health.sent()
        for second in range(0, 150, 10):
            now = float(second)
            health.failed(5, "refused")
        assert health.failing
        health.sent()
        health.sent()
    assert [line["event"].split(".")[1] for line in lines] == ["export_failed"] * 3 + ["export_resumed"]
    assert [line["lost"] for line in lines] == [5, 35, 65, 75]
    assert "secret" not in repr(lines)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, TraceExport(endpoint="http://c:4318/v1/traces")),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, TraceExport(endpoint="http://c/x")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            TraceExport(endpoint="c:4317", protocol="grpc"),
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.25",
                "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "99",
            },
            TraceExport(
                endpoint="http://c:4318/v1/traces",
                ratio=0.25,
                compression="none",
                timeout_s=3.0,
                schedule_delay_ms=200,
                attribute_length=99,
            ),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_SAMPLER": "always_off"},
            TraceExport(endpoint="http://c:4318/v1/traces", ratio=0.0),
        ),
    ],
)
def test_opentelemetrys_own_variables_keep_their_meaning(environ: dict[str, str], expected: TraceExport | None) -> None:
    assert trace_export_from(environ) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ],
)
def test_what_a_variable_cannot_mean_is_refused_by_its_name(name: str, value: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_SAMPLER": "traceidratio", name: value}
    with pytest.raises(InvalidInputError) as refused:
        trace_export_from(environ)
    assert refused.value.field == name
    assert value in refused.value.message
