"""What was recorded once is read the same way by every later version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from motet_schemas import ANY_LIMITS, EVENTS, Unreadable, fold_all, limits_context
from motet_schemas.envelope import BODY_REFERENCE
from tests.schemas.histories import FOLDER, amounts_to, read

HISTORIES = sorted(FOLDER.glob("*.jsonl"))
LIMITS = limits_context(ANY_LIMITS)


def test_there_are_histories() -> None:
    assert {path.stem for path in HISTORIES} >= {
        "completed",
        "escalated-and-approved",
        "replanned",
        "lost-claim",
        "cancelled",
        "rubbish",
        "newer-version",
    }


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_history_still_amounts_to_what_it_did(path: Path) -> None:
    events = read(path)
    expected = json.loads(path.with_suffix(".expected.json").read_text(encoding="utf-8"))
    assert amounts_to(fold_all(events[0].subject.conversation, events), events) == expected


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_history_reads_the_same_from_the_start_and_step_by_step(path: Path) -> None:
    events = read(path)
    conversation = events[0].subject.conversation
    assert fold_all(conversation, [*events, *events]) == fold_all(conversation, events)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_what_was_read_is_written_and_read_again(path: Path) -> None:
    for event in read(path):
        if not isinstance(event.data, Unreadable):
            assert type(event.data).model_validate_json(event.data.to_json(), context=LIMITS) == event.data


@pytest.mark.parametrize("kind", EVENTS)
def test_every_kind_of_event_is_in_a_history_and_is_read(kind: str) -> None:
    found = [event for path in HISTORIES for event in read(path) if event.kind == kind]
    assert any(not isinstance(event.data, Unreadable) for event in found)


def test_bodies_by_reference_are_in_a_history() -> None:
    events = [event for event in read(FOLDER / "every-kind.jsonl") if BODY_REFERENCE in event.headers]
    assert {event.kind for event in events} == {"task.submitted", "plan.created", "step.executed", "handled"}
    assert not any(isinstance(event.data, Unreadable) for event in events)


def test_what_a_newer_version_wrote_is_not_guessed_at_and_breaks_nothing() -> None:
    events = read(FOLDER / "newer-version.jsonl")
    strange = [event for event in events if isinstance(event.data, Unreadable)]
    assert [str(event.subject) for event in strange] == ["step.executed.c.tone.1"]
    assert "upgrade" in str(strange[0].data)
    assert fold_all("c", events).ending is not None, "it went on without what it could not read"
