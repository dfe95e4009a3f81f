"""Reports and tables for people: pure functions of the JSON documents that `--json` prints."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from motet_gateway.terminal import one_line
from motet_schemas.printing import printable

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from motet_gateway.tables import FittingTable

_SEVERITIES: Final = {"error": "bold red", "warning": "yellow", "info": "dim"}
_VERDICTS: Final = {"approved": "bold green", "changes_needed": "bold red", "needs_human": "bold yellow"}
_HANGING: Final = 10
_JUDGED: Final = ("completed", "waiting")
"""The statuses in which a verdict says something: what was cancelled or failed has none, and work goes on."""


def place_of(draft: str, offset: int) -> tuple[int, int]:
    """Return line and column, both from 1, of a character offset into `draft`."""
    starts = [0, *(position + 1 for position, character in enumerate(draft) if character == "\n")]
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


def report(document: dict[str, Any], draft: str | None = None, answers: Sequence[str] = ()) -> Group:
    """Return a report for people. `draft` turns offsets into line:column; `answers` says how to answer, a line each."""
    from rich.console import Group
    from rich.text import Text

    body = document["report"]
    heading = Text.assemble((document["conversation_id"], "bold"), f" · {document['status']}")
    if verdict := _verdict(document["status"], body["verdict"]):
        heading.append(" · ").append(verdict, style=_VERDICTS.get(body["verdict"], ""))
    parts: list[RenderableType] = [heading, Text(printable(body["summary"]))]
    if body["findings"]:
        parts += [Text(f"\nFindings ({len(body['findings'])})", style="bold"), *_findings(body["findings"], draft)]
    if document["steps"]:
        parts += [Text("\nSteps", style="bold"), steps_table(document["steps"])]
    if body["concerns"]:
        parts.append(Text("\nConcerns", style="bold"))
        parts += [_indented(f"- {one_line(concern, None)}", 2) for concern in body["concerns"]]
    asked = [question for question in document["escalations"] if question["status"] == "open"]
    if asked:
        parts.append(Text("\nA human is asked", style="bold yellow"))
        parts += [part for question in asked for part in _question(question)]
        parts += [_command(line) for line in answers]
    parts.append(Text(f"\n{_usage(document)}", style="dim"))
    return Group(*parts)


def _findings(findings: list[dict[str, Any]], draft: str | None) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    for finding in findings:
        place = "missing" if finding["start"] is None else f"offset {finding['start']}"
        if draft is not None and finding["start"] is not None:
            place = "{}:{}".format(*place_of(draft, finding["start"]))
        lines.append(
            Text.assemble(
                "  ",
                (f"{one_line(finding['severity'], None):<8}", _SEVERITIES.get(finding["severity"], "")),
                f"{place:<8} {one_line(finding['rule'], None)}",
            )
        )
        if finding["quote"] is not None:
            lines.append(_indented(f"“{one_line(finding['quote'], None)}”", _HANGING, style="italic"))
        lines.append(_indented(one_line(finding["message"], None), _HANGING))
    return lines


def steps_table(steps: list[dict[str, Any]]) -> FittingTable:
    """Return the table of steps: state, attempts, confidence against threshold, verdict, time, tokens, model."""
    from motet_gateway.tables import FittingTable

    headings = ("step", "state", "attempts", "confidence", "verified", "time", "tokens", "model")
    table = FittingTable(*headings, spare=("model", "tokens", "attempts", "verified", "time"), cut=("model",))
    for step in steps:
        elapsed = "" if step["elapsed_ms"] is None else f"{step['elapsed_ms'] / 1000:.2f} s"
        tokens = "" if step["elapsed_ms"] is None else "unknown" if step["tokens"] is None else f"{step['tokens']:,}"
        table.add_row(
            step["id"],
            step["status"],
            str(step["attempts"]),
            confidence(step["confidence"], step["min_confidence"]) if step["attempts"] else "",
            step["verdict"] or "",
            elapsed,
            tokens,
            one_line(step["model"] or "", None),
        )
    return table


def conversations_table(summaries: list[dict[str, Any]]) -> RenderableType:
    """Return the table of `motet list`."""
    if not summaries:
        return "no conversations here yet; `motet run TASK` starts one"
    from motet_gateway.tables import FittingTable

    headings = ("conversation", "kind", "owner", "submitted", "status", "verdict", "questions")
    table = FittingTable(*headings, spare=("questions", "owner", "kind", "submitted", "verdict"), cut=("owner", "kind"))
    for summary in summaries:
        table.add_row(
            summary["conversation_id"],
            summary["kind"],
            one_line(summary["owner"] or "", None),
            _short(summary["submitted_at"]),
            summary["status"],
            _verdict(summary["status"], summary["verdict"]),
            str(summary["questions"] or ""),
        )
    return table


def inbox(questions: list[dict[str, Any]], answers: Sequence[Sequence[str]]) -> RenderableType:
    """Return what `motet inbox` prints; `answers` says how to answer each question."""
    from rich.console import Group
    from rich.text import Text

    if not questions:
        return "nobody is asked anything"
    parts: list[RenderableType] = []
    for question, how in zip(questions, answers, strict=True):
        parts.append(Text.assemble((question["conversation_id"], "bold"), f" · {question['kind']}"))
        parts += [*_question(question), *(_command(line) for line in how)]
    return Group(*parts)


def events_table(documents: list[dict[str, Any]]) -> FittingTable:
    """Return the table of the recorded facts of `motet show`."""
    from motet_gateway.tables import FittingTable

    table = FittingTable(
        "seq", "time", "subject", "cause", "source", spare=("source", "cause", "time"), cut=("source",)
    )
    for document in documents:
        table.add_row(
            str(document["seq"]),
            _clock(document["time"]),
            document["subject"] + (" (does not parse)" if "unreadable" in document else ""),
            str(document["cause"] or ""),
            one_line(document["source"], None),
        )
    return table


def agents_table(agents: list[dict[str, Any]]) -> RenderableType:
    """Return the table of `motet agents`."""
    if not agents:
        return "no agent answers; `motet up` starts them"
    from motet_gateway.tables import FittingTable

    headings = ("role", "instance", "pid", "version", "started", "consumer", "lag", "in flight")
    table = FittingTable(*headings, spare=("version", "started", "in flight", "pid", "role"), cut=("version",))
    for agent in agents:
        for position, consumer in enumerate(agent["consumers"] or [None]):
            instance = agent["instance"] + (" (draining)" if agent["draining"] else "")
            who = [agent["role"], instance, str(agent["pid"]), agent["version"], _short(agent["started_at"])]
            about = ["", "", ""]
            if consumer is not None:
                lag = "?" if consumer["pending"] is None else str(consumer["pending"])
                name = consumer["name"] + (" (paused)" if consumer["paused"] else "")
                about = [name, lag, str(consumer["in_flight"])]
            table.add_row(*(who if position == 0 else [""] * len(who)), *about)
    return table


def findings_of_doctor(findings: list[dict[str, Any]]) -> Group:
    """Return what `motet doctor` prints."""
    from rich.console import Group

    from motet_gateway.tables import Labelled

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "dim"}
    parts: list[RenderableType] = []
    for finding in findings:
        status, found = finding["status"], f"{finding['name']}: {printable(finding['found'])}"
        parts.append(Labelled(status, found, width=9, style=styles[status]))
        if finding["advice"]:
            parts.append(Labelled("         →", printable(finding["advice"]), width=11))
    return Group(*parts)


def confidence(value: float | None, threshold: float) -> str:
    """Return how sure somebody was, against the threshold: `0.63 < 0.70`."""
    if value is None:
        return f"unknown, not {threshold:.2f}"
    return f"{value:.2f} {'≥' if value >= threshold else '<'} {threshold:.2f}"


def _question(question: dict[str, Any]) -> list[RenderableType]:
    about = question["step"] or "the whole task"
    due = f"asked: {printable(question['asked'] or '')}, due {_local(question['due_at'])}"
    return [
        _indented(f"{question['number']}. [{about}: {question['reason']}]", 2),
        _indented(one_line(question["question"] or "", None), 5),
        _indented(f"{due}, silence means {question['on_timeout']}", 5),
    ]


def _indented(text: str, columns: int, style: str = "") -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(printable(text), style=style), (0, 0, 0, columns), expand=False)


def _command(line: str) -> Text:
    """Return a line that is never broken: it is there to be copied."""
    from rich.text import Text

    return Text(f"     {printable(line)}", no_wrap=True, overflow="ignore")


def _usage(document: dict[str, Any]) -> str:
    usage = document["usage"]
    tokens = "unknown" if usage["tokens"] is None else f"{usage['tokens']:,}"
    cost = "unknown" if usage["cost_usd"] is None else f"{usage['cost_usd']:.4f} USD"
    return (
        f"{usage['attempts']} attempt(s), tokens {tokens}, cost {cost}, {usage['elapsed_ms'] / 1000:.1f} s · "
        f"brain {printable(document['brain'])} · trace {document['trace_id']}"
    )


def _verdict(status: str, verdict: str | None) -> str:
    return verdict.replace("_", " ") if verdict and status in _JUDGED else ""


def _local(text: str | None) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M") if text else ""


def _short(text: str) -> str:
    """Return a moment of this year without the year, and one of another year without the time of day."""
    moment = datetime.fromisoformat(text).astimezone()
    return moment.strftime("%m-%d %H:%M" if moment.year == datetime.now().astimezone().year else "%Y-%m-%d")


def _clock(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%H:%M:%S.%f")[:-3]
