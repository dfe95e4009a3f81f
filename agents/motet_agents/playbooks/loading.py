"""Reads playbook files: those that ship with Motet, and those of a user's folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter, ValidationError

from motet_agents.playbooks.playbook import Playbook
from motet_agents.strict_yaml import parse_structured
from motet_bus.files import read_file
from motet_schemas import BudgetLimits, InvalidInputError, limits_context
from motet_schemas.validation import explain

_LARGEST_BYTES = 1 << 20
_LIMITS: TypeAdapter[BudgetLimits] = TypeAdapter(BudgetLimits)


def load_playbooks(folders: Iterable[Path] = ()) -> dict[str, Playbook]:
    """Return all playbooks by name; one of a later folder replaces one of the same name.

    A file is read again only when it has changed. Raises `InvalidInputError` that names the file for one that cannot be
    read or breaks a rule.
    """
    playbooks = dict(_shipped())
    for folder in folders:
        if not folder.is_dir():
            raise InvalidInputError(f"playbooks: {folder} is no folder", field="playbooks", value=str(folder))
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
            playbook = _read_file(path, *_changed(path))
            playbooks[playbook.name] = playbook
    return playbooks


@cache
def _shipped() -> dict[str, Playbook]:
    ours = [file for file in files("motet_agents.playbooks").iterdir() if file.name.endswith(".yaml")]
    read = [read_playbook(file.read_text(encoding="utf-8"), file.name) for file in ours]
    return {playbook.name: playbook for playbook in read}


def _changed(path: Path) -> tuple[int, int]:
    """Return what changes with a file, zeros for one that cannot be looked at: reading it says why."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=256)
def _read_file(path: Path, _changed_ns: int, _size: int) -> Playbook:
    data = read_file(path, "playbooks", max_bytes=_LARGEST_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path}: cannot be read: it is not UTF-8 (byte {error.start})", field="playbooks", value=str(path)
        ) from error
    return read_playbook(text, str(path))


def read_playbook(text: str, where: str) -> Playbook:
    """Parse one playbook. Raises `InvalidInputError` with line and column, or with field, value and rule."""
    data: object = parse_structured(text, where, where)
    if not isinstance(data, dict):
        raise InvalidInputError(f"{where}: a playbook is a mapping", field=where)
    try:
        limits = _limits(json.dumps(cast("dict[str, object]", data).get("limits") or {}), where)
        playbook = Playbook.model_validate_json(json.dumps(data), context=limits_context(limits))
    except ValidationError as error:
        raise explain(error, Playbook, where) from error
    return playbook


def _limits(data: str, where: str) -> BudgetLimits:
    try:
        return _LIMITS.validate_json(data)
    except ValidationError as error:
        raise explain(error, BudgetLimits, f"{where}: limits") from error
