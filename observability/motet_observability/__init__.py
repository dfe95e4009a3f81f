"""What happened: the tracing SDK and log lines, set up once for each process."""

from motet_observability.logs import LogFormat, LogLevel, set_up_logs
from motet_observability.tracing import set_up_tracing

__all__ = ["LogFormat", "LogLevel", "set_up_logs", "set_up_tracing"]
