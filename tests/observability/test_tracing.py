"""One conversation is one trace, across processes; nothing is exported that was not asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from opentelemetry import trace

from motet_observability import set_up_tracing

_ROOT = Path(__file__).parents[2]


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
def test_a_collector_that_is_down_neither_slows_nor_breaks_a_run(tmp_path: Path) -> None:
    started = time.monotonic()
    result = _run(tmp_path / "store", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert result["status"] == "completed"
    assert time.monotonic() - started < 45


def test_without_an_endpoint_nothing_of_the_sdk_is_imported() -> None:
    code = (
        "import sys; from motet_observability import set_up_tracing; set_up_tracing('x', None).finish();"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_without_an_export_there_is_nothing_to_send() -> None:
    tracing = set_up_tracing("x", None)
    tracing.flush()
    tracing.finish()
    assert not trace.get_tracer("x").start_span("nothing").is_recording()
