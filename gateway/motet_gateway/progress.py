"""Progress of one conversation, live: a table in a terminal, plain lines elsewhere. All on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, Protocol

from motet_gateway.render import confidence
from motet_gateway.terminal import console, note, one_line
from motet_schemas import Attempt, Conversation, PlanStep
from motet_schemas.printing import printable
from motet_schemas.standing import (
    attempts_allowed,
    attempts_made,
    budget_of,
    granted,
    known_usage,
    open_questions,
    step_status,
    total_usage,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_STYLES: Final = {"done": "green", "failed": "red", "waiting": "yellow", "claimed": "cyan", "executed": "cyan"}
_WORDS: Final = {"claimed": "working", "executed": "verifying", "void": "dropped"}
_REFRESHES_PER_S: Final = 8
_BAR: Final = 6


class Watcher(Protocol):
    """Is told of every state of a conversation."""

    def __call__(self, state: Conversation) -> None: ...


@contextmanager
def showing_progress(*, quiet: bool = False) -> Generator[Watcher]:
    """Show progress on standard error for as long as the context lasts, in the way that suits it."""
    if quiet:
        yield _Silent()
    elif sys.stderr.isatty():
        with _live() as table:
            yield table
    else:
        yield PlainLines()


class _Silent:
    def __call__(self, state: Conversation) -> None:
        """Say nothing."""


class PlainLines:
    """Says in a line what is new since the last state."""

    def __init__(self) -> None:
        self._before = Conversation(id="")

    def __call__(self, state: Conversation) -> None:
        """Print what is new."""
        for line in changes(self._before, state):
            note(line)
        self._before = state


def changes(before: Conversation, after: Conversation) -> list[str]:
    """Return what happened between two states of a conversation, a line each."""
    lines: list[str] = []
    if before.task is None and after.task is not None:
        lines.append(f"{after.id}: submitted ({after.task.kind})")
    if after.plan is not None and after.plan_revision != before.plan_revision:
        lines.append(f"plan {after.plan_revision}: {', '.join(step.id for step in after.plan.steps)}")
    for number, revision in after.revisions.items():
        known = before.revisions.get(number)
        if revision.refusal and (known is None or not known.refusal):
            lines.append(f"plan {number}: refused: {one_line(revision.refusal)}")
    for step in after.plan.steps if after.plan else ():
        for attempt in after.opened(step.id):
            lines += _attempt_changes(before.attempt(step.id, attempt.number), attempt, step)
    for number, question in sorted(after.questions.items()):
        known_question = before.questions.get(number)
        if known_question is None and question.raised is not None:
            lines.append(f"question {number}: {one_line(question.raised.question, 300)}")
        if question.decision is not None and (known_question is None or known_question.decision is None):
            lines.append(f"question {number}: answered: {question.decision}")
    if after.ending is not None and before.ending is None:
        lines.append(f"{after.id}: {after.ending.status}, {after.ending.report.verdict}")
    return lines


def _attempt_changes(before: Attempt | None, after: Attempt, step: PlanStep) -> list[str]:
    name = f"{step.id}, attempt {after.number}"
    lines: list[str] = []
    if after.claim is not None and (before is None or before.claim is None):
        lines.append(f"{name}: claimed by {printable(after.claim.owner)}")
    if after.lost is not None and (before is None or before.lost is None):
        lines.append(f"{name}: claim lost: {one_line(after.lost.reason)}")
    if after.record is not None and (before is None or before.record is None):
        record = after.record
        found = f", {len(record.findings)} finding(s)" if record.findings else ""
        sure = f"confidence {confidence(record.confidence, step.min_confidence)}"
        lines.append(f"{name}: {record.status}, {sure}{found}, {record.elapsed_ms} ms")
    if after.verification is not None and (before is None or before.verification is None):
        lines.append(f"{name}: verification {after.verification.verdict}")
    return lines


class _LiveTable:
    """The table and the budget bar; drawn anew several times a second, so that clocks tick."""

    def __init__(self) -> None:
        self._state: Conversation | None = None
        self._since: dict[tuple[str, int], float] = {}

    def __call__(self, state: Conversation) -> None:
        self._state = state
        for attempts in state.attempts.values():
            for attempt in attempts:
                if attempt.claim is not None:
                    self._since.setdefault((attempt.step, attempt.number), time.monotonic())

    def __rich__(self) -> Group | str:
        if self._state is None:
            return "starting the agents…"
        return live_view(self._state, self._since, datetime.now(UTC), time.monotonic())


@contextmanager
def _live() -> Generator[_LiveTable]:
    from rich.live import Live

    table = _LiveTable()
    with Live(table, console=console(sys.stderr), refresh_per_second=_REFRESHES_PER_S, transient=True):
        yield table


def live_view(state: Conversation, since: dict[tuple[str, int], float], now: datetime, monotonic_s: float) -> Group:
    """Return the picture of a running conversation. `since` says when (monotonic seconds) attempts were first seen."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = [Text(f"{state.id} · {state.task.kind if state.task else '…'}", style="bold")]
    parts.append(_steps_table(state, since, monotonic_s) if state.plan else Text("planning…", style="dim"))
    parts.append(_budget_line(state, now))
    parts += [
        Text(f"? {one_line(question.raised.question, 300)}", style="yellow")
        for question in open_questions(state)
        if question.raised is not None
    ]
    return Group(*parts)


def _steps_table(state: Conversation, since: dict[tuple[str, int], float], monotonic_s: float) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("step", "state", "attempt", "confidence", "time", "tokens"):
        justify: Literal["left", "right"] = "left" if heading in ("step", "state") else "right"
        table.add_column(heading, justify=justify, header_style="dim", no_wrap=True)
    for step in state.plan.steps if state.plan else ():
        status = step_status(state, step)
        attempts = state.opened(step.id)
        last = attempts[-1] if attempts else None
        records = [attempt.record for attempt in attempts if attempt.record is not None]
        tokens = total_usage([record.usage for record in records]).tokens if records else None
        table.add_row(
            step.id,
            Text(_WORDS.get(status, status), style=_STYLES.get(status, "dim")),
            f"{attempts_made(state, [step.id])}/{step.max_attempts}",
            confidence(last.record.confidence, step.min_confidence) if last and last.record else "",
            _elapsed(last, since, monotonic_s),
            "" if not records else "?" if tokens is None else f"{tokens:,}",
        )
    return table


def _elapsed(last: Attempt | None, since: dict[tuple[str, int], float], monotonic_s: float) -> str:
    if last is None:
        return ""
    if last.record is not None:
        return f"{last.record.elapsed_ms / 1000:.1f} s"
    started = since.get((last.step, last.number))
    return "" if started is None else f"{monotonic_s - started:.0f} s"


def _budget_line(state: Conversation, now: datetime) -> Text:
    from rich.text import Text

    budget = budget_of(state)
    allowed_tokens = budget.max_tokens * (1 + granted(state, "tokens_exhausted"))
    allowed_s = budget.time_budget_s * (1 + granted(state, "time_exhausted"))
    spent_s = 0.0
    if state.submitted_at is not None:
        until = state.waiting_since or now
        spent_s = max(0.0, (until - state.submitted_at - state.waited).total_seconds())
    line = Text()
    for name, spent, allowed in (
        ("attempts", attempts_made(state), attempts_allowed(state)),
        ("tokens", known_usage(state)[0], allowed_tokens),
        ("seconds", round(spent_s), allowed_s),
    ):
        share = min(1.0, spent / allowed) if allowed else 1.0
        filled = round(share * _BAR)
        line.append(f"{name} ", style="dim")
        line.append("━" * filled, style="red" if share > 0.9 else "cyan")
        line.append("━" * (_BAR - filled), style="bright_black")
        line.append(f" {spent:,}/{allowed:,}   ")
    return line
