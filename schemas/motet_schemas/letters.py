"""Messages that could not be handled, and what became of them."""

from __future__ import annotations

from pydantic import AwareDatetime, Field

from motet_schemas.base import Contract
from motet_schemas.task import Note, Reference
from motet_schemas.work import Failure


class LetterNotice(Contract):
    """Tells a conversation that one of its messages went to the dead letters."""

    consumer: str = Field(pattern=r"^[A-Za-z0-9_-]{1,128}$", description="The consumer that gave up.")
    subject: str = Field(max_length=500, description="The message's subject.")
    sequence: int = Field(
        ge=1, description="What the letter is called after: the message's sequence, or that of the retry that failed."
    )
    message: int | None = Field(
        default=None,
        ge=1,
        description="The message's sequence in the stream, where the letter is called after a retry.",
    )
    deliveries: int = Field(ge=1, description="How often it was delivered, retries included.")
    failure: Failure = Field(description="Why it could not be handled.")
    instance: str = Field(default="", max_length=200, description="Who gave up.")
    agent: str = Field(default="", max_length=200, description="The name of the agent that gave up.")
    version: str = Field(default="", max_length=100, description="The version of Motet that it ran.")
    first_failed_at: AwareDatetime | None = Field(
        default=None, description="When it failed for the first time, by the agent's clock."
    )


class DeadLetter(LetterNotice):
    """The letter itself, as kept in the stream `DEAD_LETTERS`."""

    headers: dict[str, str] = Field(default_factory=dict, description="The message's headers.")
    body: str = Field(default="", description="The message's body, in base64.")
    reference: Reference | None = Field(default=None, description="The body in the object store, when it is large.")
    stack: str = Field(default="", description="Where it broke, for developers.")
    stored_at: AwareDatetime = Field(description="When the message was stored.")


class LetterAct(Contract):
    """Somebody retried or discarded a dead letter."""

    by: str = Field(min_length=1, max_length=200, description="Who.")
    reason: Note = Field(default="", description="Why.")


class LetterRetry(LetterAct):
    """The consumer that gave up reads the message again and handles it as if it had just been delivered."""

    message: int | None = Field(
        default=None, ge=1, description="The message's sequence in the stream; by default the letter's own."
    )
    subject: str = Field(default="", max_length=500, description="The message's subject, should it be gone.")
    tries: int = Field(default=1, ge=1, description="How often it was delivered before.")
    first_failed_at: AwareDatetime | None = Field(default=None, description="When it failed for the first time.")
