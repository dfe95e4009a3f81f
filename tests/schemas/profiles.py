"""Hypothesis profiles: `quick` repeats the same examples in every run, `thorough` looks for new ones.

Choose with the environment variable MOTET_HYPOTHESIS.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def load() -> None:
    """Register both profiles and load the chosen one."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile("quick", max_examples=60, derandomize=True, deadline=None, suppress_health_check=slow)
    settings.register_profile("thorough", max_examples=3_000, deadline=None, suppress_health_check=slow)
    settings.load_profile(os.environ.get("MOTET_HYPOTHESIS", "quick"))
