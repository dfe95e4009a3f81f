"""The base of every contract: frozen, strict about types, closed to unknown fields."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Final, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler, JsonValue
from pydantic_core import CoreSchema

DEEPEST: Final = 64
"""How many levels of lists and objects a JSON value may have, so that what carries it can still be read."""


def _plain(value: JsonValue) -> JsonValue:
    """Return `value` unless it holds what JSON cannot say (NaN, infinity) or is nested too deeply."""
    level: list[JsonValue] = [value]
    for _ in range(DEEPEST + 1):
        inner: list[JsonValue] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
            elif isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{one} is no number that JSON can say")
        if not inner:
            return value
        level = inner
    raise ValueError(f"nested more than {DEEPEST} levels deep")


Json = Annotated[JsonValue, AfterValidator(_plain)]
"""Anything that JSON can say: no NaN, no infinity, at most 64 levels deep."""


def _stop_at_the_first(schema: object) -> None:
    if isinstance(schema, dict):
        part = cast("dict[str, object]", schema)
        if part.get("type") in ("list", "tuple"):
            part["fail_fast"] = True
        for inner in part.values():
            _stop_at_the_first(inner)
    elif isinstance(schema, list):
        for inner in cast("list[object]", schema):
            _stop_at_the_first(inner)


class Contract(BaseModel):
    """A record that crosses a process boundary.

    Instances never change; `evolve` makes a changed and validated copy.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,
    )

    schema_version: ClassVar[int] = 1

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Have every list stop at its first problem: an outsider's can hold a million, and each takes time and room."""
        schema = handler(source)
        _stop_at_the_first(schema)
        return schema

    def evolve(self, **changes: object) -> Self:
        """Return a copy with `changes`, validated as a whole. Raises `pydantic.ValidationError`."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(values | changes)

    def to_json(self) -> bytes:
        """Return the contract as compact JSON; what is unset and has a default of `None` is left out."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)
