"""Is a recorded history of concurrent appends sequential? A search after Wing and Gong, with memory, bounded.

A history is linearizable when some order of its operations explains every answer, and no operation stands before one
that had ended when it began. Sequences of the stream are part of the answers, so the order must also be the stream's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from motet_schemas.subjects import matches

MOST_CONFIGURATIONS: Final = 200_000
NEVER: Final = float("inf")

State = tuple[tuple[int, str], ...]
"""What is recorded, in order: sequence and subject."""


@dataclass(frozen=True, kw_only=True)
class Append:
    """One append of the fact `id`: when it was invoked and answered (seconds of a monotonic clock), and how.

    `recorded` at `seq`; `refused` because the last sequence on its filter was `found` (None: not said); `unknown` when
    no answer came: it may take effect at any later time, or never.
    """

    id: str
    subject: str
    filter: str
    last: int
    invoked: float
    answered: float
    answer: Literal["recorded", "refused", "unknown"]
    seq: int = 0
    found: int | None = None

    def after(self, state: State) -> State | None:
        """Return the state behind this operation, None when its answer does not fit."""
        last = next((seq for seq, subject in reversed(state) if matches(self.filter, subject)), 0)
        if self.answer == "recorded":
            in_order = not state or state[-1][0] < self.seq
            return (*state, (self.seq, self.subject)) if in_order and last == self.last else None
        told_right = last != self.last and self.found in (None, last)
        return state if told_right else None


class TooHardError(Exception):
    """The search was given up; it says nothing about the history."""


def explain(history: Iterable[Append]) -> list[Append] | None:
    """Return an order that explains all answers, None when there is none.

    An operation without an answer must have been settled first, by `settle`. Raises `TooHardError` when more than
    `MOST_CONFIGURATIONS` were tried.
    """
    operations = sorted(history, key=lambda one: one.invoked)
    if any(one.answer == "unknown" for one in operations):
        raise ValueError("settle what was not answered first")
    everything = (1 << len(operations)) - 1
    tried: set[tuple[int, State]] = set()
    path: list[int] = []
    stack: list[tuple[int, State, list[int]]] = [(everything, (), _may_be_next(operations, everything))]
    while stack:
        left, state, candidates = stack[-1]
        if not left:
            return [operations[number] for number in path]
        if not candidates:
            stack.pop()
            if path:
                path.pop()
            continue
        number = candidates.pop()
        behind = operations[number].after(state)
        rest = left & ~(1 << number)
        if behind is None or (rest, behind) in tried:
            continue
        tried.add((rest, behind))
        if len(tried) > MOST_CONFIGURATIONS:
            raise TooHardError(f"{len(operations)} operations, {len(tried)} configurations tried")
        path.append(number)
        stack.append((rest, behind, _may_be_next(operations, rest)))
    return None


def _may_be_next(operations: Sequence[Append], left: int) -> list[int]:
    """Return the operations that began before any that is left had ended; the one that ended first comes last."""
    waiting = [number for number in range(len(operations)) if left >> number & 1]
    first_end = min((operations[number].answered for number in waiting), default=NEVER)
    minimal = [number for number in waiting if operations[number].invoked <= first_end]
    return sorted(minimal, key=lambda number: -operations[number].answered)


def settle(history: Iterable[Append], recorded: Mapping[str, int]) -> list[Append]:
    """Say what became of operations without an answer: recorded at the sequence that the stream shows, or nothing.

    `recorded` says at which sequence each fact stands at the end, by its id.
    """
    settled: list[Append] = []
    for one in history:
        if one.answer != "unknown":
            settled.append(one)
        elif (seq := recorded.get(one.id)) is not None:
            settled.append(replace(one, answered=NEVER, answer="recorded", seq=seq))
    return settled
