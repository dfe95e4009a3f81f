"""One conversation is one trace, across processes; nothing is exported that was not asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motet_bus import root_span_id, trace_id
from motet_observability import set_up_tracing
from tests.observability.receiver import otlp_receiver

_ROOT = Path(__file__).parents[2]
_IN_THE_DRAFT = "risk-free"


def _run(store: Path, **environment: str) -> dict[str, object]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "MOTET_"))}
    task = _ROOT / "examples/content-qa/flawed/task.yaml"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("motet")), "run", str(task), "--json", "--quiet", "--store", str(store)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.timeout(90)
def test_a_run_is_one_trace_whose_spans_hang_together(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        result = _run(tmp_path / "store", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    conversation = str(result["conversation_id"])
    spans = [span for span in receiver.spans if span.trace == trace_id(conversation)]

    assert result["trace_id"] == trace_id(conversation)
    assert len(spans) == len(receiver.spans)
    assert {span.service for span in spans} == {
        "motet-orchestrator",
        "motet-planner",
        "motet-executor",
        "motet-verifier",
    }
    known = {span.id for span in spans} | {root_span_id(conversation)}
    assert [span for span in spans if span.parent not in known] == []
    assert len({span.id for span in spans}) == len(spans)
    kinds = {span.attributes["messaging.destination.template"] for span in spans}
    assert {"task.submitted", "plan.requested", "step.ready", "step.executed", "verify.passed"} <= kinds
    assert _IN_THE_DRAFT not in repr(spans), "content of the draft must not be part of a trace"


@pytest.mark.timeout(90)
def test_a_collector_that_is_down_neither_slows_nor_breaks_a_run(tmp_path: Path) -> None:
    started = time.monotonic()
    result = _run(tmp_path / "store", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert result["status"] == "completed"
    assert time.monotonic() - started < 45


def test_without_an_endpoint_nothing_of_the_sdk_is_imported() -> None:
    code = (
        "import sys; from motet_observability import set_up_tracing; set_up_tracing('x', endpoint=None)();"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_finishing_without_an_exporter_does_nothing() -> None:
    finish = set_up_tracing("x", endpoint="")
    finish()
    assert finish.__name__ == "_nothing"
