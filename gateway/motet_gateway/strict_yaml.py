"""Reads YAML and JSON that people wrote: JSON's types only, no duplicate keys, no bombs, errors with their place."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Final, cast

import yaml
from yaml.composer import ComposerError
from yaml.error import Mark

from motet_schemas.errors import InvalidInputError

MAX_BYTES: Final = 5 * 1024 * 1024
MAX_NODES: Final = 200_000
"""How many values a file may amount to once its aliases are followed."""
MAX_DEPTH: Final = 100
"""How many lists and mappings a value may lie in."""

_TOO_DEEP: Final = f"nested too deeply: more than {MAX_DEPTH} levels"
_TYPES: Final = ("null", "bool", "int", "float", "str", "seq", "map")
_TAG: Final = "tag:yaml.org,2002:"


def read_structured(path: Path, field: str) -> Any:
    """Return what a `.json` file, or a YAML file of any other name, holds: JSON's types only.

    Raises `InvalidInputError`, naming `field` and the file, when it cannot be read, is larger than 5 MiB, is not UTF-8,
    or does not parse (with line and column).
    """
    text = _read_text(path, field)
    try:
        return _parse_json(text) if path.suffix.lower() == ".json" else _parse_yaml(text)
    except _BadTextError as error:
        raise InvalidInputError(f"{path}: {error}", field=field, value=str(path)) from error


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


def read_bytes(path: Path, field: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return a regular file's bytes. Raises `InvalidInputError` when it cannot be read, or is larger than that."""
    try:
        if not path.is_file():
            what = "is a directory" if path.is_dir() else "is not a file" if path.exists() else "there is no such file"
            raise InvalidInputError(f"{field}: {path}: {what}", field=field, value=str(path))
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InvalidInputError(
            f"{field}: cannot read {path}: {error.strerror}", field=field, value=str(path)
        ) from error
    if len(data) > max_bytes:
        raise InvalidInputError(
            f"{field}: {path} is larger than {max_bytes / 1024 / 1024:g} MiB; split it",
            field=field,
            value=str(path),
            rule=f"at most {max_bytes} bytes",
        )
    return data


class _BadTextError(Exception):
    """The text breaks a rule; the message says where."""


def _read_text(path: Path, field: str) -> str:
    try:
        return read_bytes(path, field).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{field}: {path} is not UTF-8 (byte {error.start}); save it as UTF-8", field=field, value=str(path)
        ) from error


def _parse_json(text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise _BadTextError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise _BadTextError(f"invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for one in level for child in _items(one)]
        if not level:
            return
    raise _BadTextError(_TOO_DEEP)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("Iterable[Any]", value) if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _BadTextError(f"the key {key!r} is there twice")
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
    except yaml.YAMLError as error:
        raise _BadTextError(f"invalid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """Knows JSON's types only (a date stays the text it is), and refuses the same key twice."""

    yaml_constructors = {  # noqa: RUF012 - PyYAML's own way to say which types a loader knows
        **{
            f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"]
            for name in ("null", "bool", "int", "str")
        },
        None: yaml.SafeLoader.yaml_constructors[None],
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in rules if tag.removeprefix(_TAG) in _TYPES]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
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
        return super().construct_object(node, deep=deep)  # pyright: ignore[reportUnknownMemberType]

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key: Hashable = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text; put it in quotes", key_node.start_mark
                )
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def _finite(self, node: yaml.ScalarNode) -> float:
        value: float = self.construct_yaml_float(node)
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is no number that can be used here", node.start_mark
            )
        return value


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that aliases blow up, or that holds itself, before anything is built from it."""
    measured: dict[int, tuple[int, int] | None] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Return how many values the node amounts to, and how many levels of them there are."""
        if id(node) in measured:
            known = measured[id(node)]
            if known is None:
                raise yaml.constructor.ConstructorError(
                    None, None, "an alias names what it is part of", node.start_mark
                )
            return known
        measured[id(node)] = None
        parts = [measure(child) for child in _children(node)]
        size, levels = 1 + sum(size for size, _ in parts), 1 + max((levels for _, levels in parts), default=0)
        if size > MAX_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {MAX_NODES:,} values, aliases followed", node.start_mark
            )
        if levels > MAX_DEPTH + 1:
            raise yaml.constructor.ConstructorError(None, None, f"{_TOO_DEEP}, aliases followed", node.start_mark)
        measured[id(node)] = size, levels
        return size, levels

    measure(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
