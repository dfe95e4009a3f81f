"""A process that is killed takes no span with it: whoever starts next tells what it had done and what it had begun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from motet_bus import trace_id
from motet_observability import TraceExport
from motet_observability.span_spool import KILLED, SpanSpool, recover
from motet_observability.tracing import provider_for
from tests.gateway.command import Motet, Pages, eventually, slow_task
from tests.observability.collectors import bad_collector
from tests.observability.jaeger import drawn
from tests.observability.receiver import Receiver, otlp_receiver
from tests.observability.tree import fetched

pytestmark = pytest.mark.slow

_WORKS = """
import os, signal, sys
from pathlib import Path
from opentelemetry import trace
from motet_observability import TraceExport, set_up_tracing
endpoint, folder, end = sys.argv[1:]
tracing = set_up_tracing("motet-victim", TraceExport(endpoint=endpoint, spool=Path(folder), schedule_delay_ms=60_000))
tracer = trace.get_tracer("motet")
with tracer.start_as_current_span("ended", attributes={"n": 1, "word": "ü"}) as ended:
    pass
again = trace.Link(ended.get_span_context(), {"motet.link": "test"})
with tracer.start_as_current_span("begun", links=[again]):
    os.kill(os.getpid(), signal.SIGKILL) if end == "kill" else tracing.finish()
"""


def _work(receiver: Receiver, folder: Path, end: str) -> int:
    command = [sys.executable, "-c", _WORKS, f"{receiver.url}/v1/traces", str(folder), end]
    return subprocess.run(command, timeout=30, check=False).returncode


def test_the_next_process_tells_what_a_killed_one_had_done_and_begun(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        assert _work(receiver, tmp_path, "kill") == -signal.SIGKILL
        assert receiver.spans == []
        _, tracing = provider_for("motet-heir", TraceExport(endpoint=f"{receiver.url}/v1/traces", spool=tmp_path))
        receiver.wait_for(lambda spans: len(spans) == 2)
        tracing.finish()
    ended, begun = receiver.spans
    assert (ended.service, ended.name, ended.error) == ("motet-victim", "ended", False)
    assert ended.attributes == {"n": 1, "word": "ü"}
    assert (begun.name, begun.error, begun.attributes["error.type"]) == ("begun", True, KILLED)
    assert begun.end_ns >= begun.start_ns >= ended.end_ns
    assert [(link.id, link.attributes) for link in begun.links] == [(ended.id, {"motet.link": "test"})]
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_in_good_order_leaves_nothing_behind(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        assert _work(receiver, tmp_path, "finish") == 0
        assert [span.name for span in receiver.spans] == ["ended"]
    assert list(tmp_path.iterdir()) == []


def test_what_was_sent_is_crossed_off_and_the_file_stays_small(tmp_path: Path) -> None:
    spool = SpanSpool(tmp_path, "http://c", Resource({}), most=10_000)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(spool)
    tracer = provider.get_tracer("motet")
    kept = tracer.start_span("kept")
    for _ in range(20):
        spans: list[Any] = [tracer.start_span("sent", attributes={"text": "x" * 500}) for _ in range(100)]
        for span in spans:
            span.end()
        spool.settled(spans)
    [path] = tmp_path.iterdir()
    assert path.stat().st_size < 600_000
    kept.end()
    names = {json.loads(line).get("name") for line in path.read_text().splitlines()[1:]}
    assert "kept" in names
    spool.settled([kept])  # type: ignore[list-item]
    assert len(path.read_text().splitlines()) == 1
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_keeps_is_its_own(tmp_path: Path) -> None:
    living, heir = (SpanSpool(tmp_path, "http://c", Resource({}), most=10) for _ in range(2))
    sent: list[object] = []

    def take(spans: object) -> bool:
        sent.append(spans)
        return True

    assert recover(tmp_path, "http://c", take) == 0
    assert sent == []
    living.close()
    heir.close()


def test_a_file_cut_short_by_the_kill_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        _work(receiver, tmp_path, "kill")
        [path] = tmp_path.iterdir()
        with path.open("ab") as file:
            file.write(b'{"trace":1,"id":2,"na')
        _, tracing = provider_for("motet-heir", TraceExport(endpoint=f"{receiver.url}/v1/traces", spool=tmp_path))
        receiver.wait_for(lambda spans: len(spans) == 2)
        tracing.finish()


def test_what_the_collector_does_not_take_waits_for_a_day_at_most(tmp_path: Path) -> None:
    spool = SpanSpool(tmp_path, "http://c", Resource({}), most=10)
    left = tmp_path / f"{next(tmp_path.iterdir()).name[:16]}-1-ab.spans"
    with otlp_receiver() as receiver:
        _work(receiver, tmp_path / "other", "kill")
    [found] = (tmp_path / "other").iterdir()
    left.write_bytes(found.read_bytes())
    assert recover(tmp_path, "http://c", lambda _: False) == 0
    assert left.exists()
    two_days_ago = time.time() - 200_000
    os.utime(left, (two_days_ago, two_days_ago))
    assert recover(tmp_path, "http://c", lambda _: False) == 0
    assert not left.exists()
    spool.close()


@pytest.mark.chaos
@pytest.mark.timeout(150)
@pytest.mark.parametrize("role", ["orchestrator", "planner", "executor", "verifier"])
def test_whoever_is_killed_right_after_its_work_the_tree_has_no_orphan(tmp_path: Path, role: str) -> None:
    with otlp_receiver() as receiver, Pages() as pages:
        # Nothing is sent before the kill.
        motet = Motet(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_BSP_SCHEDULE_DELAY="60000",
            MOTET_CLAIM_TTL_S="1",
        )
        task = slow_task(tmp_path, pages, "killed")
        with motet.started("run", task, "--json") as process:
            eventually(lambda: (motet.store / "bus.json").exists(), "the bus is there")
            eventually(
                lambda: "step.claimed.killed.links.1" in motet("show", "killed", "--json").stdout, "it is claimed"
            )
            for agent in motet.json("agents"):
                if agent["role"] == role:
                    os.kill(agent["pid"], signal.SIGKILL)
            pages.released.set()
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        tree = fetched(receiver, trace_id(json.loads(out)["conversation_id"]))
    assert (len(tree.roots), tree.orphans, tree.twice) == (1, [], []), drawn(tree)
    assert len(tree.services) == 5


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    from motet_schemas import InvalidInputError

    (tmp_path / "file").write_text("")
    with bad_collector("is down") as url, pytest.raises(InvalidInputError, match="MOTET_SPAN_SPOOL"):
        provider_for("motet-x", TraceExport(endpoint=url, spool=tmp_path / "file"))
