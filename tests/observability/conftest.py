"""For tests of metrics: one meter provider for the process, read in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

Series = dict[tuple[str, frozenset[tuple[str, object]]], float]
Read = Callable[[], Series]


@cache
def _reader() -> InMemoryMetricReader:
    """The reader of this process: a provider can be set once only."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    return reader


@pytest.fixture(scope="session")
def read_metrics() -> Read:
    """Read all series: values by name and labels; a histogram's value is how much was recorded."""
    reader = _reader()

    def read() -> Series:
        data = reader.get_metrics_data()
        found: Series = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points: Any = metric.data.data_points
                    for point in points:
                        value = point.count if isinstance(point, HistogramDataPoint) else point.value
                        found[metric.name, frozenset(dict(point.attributes or {}).items())] = float(value)
        return found

    return read
