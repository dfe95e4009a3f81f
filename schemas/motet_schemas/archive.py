"""Facts that left the stream: where they are now, and how they are known again."""

from __future__ import annotations

from pydantic import Field

from motet_schemas.base import Contract
from motet_schemas.task import Reference


class Archive(Contract):
    """The facts of one conversation, from `first_seq` to `last_seq`, are kept outside the stream.

    `reference` names the compressed file by its content, wherever it is kept.
    """

    by: str = Field(min_length=1, max_length=200, description="Who archived.")
    first_seq: int = Field(ge=1, description="Stream sequence of the first archived message.")
    last_seq: int = Field(ge=1, description="Stream sequence of the last archived message.")
    count: int = Field(ge=1, description="How many messages the archive holds.")
    reference: Reference = Field(description="The archive: its SHA-256, length and media type.")
    folder: str | None = Field(
        default=None, max_length=4_096, description="The folder that it was written to; null for the object store."
    )
    host: str | None = Field(default=None, max_length=255, description="The machine that has the folder.")
