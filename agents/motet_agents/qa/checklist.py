"""The checklist of a `content-qa` task: what a draft must say, must not say, and how it should sound."""

from __future__ import annotations

import json
from typing import Annotated, cast

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from motet_schemas.base import Contract
from motet_schemas.errors import InvalidInputError
from motet_schemas.validation import explain


def _says_something(phrase: str) -> str:
    if not any(character.isalnum() for character in phrase):
        raise ValueError(f"must hold at least one letter or digit, not {phrase!r}")
    return phrase


def _host_with_optional_port(entry: str) -> str:
    host, colon, port = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
    if not colon:
        host, port = entry, "0"
    bad_host = not host or any(character in host for character in "/@?#*,") or any(map(str.isspace, host))
    if bad_host or (":" in host and not host.startswith("[")) or not port.isascii() or not port.isdigit():
        raise ValueError(f"must be 'host' or 'host:port', for example '127.0.0.1:8081' or '[::1]:80', not {entry!r}")
    return entry


Phrase = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_says_something)]
Phrases = Annotated[tuple[Phrase, ...], Field(max_length=500)]
AllowedHost = Annotated[str, StringConstraints(min_length=1, max_length=260), AfterValidator(_host_with_optional_port)]


class ToneRules(Contract):
    """How the draft should sound. Without any rule, only advice on hype and shouting is given."""

    banned: Phrases = Field(default=(), description="Words and phrases that must not be used.")
    preferred: dict[Phrase, Phrase] = Field(
        default_factory=dict, max_length=500, description="Words to avoid, each with the better one."
    )
    max_sentence_words: int | None = Field(default=None, ge=1, le=500, description="Longest sentence, in words.")
    min_reading_ease: float | None = Field(
        default=None, ge=0, le=100, description="Least Flesch reading ease of the whole draft; English only."
    )
    hype: bool | Phrases | None = Field(
        default=None, description="true: warn of hype; a list: of these words; false: say nothing; unset: advise only."
    )
    shouting: bool | None = Field(
        default=None, description="true: warn of capitals and '!!'; false: say nothing; unset: advise only."
    )


class ComplianceRules(Contract):
    """What the draft must say and must not say."""

    required: Phrases = Field(default=(), description="Phrases that must stand in the draft.")
    forbidden: Phrases = Field(default=(), description="Phrases that must not stand in the draft.")
    near_miss_ratio: float = Field(
        default=85, ge=70, le=99, description="From how similar on (0-100) other words count as a near miss."
    )

    @model_validator(mode="after")
    def _names_a_phrase(self) -> ComplianceRules:
        if not self.required and not self.forbidden:
            raise ValueError("names no phrase: give 'required' or 'forbidden'")
        return self


class LinkRules(Contract):
    """How the draft's links are checked."""

    allow_hosts: tuple[AllowedHost, ...] = Field(
        default=(), max_length=200, description="host or host:port that may be asked although it is private or local."
    )
    timeout_s: float = Field(default=5.0, ge=0.1, le=60, description="For one request, connecting included, seconds.")
    time_budget_s: float = Field(default=60.0, ge=1, le=600, description="For all requests together, in seconds.")
    max_links: int = Field(default=1_000, ge=1, le=10_000, description="How many distinct targets are asked at most.")


class Checklist(Contract):
    """The rules of one task. A section that is present is a check that runs."""

    tone: ToneRules | None = Field(default=None, description="Brand voice and readability.")
    compliance: ComplianceRules | None = Field(default=None, description="Required and forbidden phrases.")
    links: LinkRules | None = Field(default=None, description="Links and anchors.")

    @model_validator(mode="after")
    def _names_a_check(self) -> Checklist:
        if self.tone is None and self.compliance is None and self.links is None:
            raise ValueError("names no check: give at least one of 'tone', 'compliance' and 'links'")
        return self


def load_checklist(data: object, where: str) -> Checklist:
    """Return the checklist that `data` (as YAML or JSON was parsed) describes.

    `where` names the source in messages. Raises `InvalidInputError` with field, value and rule. A section given as
    null (YAML: `links:` and nothing behind it) counts as the section with no settings.
    """
    if data is None or data == {}:
        raise InvalidInputError(f"{where}: names no check: give at least one of 'tone', 'compliance' and 'links'")
    if not isinstance(data, dict):
        raise InvalidInputError(f"{where}: a checklist must be a mapping, not {type(data).__name__}", value=data)
    given = cast("dict[object, object]", data)
    sections: dict[object, object] = {
        key: {} if value is None and key in Checklist.model_fields else value for key, value in given.items()
    }
    try:
        text = json.dumps(_plain(sections, ()), allow_nan=True)
        return Checklist.model_validate_json(text)
    except ValidationError as error:
        raise explain(error, Checklist, where) from error
    except _NotJsonError as error:
        raise InvalidInputError(
            f"{where}: {error}", field=error.field or None, value=error.value, rule=error.rule
        ) from error
    except RecursionError as error:
        raise InvalidInputError(f"{where}: refers to itself, or is nested too deeply") from error


class _NotJsonError(Exception):
    """A value that YAML knows and JSON does not: a date, a key that is no text."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field}: {rule}" if field else rule)
        self.field, self.value, self.rule = field, value, rule


def _plain(value: object, path: tuple[str, ...]) -> object:
    if isinstance(value, dict):
        plain: dict[str, object] = {}
        for key, inner in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise _NotJsonError(".".join(path), key, f"the key {key!r} must be text; put it in quotes")
            plain[key] = _plain(inner, (*path, key))
        return plain
    if isinstance(value, list | tuple):
        items = cast("list[object]", value)
        return [_plain(inner, (*path, str(position))) for position, inner in enumerate(items)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise _NotJsonError(
        ".".join(path), value, f"must be text, a number, true or false, not {value!s}; put it in quotes"
    )
