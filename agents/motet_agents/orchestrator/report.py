"""The report: results reconciled over all steps, provenance for each, and every doubt that is left."""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

from motet_agents.orchestrator.transcript import attempt_lines
from motet_schemas import Conversation, EscalateAnswered, Finding, Letter, PlanStep, Report, StepReport, TotalUsage
from motet_schemas.report import RULE_BASED, Verdict
from motet_schemas.standing import accepted, attempts_made, is_done, step_status, total_usage, usage

_NOTE: Final = 2_000

Ended = Literal["completed", "failed", "cancelled"]


def make_report(state: Conversation, *, reason: str = "", ended: Ended | None = None) -> Report:
    """Return what the conversation amounts to: at its end, or now, when `ended` is None."""
    steps = state.plan.steps if state.plan else ()
    findings = tuple(sorted((finding for step in steps for finding in _findings(state, step)), key=_place))
    verdict = _verdict(state, steps, ended)
    reason = reason[:_NOTE]
    return Report(
        verdict=verdict,
        summary=_summary(state, steps, findings, verdict, reason, ended),
        reason=reason,
        brain=_brain(state),
        findings=findings,
        concerns=tuple(concern[:_NOTE] for concern in _concerns(state, steps, ended)),
        steps=tuple(step_report(state, step) for step in steps),
        usage=_usage(state),
    )


def step_report(state: Conversation, step: PlanStep) -> StepReport:
    """Return one step's provenance."""
    attempts = state.opened(step.id)
    records = [attempt.record for attempt in attempts if attempt.record is not None]
    last = attempts[-1] if attempts else None
    record = last.record if last else None
    verification = last.verification if last else None
    question = accepted(state, step.id)
    answer = question.answer if question else None
    by = answer.answered_by if isinstance(answer, EscalateAnswered) else ("the policy" if answer else None)
    by_hand = answer if isinstance(answer, EscalateAnswered) and answer.decision == "take_over" else None
    return StepReport(
        id=step.id,
        capability=step.capability,
        status=step_status(state, step),
        attempts=attempts_made(state, [step.id]),
        confidence=record.confidence if record else None,
        min_confidence=step.min_confidence,
        verdict=verification.verdict if verification else None,
        elapsed_ms=sum(one.elapsed_ms for one in records) if records else None,
        tokens=total_usage([one.usage for one in records]).tokens if records else None,
        model=record.model if record else None,
        executor=record.executor if record else None,
        verifier=verification.verifier if verification else None,
        accepted_by=by,
        output=by_hand.result if by_hand else record.output if record else None,
    )


def _findings(state: Conversation, step: PlanStep) -> tuple[Finding, ...]:
    attempts = state.opened(step.id)
    record = attempts[-1].record if attempts else None
    question = accepted(state, step.id)
    if record is None or (question is not None and question.decision == "take_over"):
        return ()
    return record.findings


def _place(finding: Finding) -> tuple[int, str]:
    return (finding.start if finding.start is not None else -1, finding.rule)


def _verdict(state: Conversation, steps: tuple[PlanStep, ...], ended: Ended | None) -> Verdict:
    rejected = any(question.decision == "reject" for question in state.questions.values())
    if ended in ("failed", "cancelled"):
        return "changes_needed" if rejected else "needs_human"
    if not steps or not all(is_done(state, step) for step in steps):
        return "needs_human"
    for step in steps:
        # A human who accepted a step has settled its doubts (warnings), not what it found for certain (errors).
        weighty = {"error"} if accepted(state, step.id) is not None else {"error", "warning"}
        if any(finding.severity in weighty for finding in _findings(state, step)):
            return "changes_needed"
    return "approved"


def _summary(
    state: Conversation,
    steps: tuple[PlanStep, ...],
    findings: tuple[Finding, ...],
    verdict: Verdict,
    reason: str,
    ended: Ended | None,
) -> str:
    done = sum(1 for step in steps if is_done(state, step))
    counts = Counter(finding.severity for finding in findings)
    found = ", ".join(
        f"{counts[severity]} {severity}(s)" for severity in ("error", "warning", "info") if counts[severity]
    )
    words = {"approved": "Approved", "changes_needed": "Changes are needed", "needs_human": "A human must decide"}
    opening = ended.capitalize() if ended in ("failed", "cancelled") else words[verdict]
    parts = [f"{opening}: {done} of {len(steps)} steps done, {found or 'no findings'}."]
    if reason:
        parts.append(f"It ended because: {reason}.")
    return " ".join(parts)


def _concerns(state: Conversation, steps: tuple[PlanStep, ...], ended: Ended | None) -> list[str]:
    concerns: list[str] = []
    for step in steps:
        attempts = state.opened(step.id)
        for attempt in attempts[:-1]:
            concerns += [f"{step.id}, attempt {attempt.number}: {line}" for line in attempt_lines(attempt)]
        record = attempts[-1].record if attempts else None
        if record is not None:
            concerns += [f"{step.id}: {risk}" for risk in record.risks]
        if attempts and not is_done(state, step):
            concerns += [f"{step.id}, attempt {attempts[-1].number}: {line}" for line in attempt_lines(attempts[-1])]
    kept = {step.id for step in steps}
    for name in sorted(set(state.attempts) - kept):
        for attempt in state.opened(name):
            concerns += [
                f"{name}, dropped by a re-plan, attempt {attempt.number}: {one}" for one in attempt_lines(attempt)
            ]
    for number, question in sorted(state.questions.items()):
        if question.raised is None:
            continue
        about = f"question {number} ({question.raised.reason}, {question.raised.step or 'the whole task'})"
        if isinstance(question.answer, EscalateAnswered):
            note = f": {question.answer.note}" if question.answer.note else ""
            concerns.append(f"{about}: {question.answer.decision} by {question.answer.answered_by}{note}")
        elif question.answer is not None:
            concerns.append(f"{about}: nobody answered, the policy said {question.answer.decision}")
        else:
            concerns.append(f"{about}: {question.broken or ('withdrawn' if ended else 'open')}")
    concerns += [_letter(key, letter) for key, letter in state.letters.items() if letter.status != "retried"]
    concerns += [f"plan {number}: {plan.refusal}" for number, plan in sorted(state.revisions.items()) if plan.refusal]
    if usage(state).tokens is None:
        concerns.append("how many tokens were used is not known: an agent did not say")
    return concerns


def _letter(key: str, letter: Letter) -> str:
    why = letter.notice.failure.message if letter.notice else "unreadable"
    if letter.act is None:
        return f"dead letter {key}: {why}"
    reason = f" ({letter.act.reason})" if letter.act.reason else ""
    return f"dead letter {key}, discarded by {letter.act.by}{reason}: {why}"


def _brain(state: Conversation) -> str:
    models = [state.plan.model if state.plan else None]
    models += [attempt.record.model for attempts in state.attempts.values() for attempt in attempts if attempt.record]
    named = sorted({model for model in models if model})
    return ", ".join(named)[:200] or RULE_BASED


def _usage(state: Conversation) -> TotalUsage:
    spent = usage(state)
    started, now = state.submitted_at, state.now
    elapsed = round((now - started).total_seconds() * 1000) if started and now else 0
    return TotalUsage(
        tokens=spent.tokens, cost_usd=spent.cost_usd, attempts=attempts_made(state), elapsed_ms=max(0, elapsed)
    )
