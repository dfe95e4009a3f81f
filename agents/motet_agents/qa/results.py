"""What every document check returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from motet_schemas.base import Json
from motet_schemas.findings import Finding, Severity

MAX_FINDINGS: Final = 1_000
"""A check lists at most this many findings; a last one, without a place, says that there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Findings in the order of the draft, and how far they can be trusted.

    `confidence` (0 to 1) is the confidence in the list being right and complete, not in the draft: what a check could
    not decide lowers it, whatever it found lowers nothing. `notes` is one sentence for people. `output` is JSON.
    """

    findings: tuple[Finding, ...]
    confidence: float
    notes: str
    output: dict[str, Json] = field(default_factory=dict[str, Json])


def in_order(findings: list[Finding], step: str, group: str) -> tuple[Finding, ...]:
    """Return `findings` by place (those without one last), shortened to `MAX_FINDINGS`, errors kept first."""
    if len(findings) > MAX_FINDINGS:
        rank: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
        findings = sorted(findings, key=lambda finding: rank[finding.severity])
        left_out = findings[MAX_FINDINGS - 1 :]
        message = f"there is more: only the first {MAX_FINDINGS - 1:,} findings of this check are listed, gravest first"
        more = Finding(step=step, rule=f"{group}.more", severity=left_out[0].severity, message=message)
        findings = [*findings[: MAX_FINDINGS - 1], more]
    return tuple(
        sorted(
            findings, key=lambda finding: (finding.start is None, finding.start or 0, finding.end or 0, finding.rule)
        )
    )


def count(number: int, thing: str, things: str | None = None) -> str:
    """Return `3 links`, `1 link`, or with an irregular plural `2 near misses`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {things or thing + 's'}"
