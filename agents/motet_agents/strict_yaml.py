"""Reads YAML and JSON that people wrote: JSON's types only, no duplicate keys, no bombs, errors with their place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml
from yaml.composer import ComposerError
from yaml.error import Mark

from motet_bus.files import read_file
from motet_schemas.errors import InvalidInputError
from motet_schemas.printing import cut
from motet_schemas.validation import shown

MAX_BYTES: Final = 5 * 1024 * 1024
MAX_NODES: Final = 50_000
"""How many values a file may amount to once its aliases are followed."""
MAX_DEPTH: Final = 100
"""How many lists and mappings a value may lie in."""
MAX_DIGITS: Final = 300
"""How many digits a whole number may have."""

_TOO_MANY: Final = f"more than {MAX_NODES:,} values"
_HALF: Final = "holds half of a surrogate pair, which is no character"
_TOO_DEEP: Final = f"nested too deeply: more than {MAX_DEPTH} levels"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TYPES: Final = ("null", "bool", "int", "float", "str", "seq", "map")
_TAG: Final = "tag:yaml.org,2002:"


def read_structured(path: Path, field: str) -> Any:
    """Return what a `.json` file, or a YAML file of any other name, holds: JSON's types only.

    Raises `InvalidInputError`, naming `field` and the file, when it cannot be read, is larger than 5 MiB, is not UTF-8,
    or does not parse (with line and column).
    """
    return parse_structured(_read_text(path, field), str(path), field, as_json=path.suffix.lower() == ".json")


def parse_structured(text: str, where: str, field: str, *, as_json: bool = False) -> Any:
    """Return what YAML (or JSON) says: JSON's types only. `where` opens the message of what is raised.

    Raises `InvalidInputError`, naming `field`, with line and column where there are any.
    """
    try:
        return _parse_json(text) if as_json else _parse_yaml(text)
    except _BadTextError as error:
        raise InvalidInputError(f"{where}: {error}", field=field, value=where) from error


def read_mapping(path: Path, field: str) -> dict[str, Any]:
    """Return a file that holds a mapping; an empty file is an empty one. Raises as `read_structured`."""
    content = read_structured(path, field)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"{path}: must be a mapping (`name: value`), not {type(content).__name__}",
            field=field,
            value=str(path),
            rule="a mapping",
        )
    return cast("dict[str, Any]", content)


class _BadTextError(Exception):
    """The text breaks a rule; the message says where."""


def _read_text(path: Path, field: str) -> str:
    try:
        return read_file(path, field, max_bytes=MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{field}: {path} is not UTF-8 (byte {error.start}); save it as UTF-8", field=field, value=str(path)
        ) from error


def _parse_json(text: str) -> Any:
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise _BadTextError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise _BadTextError(f"invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    _check_values(value)
    return value


def _check_values(value: Any) -> None:
    level: list[Any] = [value]
    total = 0
    for _ in range(MAX_DEPTH + 2):
        if not level:
            return
        total += len(level)
        if total > MAX_NODES:
            raise _BadTextError(_TOO_MANY)
        if any(isinstance(one, str) and _SURROGATE.search(one) for one in level):
            raise _BadTextError(_HALF)
        level = [child for one in level for child in _items(one)]
    raise _BadTextError(_TOO_DEEP)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return (*entries, *entries.values())
    return cast("Iterable[Any]", value) if isinstance(value, list) else ()


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _BadTextError(f"a number of more than {MAX_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _BadTextError(f"{shown(digits)} is no number that can be used here")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _BadTextError(f"the key {shown(key)} is there twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise _BadTextError(f"{name} is no number that JSON knows")


def _parse_yaml(text: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise _BadTextError(f"invalid YAML{place}: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise _BadTextError(
            f"invalid YAML: the character U+{error.character:04X} at offset {error.position} is not allowed"
        ) from error
    except yaml.YAMLError as error:
        raise _BadTextError(f"invalid YAML: {error}") from error
    except (ValueError, OverflowError) as error:
        raise _BadTextError("invalid YAML: holds an escape that names no character, or no readable number") from error


class _Loader(yaml.SafeLoader):
    """Knows JSON's types only (a date stays the text it is), and refuses the same key twice."""

    yaml_constructors = {  # noqa: RUF012 - PyYAML's own way to say which types a loader knows
        **{f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"] for name in ("null", "bool", "str")},
        None: yaml.SafeLoader.yaml_constructors[None],
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in rules if tag.removeprefix(_TAG) in _TYPES]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            event = cast("yaml.Event", self.peek_event())  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, _TOO_MANY, cast("Mark", event.start_mark))
        if self._depth > MAX_DEPTH:
            event = cast("yaml.Event", self.peek_event())  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, _TOO_DEEP, cast("Mark", event.start_mark))
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.construct_object(item, deep=True) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}float":
            return self._finite(node)
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}int":
            return self._whole(node)
        if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(node.value):
            raise yaml.constructor.ConstructorError(None, None, _HALF, node.start_mark)
        return super().construct_object(node, deep=deep)  # pyright: ignore[reportUnknownMemberType]

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key: Hashable = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)} is not text; put it in quotes", key_node.start_mark
                )
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)} is there twice", key_node.start_mark
                )
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def _finite(self, node: yaml.ScalarNode) -> float:
        value: float = self.construct_yaml_float(node)
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{cut(node.value, 80)} is no number that can be used here", node.start_mark
            )
        return value

    def _whole(self, node: yaml.ScalarNode) -> int:
        value: int = self.construct_yaml_int(node) if len(node.value) <= MAX_DIGITS else 10**MAX_DIGITS
        if abs(value) >= 10**MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of more than {MAX_DIGITS} digits", node.start_mark
            )
        return value


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that aliases blow up, or that holds itself, before anything is built from it."""
    measured: dict[int, _Size | None] = {}

    def measure(node: yaml.Node) -> _Size:
        if id(node) in measured:
            known = measured[id(node)]
            if known is None:
                raise _bomb(node, "an alias names what it is part of")
            return known
        measured[id(node)] = None
        parts = [measure(child) for child in _children(node)]
        own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        size = _Size(
            values=1 + sum(part.values for part in parts),
            levels=1 + max((part.levels for part in parts), default=0),
            characters=own + sum(part.characters for part in parts),
        )
        if size.values > MAX_NODES:
            raise _bomb(node, f"{_TOO_MANY}, aliases followed")
        if size.characters > MAX_BYTES:
            raise _bomb(node, f"more than {MAX_BYTES:,} characters, aliases followed")
        if size.levels > MAX_DEPTH + 1:
            raise _bomb(node, f"{_TOO_DEEP}, aliases followed")
        measured[id(node)] = size
        return size

    measure(root)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """What a node amounts to once its aliases are followed."""

    values: int
    levels: int
    characters: int


def _bomb(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
