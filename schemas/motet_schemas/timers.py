"""Time that belongs to the server: schedules and their ticks."""

from __future__ import annotations

from pydantic import AwareDatetime, Field

from motet_schemas.base import Contract
from motet_schemas.task import Note


class Timer(Contract):
    """A schedule, and the tick that it becomes. A tick is a reason to look; what follows from it is fenced."""

    at: AwareDatetime = Field(description="When it fires, by the server's clock.")
    why: Note = Field(default="", description="What is looked at then.")
