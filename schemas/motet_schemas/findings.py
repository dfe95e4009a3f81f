"""What a check found in a document, with the place that proves it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from motet_schemas.base import Contract
from motet_schemas.ids import Token

Severity = Literal["error", "warning", "info"]
Rule = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)+$", max_length=100)]


class Finding(Contract):
    """One thing found in a draft.

    `start` and `end` count characters of the draft as decoded, so that `draft[start:end] == quote`. Something that is
    missing from the draft has no place: `quote`, `start` and `end` are null together.
    """

    step: Token = Field(description="The step that found it.")
    rule: Rule = Field(description="Which rule, as `group.rule`, for example `tone.banned`.")
    severity: Severity = Field(description="error: must change; warning: should change; info: worth knowing.")
    message: str = Field(max_length=2000, description="What is wrong and what would be right, for a human.")
    quote: str | None = Field(default=None, description="The words in the draft, exactly as they stand there.")
    start: int | None = Field(default=None, ge=0, description="Offset of the first character of the quote.")
    end: int | None = Field(default=None, ge=0, description="Offset behind the last character of the quote.")

    @model_validator(mode="after")
    def _place_is_whole(self) -> Finding:
        given = (self.quote is not None, self.start is not None, self.end is not None)
        if len(set(given)) != 1:
            raise ValueError("quote, start and end are given together or not at all")
        length = None if self.quote is None else len(self.quote)
        if self.start is not None and self.end is not None and self.end - self.start != length:
            raise ValueError(f"end - start is {self.end - self.start}, but the quote has {length} characters")
        return self
