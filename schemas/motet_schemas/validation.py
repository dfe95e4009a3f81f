"""Turns pydantic's errors into one clear sentence for the person who wrote the input.

It names the field, the value and the rule, and for an unknown field the nearest known name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from motet_schemas.errors import InvalidInputError
from motet_schemas.printing import cut, printable

_SHOWN_CHARACTERS = 80
_LONGEST_PATH = 300
_LONGEST_NAME = 100
_TEXT_WANTED = "must be text"
_RULES = {
    "missing": "is required",
    "string_type": _TEXT_WANTED,
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def explain(error: ValidationError, model: type[BaseModel], where: str) -> InvalidInputError:
    """Return the first problem of `error` as an `InvalidInputError`, and say how many more there are.

    An unknown field comes before a missing one: most often it is the missing one, misspelled.

    `model` is the contract that refused the input: the names of its fields serve as suggestions. `where` says what was
    read, for example a file name, and opens the message.
    """
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path, fields = _walk(first["loc"], model)
    same_place = [problem for problem in problems if _walk(problem["loc"], model)[0] == path]
    rule = _rule(first, path, fields, model) if len(same_place) == 1 else _alternatives(same_place, path, fields, model)
    field = cut(".".join(map(shown_name, path)), _LONGEST_PATH)
    more = len(problems) - len(same_place)
    tail = f" ({more} more {'problem' if more == 1 else 'problems'})" if more else ""
    opening = f"{where}: {field}: " if field else f"{where}: "
    value = None if first["type"] == "missing" else first["input"]
    return InvalidInputError(f"{opening}{rule}{tail}", field=field or None, value=value, rule=rule)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, or None when none is close."""
    if len(name) > _LONGEST_NAME:
        return None
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.5)
    return by_folded[close[0]] if close else None


def unknown_field(name: str, known: list[str]) -> str:
    """Return the rule that an unknown field breaks, with the nearest known name where there is one."""
    close = nearest(name, known)
    hint = f", did you mean '{close}'?" if close else "."
    return f"unknown field{hint} Known here: {', '.join(known)}"


def shown_name(name: str) -> str:
    """Return a name that somebody made up as it may stand in a message: short, and unable to command a terminal."""
    return cut(printable(name), _SHOWN_CHARACTERS)


def shown(value: object) -> str:
    """Return `value` as it may stand in a message: short, and quoted when it is text."""
    return cut(repr(value if not isinstance(value, str) else value[: _SHOWN_CHARACTERS + 1]), _SHOWN_CHARACTERS)


def _rule(problem: ErrorDetails, path: list[str], fields: list[FieldInfo], model: type[BaseModel]) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return unknown_field(str(problem["loc"][-1]), _known_names(path, model))
    if kind == "missing":
        return _RULES[kind]
    if kind in ("less_than_equal", "greater_than_equal", "less_than", "greater_than"):
        return f"must be {_range(fields, problem)}, not {shown(value)}"
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    rule = _RULES.get(kind)
    if rule is None:
        message = str(problem["msg"]).removeprefix("Input should ").removeprefix("Value should ")
        rule = f"must {message}" if message != problem["msg"] else message
    hint = "; put it in quotes" if rule == _TEXT_WANTED and isinstance(value, bool | int | float) else ""
    return f"{rule}, not {shown(value)}{hint}"


def _alternatives(
    problems: list[ErrorDetails], path: list[str], fields: list[FieldInfo], model: type[BaseModel]
) -> str:
    """Say what a field of several types may be, when it is none of them."""
    rules = [_rule(problem, path, fields, model) for problem in problems]
    ending = f", not {shown(problems[0]['input'])}"
    if all(rule.startswith("must be ") and rule.endswith(ending) for rule in rules):
        return "must be " + " or ".join(rule[len("must be ") : -len(ending)] for rule in rules) + ending
    return "; ".join(dict.fromkeys(rules))


def _range(fields: list[FieldInfo], problem: ErrorDetails) -> str:
    low, high = _bound(fields, "ge"), _bound(fields, "le")
    if low is not None and high is not None:
        return f"from {low:,} to {high:,}"
    context: Mapping[str, Any] = problem.get("ctx", {})
    words = {"le": "at most", "ge": "at least", "lt": "less than", "gt": "more than"}
    return next((f"{words[key]} {limit}" for key, limit in context.items() if key in words), "in range")


def _bound(fields: list[FieldInfo], name: str) -> float | None:
    limits = [getattr(mark, name, None) for field in fields[-1:] for mark in field.metadata]
    return next((limit for limit in limits if isinstance(limit, int | float)), None)


def _known_names(path: list[str], model: type[BaseModel]) -> list[str]:
    """Return the field names at the place where the last part of `path` is not one of them."""
    owners: list[type[BaseModel]] = [model]
    for part in path[:-1]:
        inner = [owner.model_fields[part].annotation for owner in owners if part in owner.model_fields]
        owners = [found for annotation in inner for found in _models(annotation)] or owners
    return list(dict.fromkeys(name for owner in owners for name in owner.model_fields))


def _walk(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], list[FieldInfo]]:
    """Follow `location` through the model; parts that only name a member of a union are left out of the path."""
    owners: list[type[BaseModel]] = [model]
    open_keys = False
    path: list[str] = []
    fields: list[FieldInfo] = []
    for position, part in enumerate(location):
        found = [owner.model_fields[part] for owner in owners if isinstance(part, str) and part in owner.model_fields]
        if found:
            fields.append(found[0])
            annotation = found[0].annotation
            owners, open_keys = list(_models(annotation)), "dict" in str(annotation).lower()
        elif not (isinstance(part, int) or open_keys or (owners and position == len(location) - 1)):
            continue
        path.append(str(part))
    return path, fields


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
