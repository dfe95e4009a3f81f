"""The base of every contract: frozen, strict about types, closed to unknown fields."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, JsonValue

Json = JsonValue
"""Anything that JSON can say."""


class Contract(BaseModel):
    """A record that crosses a process boundary.

    Instances never change; `evolve` makes a changed and validated copy.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )

    schema_version: ClassVar[int] = 1

    def evolve(self, **changes: object) -> Self:
        """Return a copy with `changes`, validated as a whole. Raises `pydantic.ValidationError`."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(values | changes)

    def to_json(self) -> bytes:
        """Return the contract as compact JSON; what is unset and has a default of `None` is left out."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)
