"""A checklist is refused with the field, the value and the rule, or it is understood."""

from __future__ import annotations

import pytest
import yaml
from pydantic import BaseModel, Field, ValidationError

from motet_agents.qa import Checklist, load_checklist
from motet_schemas.errors import InvalidInputError
from motet_schemas.validation import explain


def test_the_documented_example_is_understood() -> None:
    checklist = load_checklist(
        yaml.safe_load("""
            tone: {banned: [revolutionary], preferred: {utilize: use}, max_sentence_words: 30, min_reading_ease: 40}
            compliance: {required: ["Terms apply"], forbidden: ["risk-free"]}
            links: {allow_hosts: ["127.0.0.1:8081"], timeout_s: 5}
        """),
        "task.yaml",
    )
    assert checklist.tone is not None
    assert checklist.tone.preferred == {"utilize": "use"}
    assert checklist.compliance is not None
    assert checklist.compliance.required == ("Terms apply",)
    assert checklist.links is not None
    assert checklist.links.timeout_s == 5


@pytest.mark.parametrize("data", [{"links": {}}, {"links": None}, {"tone": {}}, {"tone": None}])
def test_an_empty_section_still_names_its_check(data: object) -> None:
    checklist = load_checklist(data, "c")
    assert (checklist.links is not None) != (checklist.tone is not None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, ["names no check", "tone", "compliance", "links"]),
        ({}, ["names no check"]),
        ([1], ["must be a mapping", "list"]),
        ({"compliance": {}}, ["compliance", "names no phrase"]),
        ({"lnks": {}}, ["lnks", "unknown field", "did you mean 'links'"]),
        ({"tone": {"baned": ["x"]}}, ["tone.baned", "did you mean 'banned'", "max_sentence_words"]),
        ({"tone": {"max_sentence_words": 0}}, ["tone.max_sentence_words", "from 1 to 500", "0"]),
        ({"tone": {"min_reading_ease": 120}}, ["tone.min_reading_ease", "from 0 to 100", "120"]),
        ({"tone": {"min_reading_ease": float("nan")}}, ["finite"]),
        ({"tone": {"banned": "free"}}, ["tone.banned", "must be a list", "'free'"]),
        ({"tone": {"banned": [True]}}, ["tone.banned.0", "must be text", "quotes"]),
        ({"tone": {"banned": ["!!"]}}, ["tone.banned.0", "letter or digit"]),
        ({"tone": {"hype": 3}}, ["tone.hype", "true or false or a list", "3"]),
        ({"tone": {"preferred": {"utilize": 1}}}, ["tone.preferred.utilize", "must be text"]),
        ({"links": {"allow_hosts": ["http://x/"]}}, ["links.allow_hosts.0", "host:port", "http://x/"]),
        ({"links": {"allow_hosts": ["::1"]}}, ["links.allow_hosts.0", "[::1]"]),
        ({"links": {"timeout_s": "5"}}, ["links.timeout_s", "must be a number"]),
        ({"tone": {1: "x"}}, ["tone", "key 1", "quotes"]),
        ({"tone": {"banned": [yaml.safe_load("2026-01-01")]}}, ["tone.banned.0", "2026-01-01", "quotes"]),
    ],
)
def test_what_is_wrong_is_named(data: object, words: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_checklist(data, "brand.yaml")
    message = str(caught.value)
    assert message.startswith("brand.yaml: ")
    for word in words:
        assert word in message


def test_an_error_carries_field_value_and_rule() -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_checklist({"tone": {"max_sentence_words": 900}}, "c")
    assert caught.value.field == "tone.max_sentence_words"
    assert caught.value.value == 900
    assert caught.value.rule == "must be from 1 to 500, not 900"


def test_a_checklist_that_holds_itself_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["tone"] = loop
    with pytest.raises(InvalidInputError, match="itself"):
        load_checklist(loop, "c")


def test_the_first_problem_is_told_and_the_others_are_counted() -> None:
    with pytest.raises(InvalidInputError, match=r"\(2 more problems\)"):
        load_checklist({"tone": {"max_sentence_words": 0, "xyz": 1}, "links": {"timeout_s": 0}}, "c")


@pytest.mark.parametrize("entry", ["127.0.0.1:8081", "example.com", "[::1]:80", "[::1]", "localhost"])
def test_hosts_may_be_given_with_or_without_port(entry: str) -> None:
    assert load_checklist({"links": {"allow_hosts": [entry]}}, "c").links is not None


class _Inner(BaseModel):
    size: int = Field(gt=3)


class _Outer(BaseModel):
    name: str
    inner: list[_Inner] = []


def test_explain_serves_any_model() -> None:
    with pytest.raises(ValidationError) as missing:
        _Outer.model_validate({})
    assert str(explain(missing.value, _Outer, "t")) == "t: name: is required"
    with pytest.raises(ValidationError) as low:
        _Outer.model_validate({"name": "a", "inner": [{"size": 1}]})
    assert str(explain(low.value, _Outer, "t")) == "t: inner.0.size: must be more than 3, not 1"


def test_a_checklist_is_a_contract_that_survives_the_wire() -> None:
    checklist = load_checklist({"tone": {"hype": ["mega"]}, "links": {}}, "c")
    assert Checklist.model_validate_json(checklist.to_json()) == checklist
