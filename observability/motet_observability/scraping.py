"""`/metrics` for Prometheus: a small HTTP server in a thread of its own, one request after the other."""

from __future__ import annotations

import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final

import structlog
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest

from motet_schemas import InvalidInputError

log = structlog.get_logger(__name__)

PATH: Final = "/metrics"
_PATIENCE_S: Final = 5.0


class MetricsServer:
    """Listens from the moment it is made, answers from `start` to `stop`."""

    def __init__(self, host: str, port: int) -> None:
        """Raises `InvalidInputError` when nothing can listen on `host` and `port`."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
        try:
            self._server = _Server((host, port), _handler(registry))
        except OSError as error:
            raise InvalidInputError(
                f"metrics_port: cannot listen on {host} port {port}: {error.strerror or error}; name another with "
                "--metrics-port (0 takes a free one)",
                field="metrics_port",
                value=port,
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> str:
        """Begin to answer; return the address to read."""
        self._thread.start()
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}{PATH}"

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_PATIENCE_S)


class _Server(HTTPServer):
    def server_bind(self) -> None:
        """Bind without the look-up of this host's name that `HTTPServer` would make."""
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that goes away before its answer has come is none of ours."""
        log.debug("metrics.reader_gone", exc_info=True)


def _handler(registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S
        server_version = "motet"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(HTTPStatus.NOT_FOUND, f"metrics are at {PATH}")
                return
            body = generate_latest(registry)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing: being read is no event."""

    return Handler
