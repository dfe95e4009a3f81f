"""What has happened so far, in lines that a human can read in a minute."""

from __future__ import annotations

from datetime import datetime

from motet_schemas import Attempt, Conversation, TranscriptLine

_LINES = 200


def transcript(state: Conversation, step: str | None = None) -> tuple[TranscriptLine, ...]:
    """Return the attempts at `step`, or at all steps, and what humans said."""
    lines: list[TranscriptLine] = []
    names = [step] if step is not None else list(state.attempts)
    for name in names:
        for attempt in state.opened(name):
            at = attempt.ended_at or state.now
            if at is not None:
                lines += [_line(at, f"{name}, attempt {attempt.number}: {text}") for text in attempt_lines(attempt)]
    for number, question in sorted(state.questions.items()):
        if question.answered_at is not None and question.decision is not None:
            lines.append(_line(question.answered_at, f"question {number} was answered: {question.decision}"))
    return tuple(sorted(lines, key=lambda line: line.time)[-_LINES:])


def attempt_lines(attempt: Attempt) -> list[str]:
    """Say what came of one attempt."""
    lines: list[str] = []
    if attempt.lost is not None:
        lines.append(f"the claim of {attempt.lost.owner or 'nobody'} was lost ({attempt.lost.reason})")
    if attempt.unreadable:
        lines.append(f"the outcome does not parse: {attempt.unreadable}")
    if (record := attempt.record) is not None:
        confidence = "unknown" if record.confidence is None else f"{record.confidence:.2f}"
        lines.append(f"{record.status}, confidence {confidence}: {record.notes}")
    if (verification := attempt.verification) is not None and verification.verdict == "failed":
        broken = [gate.name for gate in verification.gates if not gate.passed]
        lines.append(f"did not pass verification: {', '.join(broken) or 'no gate was named'}")
    if attempt.letter is not None:
        lines.append(f"went to the dead letters: {attempt.letter.failure.message}")
    return lines


def _line(at: datetime, what: str) -> TranscriptLine:
    return TranscriptLine(time=at, what=what[:2_000])
