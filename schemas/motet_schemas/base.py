"""The base of every contract: frozen, strict about types, closed to unknown fields."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue

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

    def evolve(self, **changes: object) -> Self:
        """Return a copy with `changes`, validated as a whole. Raises `pydantic.ValidationError`."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(values | changes)

    def to_json(self) -> bytes:
        """Return the contract as compact JSON; what is unset and has a default of `None` is left out."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)
