"""The door of `motet_agents.qa` opens to what it names, and costs next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import motet_agents.qa as door


def test_everything_that_is_named_is_there_and_documented() -> None:
    assert dir(door) == sorted(door.__all__)
    for name in door.__all__:
        assert getattr(door, name) is not None
        if callable(getattr(door, name)) and name != "Resolver":
            assert getattr(door, name).__doc__


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_check"):
        _ = door.no_such_check


def test_no_parser_and_no_client_is_imported_until_it_is_needed() -> None:
    program = (
        "import sys, motet_agents.qa, motet_agents.qa.checklist, motet_agents.qa.documents;"
        "print([name for name in ('httpx', 'markdown_it', 'rapidfuzz', 'textstat') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"
