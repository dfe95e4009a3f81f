"""Log lines: a stable action, context bound once, quiet while all is well, and no secret in any of them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from motet_observability import LogFormat, set_up_logs
from motet_observability.log_redaction import redacted
from tests.gateway.command import EXAMPLES, Motet

_SEED = "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
_SECRETS = {
    "password": "hunter2-x",
    "nats_token": "hunter2-x",
    "client_secret": "hunter2-x",
    "Authorization": "hunter2-x",
    "api_key": "hunter2-x",
    "X-API-Key": "hunter2-x",
    "nkey": "hunter2-x",
    "seed": "hunter2-x",
    "private_key": "hunter2-x",
    "url": "nats://motet:hunter2-x@127.0.0.1:4222",
    "error": "cannot reach nats://motet:hunter2-x@127.0.0.1:4222/x?y=1",
    "said": "it answered: password=hunter2-x, and went",
    "header": "Bearer hunter2-x.yes",
    "nested": {"deeper": [{"password": "hunter2-x"}, "tls://a:hunter2-x@b"]},
    "raw": b"nats://a:hunter2-x@b",
    "thing": Exception("nats://a:hunter2-x@b"),
}


@pytest.fixture
def logs_as(capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    """Set logs up for one test."""
    handlers = list(logging.getLogger().handlers)
    yield set_up_logs
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


@pytest.mark.usefixtures("logs_as")
@pytest.mark.parametrize("form", ["console", "json"])
def test_no_secret_gets_into_a_line_whoever_writes_it_and_however_it_is_said(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs("info", form)
    log = structlog.get_logger()
    log.info("test.secrets", **_SECRETS, token=_SEED, text=f"the seed {_SEED} and sk-abcdefghijklmnopqrst")
    try:
        raise OSError("nats://motet:hunter2-x@127.0.0.1 refused")
    except OSError:
        log.exception("test.failed")
    logging.getLogger("a.library").warning("lost %s", "nats://motet:hunter2-x@127.0.0.1")
    written = capsys.readouterr().err
    assert written.count("test.secrets") == written.count("test.failed") == written.count("library.logged") == 1
    assert "hunter2" not in written
    assert _SEED not in written
    assert "sk-abc" not in written
    assert "127.0.0.1:4222" in written, "what is no secret stays"


def test_what_is_no_secret_stays_as_it_is() -> None:
    line = {"tokens": 3, "tokens_in": 7, "max_tokens": 9, "consumer": "step-tone", "ok": True, "at": None, "n": 1.5}
    assert {name: redacted(value, name) for name, value in line.items()} == line
    assert redacted("see https://example.com/a?b=c#d") == "see https://example.com/a?b=c#d"


def test_what_is_nested_without_end_is_left_out() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "***" in repr(redacted(endless))


@pytest.mark.timeout(60)
def test_a_run_without_trouble_says_nothing_of_single_events_at_info(tmp_path: Path) -> None:
    motet = Motet(tmp_path, MOTET_LOG_LEVEL="info")
    motet.json("run", EXAMPLES / "flawed" / "task.yaml", "--quiet")
    lines = _lines(motet.store)
    assert {line["level"] for line in lines} == {"info"}
    assert not [line for line in lines if "conversation" in line]
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", str(line["event"])) for line in lines)


@pytest.mark.timeout(60)
def test_at_debug_every_line_of_a_handler_says_conversation_step_attempt_and_trace(tmp_path: Path) -> None:
    motet = Motet(tmp_path, MOTET_LOG_LEVEL="debug")
    result = motet.json("run", EXAMPLES / "flawed" / "task.yaml", "--quiet")
    handled = [line for line in _lines(motet.store) if line["event"] == "event.handling"]
    assert {line["conversation"] for line in handled} == {result["conversation_id"]}
    assert {line["trace_id"] for line in handled} == {result["trace_id"]}
    of_steps = [line for line in handled if line["kind"] == "step.ready"]
    assert {(line["step"], line["attempt"]) for line in of_steps} == {("tone", 1), ("compliance", 1), ("links", 1)}


def test_python_that_never_set_logs_up_is_left_alone() -> None:
    code = "import motet_bus, motet_observability, logging; print(logging.getLogger().handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def _lines(store: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in (store / "logs").glob("*.log") for line in path.read_text().splitlines()]
