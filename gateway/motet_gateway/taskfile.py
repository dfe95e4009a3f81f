"""Reads a task file: everything that can be wrong with it is said before anything is published.

Paths are relative to the file. Small documents travel inside the task, large ones by reference.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import ValidationError

if TYPE_CHECKING:
    from motet_agents.playbooks import Playbook
    from motet_schemas.plan import Plan

from motet_agents.qa.documents import MAX_BYTES, document_of, read_document
from motet_agents.strict_yaml import read_mapping, read_structured
from motet_bus.files import read_file
from motet_schemas.budget import ANY_LIMITS, limits_context
from motet_schemas.errors import InvalidInputError
from motet_schemas.ids import check_token
from motet_schemas.task import Reference, Task
from motet_schemas.validation import explain, nearest, shown, shown_name, unknown_field

INLINE_BYTES: Final = 8 * 1024
DRAFT: Final = "draft"

_KEYS: Final = ("kind", "id", "input", "checklist", "constraints", "owner", "due", "budget", "policy")
_DOCUMENT_KEYS: Final = (DRAFT, "text", "media_type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document of the task, always as UTF-8 without byte order mark, so that every reader decodes the same text."""

    data: bytes
    media_type: str

    @property
    def text(self) -> str:
        """The document as decoded."""
        return self.data.decode("utf-8")

    def reference(self) -> Reference:
        """Return the reference under which the object store will keep it."""
        digest = hashlib.sha256(self.data).hexdigest()
        return Reference(name=digest, sha256=digest, size_bytes=len(self.data), media_type=self.media_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTask:
    """A task as it will be submitted, under the id in its file or a made-up one.

    `documents` holds every document by its name among the task's inputs; those named in `task.references` have to be
    in the object store before the task is submitted.
    """

    conversation: str
    task: Task
    documents: dict[str, Document] = field(default_factory=dict[str, Document])


def load_task(path: Path) -> LoadedTask:
    """Read and check the task file at `path`, YAML or (`.json`) JSON.

    Raises `InvalidInputError` with file, field, value and rule.
    """
    content = read_mapping(path, "task")
    where = str(path)
    for name in content:
        if name not in _KEYS:
            rule = unknown_field(name, list(_KEYS))
            name = shown_name(name)
            raise InvalidInputError(f"{where}: {name}: {rule}", field=name, rule=rule)
    fields = {name: value for name, value in content.items() if value is not None and name not in ("id", "input")}
    inputs, documents = _read_input(content.get("input"), path)
    if isinstance(checklist := fields.get("checklist"), str):
        fields["checklist"] = _read_checklist(checklist, path)
    small = {name: document for name, document in documents.items() if len(document.data) <= INLINE_BYTES}
    inputs |= {name: document.text for name, document in small.items()}
    references = {
        name: json.loads(document.reference().to_json()) for name, document in documents.items() if name not in small
    }
    task = _validated({**fields, "input": inputs, "references": references}, where)
    return LoadedTask(conversation=_conversation(content, task, where), task=task, documents=documents)


def check_task(loaded: LoadedTask, playbooks: Mapping[str, Playbook], where: str) -> Plan:
    """Return the plan that the task's playbook makes of it, as the planner will.

    Raises `InvalidInputError` for an unknown kind and for whatever the playbook refuses; `where` opens the message.
    """
    kind = loaded.task.kind
    playbook = playbooks.get(kind)
    if playbook is None:
        like = nearest(kind, list(playbooks))
        hint = f", did you mean {like!r}?" if like else "."
        rule = f"there is no playbook {kind!r}{hint} Known here: {', '.join(sorted(playbooks))}"
        raise InvalidInputError(f"{where}: kind: {rule}", field="kind", value=kind, rule=rule)
    try:
        return playbook.make_plan(loaded.task)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}", field=error.field, value=error.value, rule=error.rule) from error


def _read_checklist(given: str, path: Path) -> Any:
    file = _beside(path, given)
    try:
        return read_structured(file, "checklist")
    except InvalidInputError as error:
        message = str(error).removeprefix("checklist: ")
        raise InvalidInputError(
            f"{path}: checklist: {message}{_relative(file)}", field="checklist", value=given, rule=error.rule
        ) from error


def _beside(path: Path, given: str) -> Path:
    """Return the file that a task file names: relative to it, or absolute; the user's own rights are the limit."""
    try:
        return path.parent / Path(given).expanduser()
    except RuntimeError:  # the home of somebody who does not exist
        return path.parent / given


def _relative(file: Path) -> str:
    return "" if os.path.lexists(file) else "; paths are relative to the task file"


def _read_input(given: object, path: Path) -> tuple[dict[str, Any], dict[str, Document]]:
    if given is None:
        return {}, {}
    if not isinstance(given, dict):
        raise InvalidInputError(
            f"{path}: input: must be a mapping, for example {{draft: text.md}}, not {shown(given)}",
            field="input",
            value=given,
            rule="a mapping",
        )
    inputs = dict(cast("dict[str, Any]", given))
    _check_names(inputs, path)
    media_type = inputs.get("media_type")
    if media_type is not None and not isinstance(media_type, str):
        raise InvalidInputError(
            f"{path}: input.media_type: must be a media type such as text/markdown, not {shown(media_type)}",
            field="input.media_type",
            value=media_type,
        )
    document = _read_document(inputs, path, media_type)
    if document is None:
        return inputs, {}
    for name in (DRAFT, "text"):
        inputs.pop(name, None)
    return {**inputs, "media_type": document.media_type}, {DRAFT: document}


def _check_names(inputs: dict[str, Any], path: Path) -> None:
    """Catch a slip of the pen in a well-known name; other names are for the playbook to judge."""
    if DRAFT in inputs and "text" in inputs:
        raise InvalidInputError(
            f"{path}: input: names both draft and text; give the draft once", field="input", rule="draft or text"
        )
    for name in inputs:
        close = difflib.get_close_matches(name[:100], _DOCUMENT_KEYS, n=1, cutoff=0.8)
        if name not in _DOCUMENT_KEYS and close and close[0] not in inputs:
            rule = unknown_field(name, list(_DOCUMENT_KEYS))
            field = f"input.{shown_name(name)}"
            raise InvalidInputError(f"{path}: {field}: {rule}", field=field, value=inputs[name], rule=rule)


def _read_document(inputs: dict[str, Any], path: Path, media_type: str | None) -> Document | None:
    name = next((name for name in (DRAFT, "text") if name in inputs), None)
    if name is None:
        return None
    value = inputs[name]
    if not isinstance(value, str):
        wanted = "the path of a file" if name == DRAFT else "text"
        raise InvalidInputError(
            f"{path}: input.{name}: must be {wanted}, not {shown(value)}", field=f"input.{name}", value=value
        )
    file = _beside(path, value) if name == DRAFT else None
    try:
        if file is not None:
            data = read_file(file, "input.draft", max_bytes=MAX_BYTES)
            read = read_document(data, name=str(file), media_type=media_type)
        else:
            read = document_of(value, name="input.text", media_type=media_type)
    except InvalidInputError as error:
        hint = _relative(file) if file is not None else ""
        raise InvalidInputError(
            f"{path}: {error}{hint}", field=f"input.{name}", value=error.value, rule=error.rule
        ) from error
    return Document(data=read.text.encode(), media_type=read.media_type)


def _validated(fields: dict[str, Any], where: str) -> Task:
    try:
        # A budget's ranges are the playbook's to say: `check_task`.
        return Task.model_validate_json(json.dumps(fields, allow_nan=False), context=limits_context(ANY_LIMITS))
    except ValidationError as error:
        raise explain(error, Task, where) from error


def _conversation(content: dict[str, Any], task: Task, where: str) -> str:
    given = content.get("id")
    if given is None:
        return f"{task.kind[:50]}-{secrets.token_hex(5)}"
    if not isinstance(given, str):
        raise InvalidInputError(
            f"{where}: id: must be text, not {shown(given)}; put it in quotes", field="id", value=given
        )
    try:
        return check_token(given, "id")
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}", field="id", value=given, rule=error.rule) from error
