"""Imports, at once and in one thread, what the checks and gates import at first use.

Agents run them in threads. Two threads that import the same modules for the first time can fail each other.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

_MODULES: Final = (
    "markdown_it.common.normalize_url",
    "motet_agents.qa.compliance",
    "motet_agents.qa.gates",
    "motet_agents.qa.html_reading",
    "motet_agents.qa.links",
    "motet_agents.qa.markdown_reading",
    "motet_agents.qa.plain_reading",
    "motet_agents.qa.tone",
    "motet_agents.qa.verification",
)


def preload() -> None:
    """Import every module that a check or gate may need."""
    for name in _MODULES:
        import_module(name)
