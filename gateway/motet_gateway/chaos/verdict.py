"""What a chaos run found, as a document and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motet_gateway.chaos.engine import Progress, Verdict
from motet_gateway.chaos.memory import SERVER

if TYPE_CHECKING:
    from rich.table import Table

_PER: float = 100_000.0


def to_document(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as one JSON document."""
    found = verdict.judgement
    return {
        "held": verdict.held,
        "seed": verdict.plan.seed,
        "seconds": round(verdict.lasted_s, 1),
        "conversations": {"submitted": sum(found.statuses.values()), **dict(sorted(found.statuses.items()))},
        "conversations_per_s": round(sum(found.statuses.values()) / verdict.lasted_s, 1),
        "facts": found.facts,
        "facts_by_kind": dict(sorted(found.kinds.items())),
        "kills": dict(sorted(verdict.kills.items())),
        "faults": dict(sorted(verdict.faults.items())),
        "answers_lost": verdict.answers_lost,
        "publishes_repeated": verdict.publishes_repeated,
        "redeliveries": found.redelivered,
        "refused_doubles": verdict.refused | {"submissions": verdict.doubles_submitted},
        "claims_lost": found.lost_claims,
        "dead_letters_explained": found.letters,
        "slowest_recovery": {
            "process_restart_s": round(verdict.slowest_restart_s, 2),
            "conversation_pause_s": round(found.longest_pause_s, 2),
            "conversation": found.paused,
            "settled_after_last_fault_s": round(verdict.settled_in_s, 1),
        },
        "memory": verdict.memory,
        "server_mib_per_100k_facts": _server_growth(verdict),
        "violations": [
            {"conversation": one.conversation, "rule": one.rule, "words": one.words, "seqs": list(one.seqs)}
            for one in found.violations
        ],
        "violations_in_all": found.broken,
        "store": None if verdict.held else str(verdict.store),
    }


def _server_growth(verdict: Verdict) -> float | None:
    """Return by how much the server grew for what it came to store after the warm-up; None when that is too little."""
    server = next((one for one in verdict.memory if one["name"] == SERVER), None)
    if server is None or server["warm_mib"] is None or verdict.judgement.facts < _PER:
        return None
    stored = verdict.judgement.facts * (1 - verdict.plan.warm_after_s / verdict.lasted_s)
    return round(float(server["end_mib"] - server["warm_mib"]) / stored * _PER, 1)


def to_lines(verdict: Verdict) -> list[str]:
    """Return the verdict for people, without the table of memory."""
    found, shown = verdict.judgement, to_document(verdict)
    ended = ", ".join(f"{count} {status}" for status, count in sorted(found.statuses.items()))
    kills = ", ".join(f"{role} {count}" for role, count in sorted(verdict.kills.items()))
    others = ", ".join(
        f"{name} {count}" for name, count in sorted(verdict.faults.items()) if not name.startswith("kill")
    )
    refused = ", ".join(f"{name} {count}" for name, count in shown["refused_doubles"].items() if count)
    recovery = shown["slowest_recovery"]
    lines = [
        f"seed            {verdict.plan.seed}, {verdict.lasted_s:.0f} s",
        f"conversations   {sum(found.statuses.values())} ({shown['conversations_per_s']} a second): {ended}",
        f"facts           {found.facts}, each recorded once" if verdict.held else f"facts           {found.facts}",
        f"kill -9         {kills}",
        f"other faults    {others}",
        f"network         {verdict.answers_lost} answers lost, {verdict.publishes_repeated} publishes sent twice",
        f"redeliveries    at least {found.redelivered}; refused: {refused or 'none'}",
        f"claims          {found.lost_claims} lost and made good; dead letters: {found.letters}, each explained",
        (
            f"recovery        slowest restart {recovery['process_restart_s']} s; "
            f"longest pause of a conversation {recovery['conversation_pause_s']} s; "
            f"all done {recovery['settled_after_last_fault_s']} s after the last fault"
        ),
        f"violations      {found.broken}",
        *(f"  {violation}" for violation in found.violations),
    ]
    if not verdict.held:
        lines.append(f"the store is kept for whoever looks into it: {verdict.store}")
    return lines


def memory_table(verdict: Verdict) -> Table:
    """Return what each process held."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("memory, MiB", "since", "start", "warm", "middle", "end", "flat"):
        table.add_column(heading, justify="left" if heading in ("memory, MiB", "flat") else "right", no_wrap=True)
    for one in verdict.memory:
        flat = {True: "yes", False: "NO", None: ""}[one["flat"]]
        numbers = [one["start_mib"], one["warm_mib"], one["middle_mib"], one["end_mib"]]
        table.add_row(
            one["name"],
            f"{one['since_s']:.0f} s",
            *("" if number is None else f"{number:.1f}" for number in numbers),
            flat,
        )
    return table


def progress_line(progress: Progress) -> str:
    """Return where a run stands, in a line."""
    if progress.phase == "starting":
        return "starting the server and the agents"
    if progress.phase == "auditing":
        return f"auditing: {progress.audited} of {progress.submitted} conversations"
    return (
        f"{progress.phase}: {progress.at_s:.0f} s, {progress.submitted} conversations submitted, {progress.open} open, "
        f"{sum(progress.kills.values())} kills, {progress.faults} faults in all"
    )
