"""What any system may ask for."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import AwareDatetime, Field, model_validator

from motet_schemas.base import Contract, Json
from motet_schemas.budget import BudgetOverride, PolicyOverride
from motet_schemas.ids import Token

Text = Annotated[str, Field(max_length=20_000)]
Note = Annotated[str, Field(max_length=2_000)]


class Reference(Contract):
    """A large body in the object store. The name is the body's SHA-256 in hex, so the same body is stored once."""

    name: str = Field(pattern=r"^[0-9a-f]{64}$", description="Object name: the SHA-256 of the body, in hex.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the body, in hex.")
    size_bytes: int = Field(ge=0, description="Length of the body in bytes.")
    media_type: str = Field(default="application/octet-stream", max_length=100, description="RFC 6838 media type.")

    @model_validator(mode="after")
    def _named_by_content(self) -> Reference:
        if self.name != self.sha256:
            raise ValueError("name: must be the sha256 of the body")
        return self


class Task(Contract):
    """A piece of work for one playbook. The conversation id in its subject is the caller's idempotency key."""

    kind: Token = Field(description="The playbook that says how this kind of task is done.")
    input: dict[str, Json] = Field(default_factory=dict, description="Named inputs, small enough to travel along.")
    references: dict[str, Reference] = Field(default_factory=dict, description="Named inputs kept in the object store.")
    checklist: Json = Field(default=None, description="The rules to check by; the playbook says which it knows.")
    constraints: tuple[Note, ...] = Field(default=(), max_length=50, description="What must not be done.")
    owner: str | None = Field(default=None, max_length=200, description="Who answers for the task, and is asked.")
    due: AwareDatetime | None = Field(default=None, description="When the work is wanted.")
    budget: BudgetOverride | None = Field(default=None, description="What differs from the playbook's budget.")
    policy: PolicyOverride | None = Field(default=None, description="What differs from the playbook's policy.")

    def fingerprint(self) -> str:
        """Return a hash of the content: two submissions are the same when their fingerprints are."""
        canonical = json.dumps(json.loads(self.to_json()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class CancelRequest(Contract):
    """Somebody wants the conversation to stop."""

    reason: Note = Field(default="", description="Why, for the report.")
    requested_by: str = Field(default="unknown", max_length=200, description="Who asks.")
