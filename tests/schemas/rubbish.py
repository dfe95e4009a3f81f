"""Hypothesis strategies: subjects and bodies as an outsider might write them, and near misses of what we write."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from motet_schemas import Event, Handled, Output, Subject, decode, event_type, subjects
from tests.schemas.samples import SAMPLES, START, Story, plan, raised, step

json_values: Final[SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
tokens: Final = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
numbers: Final = st.integers(1, 4) | st.sampled_from([10**17, 10**18 - 1])
_steps: Final = st.sampled_from(["tone", "links", "a"])
_letters: Final = st.sampled_from([("learn", 5), ("verifier", 3), ("learn-5",), ("x",)])
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
            detail = draw(_letters)
        case "timer":
            detail = draw(_timers)
        case "task" if kind == "task.archived":
            detail = (draw(numbers),)
        case _:
            detail = (draw(st.sampled_from(["content-qa", "other"])),)
    return subjects.build(kind, conversation, *detail)


def _near_misses(body: bytes) -> list[bytes]:
    """The body with one field dropped, added or replaced by something else."""
    fields: dict[str, Any] = json.loads(body)
    odd: list[Any] = [None, -1, 10**17, 1.5, "", "é" * 30, [], {}, [{"x": None}], True, "reject", "approve", "passed"]
    changed: list[dict[str, Any]] = [fields | {"from-the-future": 1}]
    for name in fields:
        changed.append({key: value for key, value in fields.items() if key != name})
        changed += [fields | {name: value} for value in odd]
    return [_dumped(one) for one in changed]


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


_OWN: Final = {kind: data.to_json() for kind, (_, data) in SAMPLES.items()}
_NEAR: Final = {kind: _near_misses(body) for kind, body in _OWN.items()}
_RUBBISH: Final = [*_OWN.values(), b"", b"{}", b"null", b"[]", b"rubbish", b"\xff\xfe", b'{"outputs":[{}]}', b"[" * 500]


def any_body(subject: Subject) -> SearchStrategy[bytes]:
    """A body for the subject: what we would write, nearly that, what belongs elsewhere, or anything at all."""
    if subject.kind == "handled":
        listed = st.lists(any_output(), max_size=4).map(lambda outputs: Handled(outputs=tuple(outputs)).to_json())
        return listed | st.sampled_from(_RUBBISH)
    return st.just(_OWN[subject.kind]) | st.sampled_from(_NEAR[subject.kind]) | st.sampled_from(_RUBBISH)


@st.composite
def any_output(draw: DrawFn) -> Output:
    """One output that a record lists, with a subject that need not be ours."""
    subject = draw(any_subject(draw(st.sampled_from(["c", "c", "d"]))))
    own: dict[str, Any] = json.loads(_OWN.get(subject.kind, b"{}"))
    others: list[dict[str, Any]] = [own, own, own, {}, {"x": None}]
    data = draw(st.sampled_from(others))
    name = draw(st.sampled_from([str(subject), str(subject), str(subject), "", "step.ready.c", "é"]))
    return Output(subject=name, id="0123456789", data=data)


@st.composite
def any_event(draw: DrawFn, seq: int, time: datetime, conversation: str = "c") -> Event:
    """Any event at all, as it is read from the wire."""
    subject = draw(any_subject(conversation))
    version = draw(st.sampled_from(["", event_type(subject.kind), f"motet.{subject.kind}.v2"]))
    return decode(subject, {"ce-type": version, "ce-id": "x"}, draw(any_body(subject)), seq=seq, time=time)


def _beginnings() -> list[list[Event]]:
    """Nothing at all, and conversations that are on their way."""
    made = plan(step("tone"), step("links"), step("a", "tone"))
    stories = [
        Story(),
        Story().submitted(),
        Story().submitted().planned(made),
        Story().submitted().planned(made).opened(step("tone")).opened(step("links")),
        Story().submitted().planned(made).done(step("tone")).opened(step("links")).claimed(step("links")),
        Story().submitted().planned(made).done(step("tone"), confidence=0.1).add("escalate.raised", 1, data=raised()),
    ]
    return [story.events for story in stories]


_BEGINNINGS: Final = _beginnings()


@st.composite
def any_events(draw: DrawFn, max_size: int = 16) -> list[Event]:
    """A stream of any events, with gaps in its sequence, and a clock that may stand still."""
    events = list(draw(st.sampled_from(_BEGINNINGS)))
    seq, now = len(events), events[-1].time if events else START
    for _ in range(draw(st.integers(0, max_size))):
        seq += draw(st.integers(1, 3))
        now += timedelta(seconds=draw(st.sampled_from([0, 1, 40, 4_000])))
        events.append(draw(any_event(seq, now)))
    return events
