"""What is typed, what is in the environment, what is printed: no stack trace, no command to the terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet_gateway import cli, exits
from motet_gateway.config import Settings, load_settings
from motet_gateway.render import agents_table, conversations_table, events_table, inbox, report
from motet_gateway.terminal import console, note, print_json
from motet_observability import set_up_logs
from motet_schemas import InvalidInputError
from motet_schemas.ids import check_token
from motet_schemas.printing import COMMANDS
from tests.doors.files import bombs

ESCAPE: Final = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
_ABOUT_ONE: Final = (["show"], ["watch"], ["cancel"], ["answer", "--approve"])
_BAD_IDS: Final = ["*", ">", "a.b", "", " ", "x" * 65, "a\r\nPUB x 1", "é", "\udcff", "a/b", "..", "\x1b[31m", "a\x00"]


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No command of this module reaches a store or a configuration of somebody's own."""
    for name in [name for name in os.environ if name.startswith("MOTET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MOTET_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "store").exists(), "a command that is refused starts nothing"


def _motet(*arguments: str) -> tuple[int, str, str]:
    """Run one command in this process; its exit status and what it said."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(arguments)
    said: list[str] = []
    for stream in (out, err):
        stream.seek(0)
        said.append(stream.read())
    return status, said[0], said[1]


def _refused(status: int, out: str, err: str) -> str:
    assert status == exits.BAD_INPUT, err
    assert "Traceback" not in err
    assert not COMMANDS.search(err)
    assert not COMMANDS.search(out)
    assert 0 < len(err) < 5_000
    return err


@pytest.mark.parametrize("command", _ABOUT_ONE, ids=lambda command: command[0])
@pytest.mark.parametrize("given_id", _BAD_IDS, ids=ascii)
def test_an_id_that_is_no_token_is_refused_before_anything_starts(command: list[str], given_id: str) -> None:
    name, *rest = command
    said = _refused(*_motet(name, *rest, "--", given_id))
    assert "conversation" in said


@settings(max_examples=max(10, settings.default.max_examples // 6) if settings.default else 10)
@given(words=st.lists(st.text(max_size=30) | st.sampled_from(_BAD_IDS), max_size=4), as_json=st.booleans())
def test_any_words_behind_show_are_refused_or_a_token(words: list[str], as_json: bool) -> None:
    if len(words) == 1 and _is_token(words[0]):
        return
    status, out, _ = (said := _motet("show", *(["--json"] if as_json else []), "--", *words))
    _refused(*said)
    if as_json:
        assert json.loads(out)["error"]["code"] in ("usage", "invalid_input"), status


def _is_token(text: str) -> bool:
    try:
        check_token(text, "x")
    except InvalidInputError:
        return False
    return True


@pytest.mark.parametrize("name", ["laughs.yaml", "escape.yaml", "escape.json", "key.yaml", "half-key.json", "nul.yaml"])
@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_hostile_task_file_is_one_line_and_exit_status_2(private: Path, command: str, name: str) -> None:
    (private / name).write_bytes(bombs()[name])
    assert name in _refused(*_motet(command, name))


def test_names_of_files_cannot_command_the_terminal_either(private: Path) -> None:
    task = private / "task.json"
    task.write_text(json.dumps({"kind": "content-qa", "input": {"draft": f"{ESCAPE}.md"}}))
    assert "there is no such file" in _refused(*_motet("run", "task.json"))
    assert "\\x1b" in _refused(*_motet("run", f"{ESCAPE}.yaml"))
    (private / f"{ESCAPE}.yaml").write_text("[")
    _refused(*_motet("run", f"{ESCAPE}.yaml", "--json"))


@given(
    name=st.sampled_from(sorted(Settings.model_fields)),
    value=st.text(st.characters(exclude_characters="\x00"), max_size=40)
    | st.sampled_from(["*", ">", "a.b", "nan", "inf", "1e999", "9" * 5_000, "-1", ESCAPE]),
)
def test_any_environment_is_taken_or_refused_by_name(name: str, value: str) -> None:
    try:
        load_settings(environ={f"MOTET_{name.upper()}": value})
    except InvalidInputError as error:
        _names_the_field(error, name)


def _names_the_field(error: InvalidInputError, name: str) -> None:
    assert name in error.message
    assert len(error.message) < 1_000


@pytest.mark.parametrize("value", ["*", ">", "a.b", "x" * 65, "task", "a b", "\udcff"])
def test_a_namespace_that_is_no_token_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match="namespace"):
        load_settings(environ={"MOTET_NAMESPACE": value})


# What is printed


def _printed(content: Any) -> str:
    file = io.StringIO()
    console(file).print(content)
    return file.getvalue()


def test_no_report_and_no_table_sends_what_others_wrote_to_the_terminal() -> None:
    moment = "2026-11-21T09:00:00+00:00"
    question: dict[str, Any] = {
        "conversation_id": "c",
        "kind": "k",
        **dict.fromkeys(("number", "step", "reason", "question", "asked", "on_timeout"), ESCAPE),
        "due_at": moment,
        "status": "open",
    }
    finding: dict[str, Any] = dict.fromkeys(("step", "rule", "severity", "message", "quote"), ESCAPE) | {
        "start": 0,
        "end": 1,
    }
    step: dict[str, Any] = dict.fromkeys(("id", "status", "verdict", "model"), ESCAPE) | {
        "attempts": 1, "confidence": 0.5, "min_confidence": 0.7, "elapsed_ms": 5, "tokens": None
    }  # fmt: skip
    document: dict[str, Any] = {
        "conversation_id": "c", "status": "waiting", "trace_id": "t", "brain": ESCAPE, "steps": [step],
        "report": {"verdict": "needs_human", "summary": ESCAPE, "findings": [finding], "concerns": [ESCAPE]},
        "usage": {"tokens": 1, "cost_usd": None, "attempts": 1, "elapsed_ms": 5}, "escalations": [question],
    }  # fmt: skip
    summary: dict[str, Any] = dict.fromkeys(("conversation_id", "kind", "owner", "status", "verdict"), ESCAPE)
    summary |= {"submitted_at": moment, "questions": 1}
    fact: dict[str, Any] = {
        "seq": 1,
        "subject": ESCAPE,
        "time": moment,
        "cause": None,
        "source": ESCAPE,
        "unreadable": ESCAPE,
    }
    card: dict[str, Any] = dict.fromkeys(("role", "instance", "version"), ESCAPE) | {
        "pid": 1, "draining": False, "started_at": moment,
        "consumers": [{"name": ESCAPE, "pending": None, "in_flight": 0, "paused": True}],
    }  # fmt: skip
    for shown in (
        report(document, "draft", [ESCAPE]),
        conversations_table([summary]),
        events_table([fact]),
        agents_table([card]),
        inbox([question], [[ESCAPE]]),
    ):
        assert not COMMANDS.search(_printed(shown).replace("\r", "")), shown


def test_json_and_notes_and_log_lines_are_tame_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({ESCAPE: [ESCAPE, "\ud800 half"]})
    printed = capsys.readouterr().out
    assert not COMMANDS.search(printed)
    assert json.loads(printed) == {ESCAPE: [ESCAPE, "\ud800 half"]}
    note(f"motet: {ESCAPE}")
    set_up_logs("info", "console")
    import structlog

    structlog.get_logger("doors").warning("roll_call.unreadable", subject=ESCAPE, other=3)
    said = capsys.readouterr().err
    assert "owned" in said
    assert "\x1b]0;" not in said
    assert "\x9b" not in said


def test_standard_input_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:] = b"\xff" * len(buffer)
            return len(buffer)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    assert "1 MiB" in _refused(*_motet("answer", "c", "--take-over", "-"))
