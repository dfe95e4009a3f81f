"""What every agent's process needs, imported once by the process that agents are forked from (`motet_bus.forge`)."""

from __future__ import annotations

import importlib
from typing import Final

from motet_gateway.agent_process import import_structlog_without_colours

_NEEDED: Final = ("motet_bus", "motet_observability", "motet_gateway.config", "motet_gateway.exits")

import_structlog_without_colours()
for _module in _NEEDED:
    importlib.import_module(_module)
