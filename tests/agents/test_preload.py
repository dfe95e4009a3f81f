"""Agents that check in threads have all modules before they serve: two first imports at once can fail each other."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("role", ["executor", "verifier"])
def test_nothing_is_left_to_import_when_an_agent_begins_to_serve(role: str) -> None:
    code = (
        f"import sys, motet_agents.{role}\n"
        "before = set(sys.modules)\n"
        "from motet_agents.qa.preload import preload\n"
        "preload()\n"
        "print(sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
