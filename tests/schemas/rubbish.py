"""Hypothesis strategies: subjects and bodies as an outsider might write them, and near misses of what we write."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from motet_schemas import EVENTS, Event, Handled, Output, Subject, decode, event_type, subjects
from tests.schemas.samples import SAMPLES, START

json_values: Final[SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
tokens: Final = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
numbers: Final = st.integers(1, 4) | st.sampled_from([10**17, 10**18 - 1])
_steps: Final = st.sampled_from(["tone", "links", "a"])
_letters: Final = st.sampled_from(["learn-5", "verifier-3", "x"])
_timers: Final = st.sampled_from([("budget", 1), ("budget", 2), ("escalation", 1), ("backoff", "tone", 1), ("x",)])


@st.composite
def any_subject(draw: DrawFn, conversation: str = "c") -> Subject:
    """A subject of any kind, of few steps and numbers, so that events meet."""
    kind = draw(st.sampled_from([*subjects.KINDS, "handled"]))
    family = kind.partition(".")[0]
    detail: tuple[str | int, ...]
    match family:
        case "handled":
            return subjects.handled(draw(st.sampled_from(["orchestrator", "learn"])), conversation, draw(numbers))
        case "step" | "verify":
            detail = (draw(_steps), draw(numbers), *(("qa",) if kind == "step.ready" else ()))
        case "plan" | "escalate":
            detail = (draw(numbers),)
        case "letter":
            detail = (draw(_letters),)
        case "timer":
            detail = draw(_timers)
        case _:
            detail = (draw(st.sampled_from(["content-qa", "other"])),)
    return subjects.build(kind, conversation, *detail)


def near_miss(body: bytes) -> SearchStrategy[bytes]:
    """The body with one field dropped, added or replaced by something else."""
    fields: dict[str, Any] = json.loads(body)
    names = st.sampled_from(sorted(fields)) if fields else st.just("x")
    return st.one_of(
        names.map(lambda name: _dumped({key: value for key, value in fields.items() if key != name})),
        st.tuples(names, json_values).map(lambda change: _dumped(fields | {change[0]: change[1]})),
        json_values.map(lambda value: _dumped(fields | {"from-the-future": value})),
    )


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


@st.composite
def any_body(draw: DrawFn, subject: Subject) -> bytes:
    """A body for the subject: what we would write, nearly that, what belongs elsewhere, or anything at all."""
    if subject.kind == "handled":
        listed = tuple(draw(st.lists(any_output(), max_size=4)))
        return draw(st.just(Handled(outputs=listed).to_json()) | st.binary(max_size=20))
    own = SAMPLES[subject.kind][1].to_json()
    other = draw(st.sampled_from([data.to_json() for _, data in SAMPLES.values()]))
    return draw(st.just(own) | near_miss(own) | st.just(other) | json_values.map(_dumped) | st.binary(max_size=20))


@st.composite
def any_output(draw: DrawFn) -> Output:
    """One output that a record lists, with a subject that need not be ours."""
    subject = draw(any_subject(draw(st.sampled_from(["c", "c", "d"]))))
    known = SAMPLES.get(subject.kind)
    data: dict[str, Any] = json.loads(known[1].to_json()) if known else {}
    data = draw(st.just(data) | st.dictionaries(st.text(max_size=5), st.none(), max_size=2))
    name = draw(st.just(str(subject)) | st.text(max_size=20))
    return Output(subject=name, id="0123456789", data=data)


@st.composite
def any_event(draw: DrawFn, seq: int, time: datetime, conversation: str = "c") -> Event:
    """Any event at all, as it is read from the wire."""
    subject = draw(any_subject(conversation))
    version = draw(st.sampled_from(["", event_type(subject.kind), f"motet.{subject.kind}.v2"]))
    return decode(subject, {"ce-type": version, "ce-id": "x"}, draw(any_body(subject)), seq=seq, time=time)


@st.composite
def any_events(draw: DrawFn, max_size: int = 25) -> list[Event]:
    """A stream of any events, with gaps in its sequence, and a clock that may stand still."""
    events: list[Event] = []
    seq, now = 0, START
    for _ in range(draw(st.integers(0, max_size))):
        seq += draw(st.integers(1, 3))
        now += timedelta(seconds=draw(st.sampled_from([0, 1, 40, 4_000])))
        events.append(draw(any_event(seq, now)))
    return events


KINDS: Final = tuple(EVENTS)
