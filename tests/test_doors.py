"""Each package has one door: what `__all__` names exists, is documented, and is all that stands there."""

from __future__ import annotations

import importlib
import inspect
import types

import pytest

DOORS = ("motet_schemas", "motet_bus", "motet_agents.orchestrator", "motet_agents.playbooks", "motet_observability")


@pytest.mark.parametrize("name", DOORS)
def test_door_names_what_is_there_in_order_and_nothing_twice(name: str) -> None:
    door = importlib.import_module(name)
    names: list[str] = door.__all__
    assert names == sorted(set(names), key=_isort)
    assert [missing for missing in names if not hasattr(door, missing)] == []


@pytest.mark.parametrize("name", DOORS)
def test_door_hides_nothing_that_it_imported(name: str) -> None:
    door = importlib.import_module(name)
    public = {
        key
        for key, value in vars(door).items()
        if not key.startswith("_") and not isinstance(value, types.ModuleType) and key not in ("annotations", "Final")
    }
    assert public - set(door.__all__) == set()


@pytest.mark.parametrize("name", DOORS)
def test_everything_at_the_door_says_what_it_is(name: str) -> None:
    door = importlib.import_module(name)
    silent = [
        key
        for key in door.__all__
        if (inspect.isclass(getattr(door, key)) or inspect.isfunction(getattr(door, key)))
        and not inspect.getdoc(getattr(door, key))
    ]
    assert silent == []
    assert door.__doc__


def _isort(name: str) -> tuple[int, str]:
    """Constants first, then classes, then the rest: the order that the linter keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)
