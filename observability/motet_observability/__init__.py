"""What happened: the tracing SDK and log lines, set up once for each process."""

from motet_observability.logs import LogFormat, LogLevel, set_up_logs
from motet_observability.metrics import MetricExport, Metrics, set_up_metrics
from motet_observability.tracing import TraceExport, Tracing, set_up_tracing

__all__ = [
    "LogFormat",
    "LogLevel",
    "MetricExport",
    "Metrics",
    "TraceExport",
    "Tracing",
    "set_up_logs",
    "set_up_metrics",
    "set_up_tracing",
]
