"""Reports, tables and progress for people: quotes with their place, and nothing that commands the terminal."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from rich.console import RenderableType

from motet_gateway.answers import how_to_answer
from motet_gateway.documents import event_documents, run_document
from motet_gateway.invocation import Invocation
from motet_gateway.progress import changes, live_view, showing_progress
from motet_gateway.render import (
    agents_table,
    conversations_table,
    events_table,
    findings_of_doctor,
    inbox,
    place_of,
    report,
)
from motet_gateway.terminal import console, one_line
from motet_schemas import Conversation, StepExpired, fold_all
from motet_schemas.printing import printable
from tests.gateway.recorded import DRAFT, START, TONE, Recorded, ambiguous, clean, flawed


@pytest.fixture(autouse=True)
def _no_columns(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.delenv("COLUMNS", raising=False)


def _text(content: RenderableType) -> str:
    file = io.StringIO()
    console(file).print(content, crop=False)
    return file.getvalue()


def _summary(**changed: Any) -> dict[str, Any]:
    return {
        "conversation_id": "content-qa-7d3a2c6dd6",
        "kind": "content-qa",
        "owner": "brand-team",
        "submitted_at": START.isoformat(),
        "status": "waiting",
        "verdict": "needs_human",
        "questions": 1,
        **changed,
    }


@pytest.mark.parametrize(
    ("offset", "place"), [(0, (1, 1)), (1, (1, 2)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (5, (3, 2)), (7, (3, 4))]
)
def test_an_offset_is_a_line_and_a_column(offset: int, place: tuple[int, int]) -> None:
    assert place_of("ab\n\ncde", offset) == place


def test_a_report_shows_findings_as_quotes_with_their_place() -> None:
    shown = _text(report(run_document(flawed().state), DRAFT))
    assert "launch · completed · changes needed" in shown
    assert "error   3:3      compliance.forbidden" in shown
    assert "“risk-free”" in shown
    assert "missing  compliance.required" in shown
    assert "brain rule-based" in shown


def test_a_report_without_the_draft_still_says_where() -> None:
    assert f"offset {DRAFT.index('risk-free')}" in _text(report(run_document(flawed().state)))


def test_a_waiting_report_says_how_to_answer_with_the_very_command() -> None:
    state = ambiguous().state
    invocation = Invocation(json=False, flags={"store": "my store", "namespace": None})
    shown = _text(report(run_document(state), DRAFT, how_to_answer(invocation, state)))
    assert "motet answer launch --approve --wait --store 'my store'" in shown
    assert "--revise 'TEXT', --reject, --take-over FILE" in shown
    assert "silence means reject" in shown


def test_several_questions_are_told_apart_by_number() -> None:
    state = ambiguous().asked(2, step=None, reason="time_exhausted").state
    lines = how_to_answer(Invocation(json=False, flags={}), state)
    assert any("--number 1" in line for line in lines)
    assert any("--number 2" in line for line in lines)


def test_unknown_is_shown_as_unknown() -> None:
    recorded = Recorded().submitted().planned(TONE).done(TONE, tokens=None, confidence=None)
    shown = _text(report(run_document(recorded.state)))
    assert "unknown, not 0.70" in shown
    assert "cost unknown" in shown


def test_nothing_that_others_wrote_commands_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\x9b") == "a\\x1b[2Jb\\x07\\x9b"
    assert printable("tab\tline\nend\r\n") == "tab\tline\nend\n"
    assert printable("abc\u202edef") == "abc\\u202edef"
    assert one_line("x" * 500, 10) == "x" * 9 + "…"
    document = run_document(flawed().state)
    document["report"]["findings"][1]["quote"] = "\x1b]0;owned\x07"
    document["report"]["concerns"] = ["[red]markup[/red] \x1b[31m"]
    shown = _text(report(document))
    assert "\x1b" not in shown
    assert "[red]markup[/red]" in shown


def test_tables_show_what_there_is() -> None:
    assert "launch" in _text(conversations_table([_summary(conversation_id="launch", owner=None)]))
    assert "no conversations" in _text(conversations_table([]))
    assert "no agent answers" in _text(agents_table([]))
    assert "nobody is asked" in _text(inbox([], []))
    assert "step.claimed.launch.tone.1" in _text(events_table(event_documents(clean().events)))


@pytest.mark.parametrize("columns", ["", "0", "wide"])
def test_nothing_is_cut_where_nobody_watches(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    long = "word " * 300 + "end"
    document = run_document(ambiguous().state)
    document["report"]["concerns"] = [long]
    document["escalations"][0]["question"] = long
    lines = _text(report(document, answers=[long])).splitlines()
    assert [line.strip() for line in lines].count(long) == 2
    assert f"  - {long}" in [line.rstrip() for line in lines]
    assert f"{'o' * 300}  " in _text(conversations_table([_summary(owner="o" * 300)]))
    assert "…" not in _text(conversations_table([_summary(conversation_id="c" * 300)]))


def test_columns_says_how_wide_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = _text(report({**run_document(flawed().state), "brain": "word " * 40}))
    assert max(len(line) for line in shown.splitlines()) <= 60
    assert shown.count("word") == 40


@pytest.mark.parametrize("columns", [140, 80, 60, 30])
def test_a_table_that_is_too_wide_gives_up_what_is_worth_least(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = _text(conversations_table([_summary(), _summary(verdict="changes_needed", status="completed")]))
    lines = shown.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= columns
    assert ("questions" in lines[0], "brand-team" in lines[1]) == (columns == 140, columns == 140)
    assert ("needs human" in lines[1], "content-qa-7d3a2c6dd6" in lines[1]) == (columns >= 60, columns >= 60)
    assert (lines[1].count("…") > 0) == (columns in (80, 30))


def test_what_the_doctor_found_is_indented_where_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    finding = {"status": "warn", "name": "clock", "found": "word " * 10, "advice": "deed " * 10}
    first, *others = _text(findings_of_doctor([finding])).splitlines()
    assert first.startswith("warn     clock: word")
    assert all(line.startswith(" " * 9) for line in others)


@pytest.mark.parametrize(
    ("status", "heading"),
    [
        ("completed", "launch · completed · changes needed"),
        ("waiting", "launch · waiting · changes needed"),
        ("running", "launch · running"),
        ("cancelled", "launch · cancelled"),
        ("failed", "launch · failed"),
    ],
)
def test_only_what_completed_or_waits_has_a_verdict(status: str, heading: str) -> None:
    document = {**run_document(flawed().state), "status": status}
    assert _text(report(document)).splitlines()[0] == heading
    listed = _text(conversations_table([_summary(status=status, verdict="changes_needed")]))
    assert ("changes needed" in listed) == ("changes needed" in heading)


def test_plain_progress_says_each_thing_once() -> None:
    recorded = ambiguous()
    before = Conversation(id="launch")
    lines: list[str] = []
    for end in range(1, len(recorded.events) + 1):
        after = fold_all("launch", recorded.events[:end])
        lines += changes(before, after)
        before = after
    assert lines == [
        "launch: submitted (content-qa)",
        "plan 1: tone, compliance",
        "tone, attempt 1: claimed by executor-1",
        "tone, attempt 1: passed, confidence 0.99 ≥ 0.70, 120 ms",
        "tone, attempt 1: verification passed",
        "compliance, attempt 1: claimed by executor-1",
        "compliance, attempt 1: passed, confidence 0.60 < 0.70, 120 ms",
        "compliance, attempt 1: verification passed",
        "question 1: Is it good enough?",
    ]
    assert lines == changes(Conversation(id="launch"), before)


def test_a_lost_claim_is_told() -> None:
    recorded = Recorded().submitted().planned().ready(TONE).claimed(TONE)
    recorded.record("step.expired", "tone", 1, data=StepExpired(owner="executor-1", reason="ttl: it fell silent"))
    assert "tone, attempt 1: claim lost: ttl: it fell silent" in changes(Conversation(id=""), recorded.state)


def test_the_live_view_shows_state_attempt_confidence_time_tokens_and_budget() -> None:
    recorded = Recorded().submitted().planned().done(TONE)
    recorded.ready(recorded.state.plan.steps[1]).claimed(recorded.state.plan.steps[1])  # type: ignore[union-attr]
    view = live_view(recorded.state, {("compliance", 1): 90.0}, START + timedelta(seconds=31), 95.0)
    shown = _text(view)
    assert "done" in shown
    assert "0.99 ≥ 0.70" in shown
    assert "working" in shown
    assert "5 s" in shown
    assert "2/6" in shown
    assert "0/6,000" in shown
    assert "30/240" in shown


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_live_table_and_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for file, expected in ((_Terminal(), "0.60 < 0.70"), (io.StringIO(), "plan 1: tone, compliance\n")):
        monkeypatch.setattr("sys.stderr", file)
        with showing_progress() as watcher:
            watcher(ambiguous().state)
        assert expected in file.getvalue()
    monkeypatch.setattr("sys.stderr", silent := io.StringIO())
    with showing_progress(quiet=True) as watcher:
        watcher(ambiguous().state)
    assert silent.getvalue() == ""


def test_the_table_of_agents_shows_lag_and_what_an_operator_holds_back() -> None:
    pause = {"until": None, "by": "ann", "reason": "a look", "at": None}
    paused = {"name": "step-tone", "capability": "tone", "pending": 3, "paused": pause, "in_flight": 1}
    gone = {"name": "gone", "capability": None, "pending": None, "paused": None, "in_flight": 0}
    agent: dict[str, Any] = {
        "role": "executor",
        "pid": 7,
        "instance": "executor-1",
        "name": "executor",
        "version": "0.1.0",
        "started_at": START.isoformat(),
        "draining": True,
        "consumers": [paused, gone],
    }
    shown = _text(agents_table([agent]))
    assert "step-tone (paused)" in shown
    assert "gone  " in shown
    assert shown.count("executor-1 (draining)") == 1


def test_the_live_view_starts_before_there_is_a_plan() -> None:
    assert "planning" in _text(live_view(Recorded().submitted().state, {}, START, 0.0))
    assert "? Is it good enough?" in _text(live_view(ambiguous().state, {}, START, 0.0))
