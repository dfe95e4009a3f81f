"""Subjects: one place builds and parses them, and nothing unsafe ever becomes one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet_schemas import EVENTS, InvalidInputError, Namespace, check_token, new_id, subjects
from motet_schemas.subjects import FAMILIES, KINDS, build, parse
from tests.schemas.rubbish import any_subject, tokens
from tests.schemas.samples import SAMPLES


@given(tokens)
def test_a_safe_token_is_returned_as_it_is(token: str) -> None:
    assert check_token(token, "id") == token


@given(st.text(max_size=80))
def test_anything_else_is_refused_and_the_field_is_named(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text, re.ASCII):
        assert check_token(text, "conversation") == text
        return
    with pytest.raises(InvalidInputError) as refused:
        check_token(text, "conversation")
    assert refused.value.field == "conversation"
    assert refused.value.value == text
    assert refused.value.rule


@given(
    tokens, st.sampled_from([".", "*", ">", " ", "\n", "\t", "é", "٣", "\u200b", "\x00", "/", "$"]), st.integers(0, 64)
)
def test_one_unsafe_character_is_enough(token: str, bad: str, place: int) -> None:
    spoiled = (token[:place] + bad + token[place:])[:64]
    if bad not in spoiled:
        spoiled = bad
    with pytest.raises(InvalidInputError):
        check_token(spoiled, "id")
    with pytest.raises(InvalidInputError):
        build("task.cancel", spoiled, "who")
    with pytest.raises(InvalidInputError):
        build("task.cancel", "c", spoiled)
    with pytest.raises(InvalidInputError):
        Namespace(spoiled)
    with pytest.raises(InvalidInputError):
        subjects.capability_filter(spoiled)
    with pytest.raises(InvalidInputError):
        subjects.conversation_filter(spoiled)


def test_a_new_id_is_safe_and_new() -> None:
    made = {new_id("c") for _ in range(100)}
    assert len(made) == 100
    assert all(check_token(one, "id").startswith("c-") for one in made)


@given(any_subject())
def test_what_is_built_is_parsed_back(subject: subjects.Subject) -> None:
    assert parse(str(subject)) == subject


@given(tokens, any_subject())
def test_a_namespace_is_on_the_wire_only(name: str, subject: subjects.Subject) -> None:
    if name in {*FAMILIES, "dead", "signal"}:
        with pytest.raises(InvalidInputError, match="namespace"):
            Namespace(name)
        return
    there = Namespace(name)
    assert there.wire(subject) == f"{name}.{subject}"
    assert there.parse(there.wire(subject)) == subject
    with pytest.raises(InvalidInputError):
        there.parse(str(subject))
    with pytest.raises(InvalidInputError):
        Namespace().parse(there.wire(subject))


@given(st.text(max_size=60) | st.lists(tokens, min_size=1, max_size=8).map(".".join))
def test_parsing_either_gives_what_was_written_or_refuses(text: str) -> None:
    try:
        subject = parse(text)
    except InvalidInputError:
        return
    assert str(subject) == text


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_has_its_grammar(kind: str) -> None:
    detail = SAMPLES[kind][0]
    subject = build(kind, "c-1", *detail)
    assert str(subject) == ".".join((kind, "c-1", *map(str, detail)))
    assert subject.kind == kind
    with pytest.raises(InvalidInputError, match="token"):
        build(kind, "c-1", *detail, "one", "two", "three")
    with pytest.raises(InvalidInputError):
        build(kind, "c-1")


def test_contracts_and_subjects_speak_of_the_same_kinds() -> None:
    assert set(KINDS) | {"handled"} == set(EVENTS)


@pytest.mark.parametrize("number", ["0", "01", "-1", "1.5", "x", "", "+1", "1_0", "٣", "1" * 19])
@pytest.mark.parametrize(
    ("kind", "before"), [("step.claimed", ("tone",)), ("plan.created", ()), ("escalate.raised", ())]
)
def test_a_number_counts_from_one(kind: str, before: tuple[str, ...], number: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(".".join((kind, "c", *before, number)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "task.submitted",
        "task.submitted.c",
        "task.unknown.c.x",
        "unknown.created.c.1",
        "handled.a b.c.1",
        "handled.x.c.y",
    ],
)
def test_subjects_that_are_not_ours_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(text)


def test_a_subject_knows_its_step_and_number() -> None:
    assert (parse("step.claimed.c.tone.3").step, parse("step.claimed.c.tone.3").number) == ("tone", 3)
    assert parse("plan.created.c.2").number == 2
    assert parse("escalate.answered.c.4").number == 4
    assert parse("handled.planner.c.17").kind == "handled"
    with pytest.raises(ValueError, match="no step"):
        _ = parse("plan.created.c.2").step
    with pytest.raises(ValueError, match="no number"):
        _ = parse("task.cancel.c.ann").number


def test_filters_match_what_they_promise() -> None:
    assert subjects.conversation_filter("c") == "*.*.c.>"
    assert subjects.attempt_filter("c", "tone", 2) == "step.*.c.tone.2"
    assert subjects.capability_filter("qa") == "step.ready.*.*.*.qa"
    assert subjects.kind_filter("step.ready") == "step.ready.>"
    with pytest.raises(InvalidInputError, match="nothing"):
        subjects.kind_filter("nothing")


def test_streams_and_buckets_carry_the_namespace() -> None:
    assert (Namespace().stream("CONVERSATIONS"), Namespace().bucket("motet-objects")) == (
        "CONVERSATIONS",
        "motet-objects",
    )
    there = Namespace("team-a")
    assert (there.stream("CONVERSATIONS"), there.bucket("motet-objects")) == (
        "team-a_CONVERSATIONS",
        "team-a-motet-objects",
    )
    assert there.families(("task", "plan")) == ("team-a.task.>", "team-a.plan.>")


def test_a_letter_has_one_name_in_both_grammars() -> None:
    assert parse("letter.dead.c.step-qa.5").letter == parse("letter.dead.c.step-qa-5").letter == "step-qa-5"
    assert subjects.letter_filter("step-qa") == "letter.retried.*.step-qa.*"
    with pytest.raises(InvalidInputError):
        parse("letter.dead.c.step-qa.five")
    with pytest.raises(InvalidInputError):
        subjects.letter_filter("a.b")
    with pytest.raises(ValueError, match="no letter"):
        _ = parse("plan.created.c.2").letter


@pytest.mark.parametrize(
    ("name", "subject", "holds"),
    [
        ("task.submitted.>", "task.submitted.c.x", True),
        ("task.submitted.>", "task.submitted", False),
        ("task.*.c.>", "task.submitted.c.x.y", True),
        ("step.ready.*.*.*.qa", "step.ready.c.s.1.qa", True),
        ("step.ready.*.*.*.qa", "step.ready.c.s.1.other", False),
        ("step.ready.*.*.*.qa", "step.ready.c.s.1", False),
        ("letter.retried.>", "letter.retried.*.me.*", True),
        ("letter.retried.*.me.*", "letter.retried.>", False),
        ("letter.*.*.me.*", "letter.retried.*.me.*", True),
        (">", "anything.at.all", True),
    ],
)
def test_a_filter_matches_what_the_server_says_it_does(name: str, subject: str, holds: bool) -> None:
    assert subjects.matches(name, subject) is holds
    assert (subject in subjects.Filters(["no.such.subject", name])) is holds
