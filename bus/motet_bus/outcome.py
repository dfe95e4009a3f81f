"""What a step's handler is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from motet_schemas import Evidence, Failed, Finding, Found, Json, Manifest, Reference, Remaining, Usage

EvidenceLike = Evidence | str | Mapping[str, object]

_UNKNOWN: Final = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One attempt at one step, as handed to its handler.

    `manifest.inputs` holds the inputs, large texts already fetched; what is not text stays in `manifest.references`.
    Effects outside the bus happen once only if the tool honours `idempotency_key`: hand it over.
    """

    conversation: str
    id: str
    attempt: int
    capability: str
    goal: str
    context: str
    manifest: Manifest
    min_confidence: float
    time_budget_s: int
    asked: str
    found: tuple[Found, ...]
    failed: tuple[Failed, ...]
    instructions: tuple[str, ...]
    remaining: Remaining
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a handler has to say of its attempt. Make one with `passed`, `failed` or `blocked`."""

    status: Literal["passed", "failed", "blocked"]
    confidence: float | None = None
    notes: str = ""
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] = ()
    output: Json = None
    files_changed: tuple[str, ...] = ()
    commands_run: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
    next_action: Literal["continue", "revise", "escalate"] = "continue"
    usage: Usage = field(default=_UNKNOWN)
    model: str | None = None

    @classmethod
    def passed(
        cls,
        *,
        confidence: float | None,
        notes: str = "",
        evidence: Iterable[EvidenceLike] = (),
        findings: Iterable[Finding] = (),
        output: Json = None,
        next_action: Literal["continue", "revise", "escalate"] = "continue",
        usage: Usage = _UNKNOWN,
        model: str | None = None,
        risks: Iterable[str] = (),
        files_changed: Iterable[str] = (),
        commands_run: Iterable[str] = (),
    ) -> Outcome:
        """The work was done, whatever it found. `confidence` is 0 to 1, None when unknown."""
        return cls(
            status="passed",
            confidence=confidence,
            notes=notes,
            evidence=_evidence(evidence),
            findings=tuple(findings),
            output=output,
            next_action=next_action,
            usage=usage,
            model=model,
            risks=tuple(risks),
            files_changed=tuple(files_changed),
            commands_run=tuple(commands_run),
        )

    @classmethod
    def failed(
        cls,
        *,
        notes: str,
        confidence: float | None = None,
        evidence: Iterable[EvidenceLike] = (),
        findings: Iterable[Finding] = (),
        output: Json = None,
        next_action: Literal["revise", "escalate"] = "revise",
        usage: Usage = _UNKNOWN,
        model: str | None = None,
    ) -> Outcome:
        """The work could not be done this time; `next_action` says whether another attempt may help."""
        return cls(
            status="failed",
            notes=notes,
            confidence=confidence,
            evidence=_evidence(evidence),
            findings=tuple(findings),
            output=output,
            next_action=next_action,
            usage=usage,
            model=model,
        )

    @classmethod
    def blocked(
        cls, *, notes: str, evidence: Iterable[EvidenceLike] = (), usage: Usage = _UNKNOWN, model: str | None = None
    ) -> Outcome:
        """The work cannot be done as planned; another plan or a human is needed."""
        return cls(
            status="blocked",
            notes=notes,
            evidence=_evidence(evidence),
            next_action="escalate",
            usage=usage,
            model=model,
        )


def _evidence(items: Iterable[EvidenceLike]) -> tuple[Evidence, ...]:
    return tuple(_one(item) for item in items)


def _one(item: EvidenceLike) -> Evidence:
    if isinstance(item, Evidence):
        return item
    if isinstance(item, str):
        return Evidence(content=item)
    return Evidence.model_validate(dict(item))


def is_text(reference: Reference) -> bool:
    """Say whether a referenced body is text, and so is fetched into a step's inputs."""
    return reference.media_type.startswith("text/") or reference.media_type == "application/json"
