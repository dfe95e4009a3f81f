"""Reads everything that a chaos run recorded, conversation by conversation, and has the oracle judge it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from motet_bus import Client
from motet_gateway.chaos.agents import RUN
from motet_gateway.chaos.load import Submitted
from motet_schemas import DeadLetter, Event, NotFoundError, StepExecuted
from motet_schemas.audit import Violation, audit
from motet_schemas.audit_history import ENDS

_AT_ONCE: Final = 8
_SHOWN: Final = 100
_CONSUMED: Final = {
    "planner": "plan.requested",
    "verifier": "step.executed",
    "step-chaos-work": "step.ready",
    "chaos-watcher": "task.completed",
    "chaos-desk": "escalate.raised",
}


@dataclass(slots=True)
class Judgement:
    """What stands in the stream, and what is wrong with it."""

    facts: int = 0
    kinds: Counter[str] = field(default_factory=Counter[str])
    statuses: Counter[str] = field(default_factory=Counter[str])
    violations: list[Violation] = field(default_factory=list[Violation])
    broken: int = 0
    letters: int = 0
    longest_pause_s: float = 0.0
    paused: str = ""
    lost_claims: int = 0
    redelivered: int = 0

    def add(self, violations: Iterable[Violation]) -> None:
        """Count violations; the first hundred are kept."""
        for violation in violations:
            self.broken += 1
            if len(self.violations) < _SHOWN:
                self.violations.append(violation)


async def judge(
    client: Client, submitted: Sequence[Submitted], tell: Callable[[int], None] = lambda _: None
) -> Judgement:
    """Audit every submitted conversation, and what the stream holds beside them. `tell` hears how many are done."""
    found = Judgement()
    state = await _stream_state(client)  # the ticks of old timers go on coming
    letters = await _letters(client)
    found.letters = sum(map(len, letters.values()))
    runs: dict[str, str] = {}
    for first in range(0, len(submitted), _AT_ONCE):
        batch = submitted[first : first + _AT_ONCE]
        read = await asyncio.gather(*(client.journal.read_conversation(one.name, start_seq=one.seq) for one in batch))
        for one, events in zip(batch, read, strict=True):
            found.facts += sum(1 for event in events if event.seq <= state["last_seq"])
            found.add(audit(one.name, events, letters=letters.pop(one.name, ())))
            _measure(found, one.name, events)
            found.add(_runs_are_recorded_once(one.name, events, runs))
        tell(first + len(batch))
        await asyncio.sleep(0)
    found.add(_nothing_else_is_there(found, state["messages"]))
    found.add(_stray(letters))
    await _count_redeliveries(client, found)
    return found


async def _letters(client: Client) -> dict[str, list[DeadLetter]]:
    stream = client.namespace.stream("DEAD_LETTERS")
    letters: dict[str, list[DeadLetter]] = {}
    for message in await client.link.read_batch(stream, client.namespace.wire("dead.>")):
        letter = DeadLetter.model_validate_json(message.body)
        letters.setdefault(letter.subject.split(".")[2], []).append(letter)
    return letters


def _stray(letters: dict[str, list[DeadLetter]]) -> list[Violation]:
    return [
        Violation(conversation=name, rule="letter_untold", words=f"dead letter about {letter.subject}")
        for name, others in letters.items()
        for letter in others
    ]


def _runs_are_recorded_once(name: str, events: Sequence[Event], runs: dict[str, str]) -> list[Violation]:
    """Each recorded output, and each group of facts of the watcher, is of one run, and of no other."""
    found: list[Violation] = []
    told = {event.subject.detail[0].partition("-")[0] for event in events if event.kind == "task.cancel"} - {"chaos"}
    if len(told) > 1:
        found.append(Violation(conversation=name, rule="mixed_runs", words=f"facts of {len(told)} runs of one handler"))
    for event in events:
        output = event.data.output if isinstance(event.data, StepExecuted) else None
        run = cast("dict[str, Any]", output).get(RUN) if isinstance(output, dict) else None
        if not isinstance(run, str):
            continue
        if run in runs:
            words = f"{event.subject} and {runs[run]} record the same run {run}"
            found.append(Violation(conversation=name, rule="run_recorded_twice", words=words, seqs=(event.seq,)))
        runs[run] = str(event.subject)
    return found


def _measure(found: Judgement, name: str, events: Sequence[Event]) -> None:
    """Note kinds, how it ended, and the longest time that it stood still without anybody being asked."""
    before: datetime | None = None
    asked: set[int] = set()
    status = "open"
    for event in events:
        found.kinds[event.kind] += 1
        if event.kind == "step.expired":
            found.lost_claims += 1
        paused_s = 0.0 if before is None or asked or status != "open" else (event.time - before).total_seconds()
        if paused_s > found.longest_pause_s:
            found.longest_pause_s, found.paused = paused_s, f"{name}, before {event.subject}"
        before = event.time
        if event.kind in ENDS:
            status = event.subject.verb
        if event.kind == "escalate.raised":
            asked.add(event.subject.number)
        elif event.kind in ("escalate.answered", "escalate.timed_out"):
            asked.discard(event.subject.number)
    found.statuses[status] += 1


async def _stream_state(client: Client) -> dict[str, int]:
    stream = client.namespace.stream("CONVERSATIONS")
    state: dict[str, int] = (await client.link.api(f"STREAM.INFO.{stream}", {}))["state"]
    return state


def _nothing_else_is_there(found: Judgement, held: int) -> list[Violation]:
    """Compare what the stream held when the audit began with what was found in the conversations."""
    if held == found.facts:
        return []
    words = f"the stream holds {held} messages, the conversations {found.facts}"
    return [Violation(conversation="-", rule="facts_of_nobody", words=words)]


async def _count_redeliveries(client: Client, found: Judgement) -> None:
    """Count deliveries beyond the first, as far as the server remembers: what it forgot by its kills is missing."""
    stream = client.namespace.stream("CONVERSATIONS")
    for durable, kind in _CONSUMED.items():
        try:
            info = await client.link.api(f"CONSUMER.INFO.{stream}.{durable}", {})
        except NotFoundError:  # nobody has served it
            continue
        found.redelivered += max(0, info["delivered"]["consumer_seq"] - found.kinds[kind])
