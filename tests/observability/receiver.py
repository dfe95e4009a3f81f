"""A receiver of OTLP over HTTP and gRPC: what processes export, kept in memory, and served as Jaeger does."""

from __future__ import annotations

import gzip
import importlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

Value = str | int | float | bool
_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True)
class Link:
    """Where a span points to besides its parent, and what for."""

    trace: str
    id: str
    attributes: dict[str, Value]


@dataclass(frozen=True)
class Span:
    """One exported span; ids in hex, `parent` empty for a root, times in nanoseconds."""

    service: str
    instance: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    error: bool
    attributes: dict[str, Value]
    links: tuple[Link, ...] = ()

    @property
    def same(self) -> tuple[str, ...]:
        """What makes two exports the same span told twice: everything but who told it."""
        return (self.trace, self.id, self.parent, self.name, str(self.start_ns), str(self.end_ns))


@dataclass
class Receiver:
    """Where to export to, and what came, in the order in which it came."""

    url: str
    grpc_url: str = ""
    spans: list[Span] = field(default_factory=list[Span])
    metrics: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """The service and the name of each metric that came."""
    requests: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """The headers of each export over HTTP."""

    def take(self, body: bytes) -> None:
        """Keep the spans of one export."""
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_span(names, span) for span in scope.spans]

    def take_metrics(self, body: bytes) -> None:
        """Keep who sent which metrics."""
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            [service] = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            self.metrics |= {(service, metric.name) for scope in resource.scope_metrics for metric in scope.metrics}

    def trace(self, trace: str) -> list[Span]:
        """Return the spans of one trace, each of them once."""
        return list({span.same: span for span in self.spans if span.trace == trace}.values())

    def wait_for(self, found: Callable[[list[Span]], bool], *, within_s: float = 20.0) -> None:
        """Wait until what came satisfies `found`; `AssertionError` when it never does."""
        give_up = time.monotonic() + within_s
        while not found(list(self.spans)):
            assert time.monotonic() < give_up, f"what came: {sorted(span.name for span in self.spans)}"
            time.sleep(0.02)


def _span(names: dict[str, str], span: Any) -> Span:
    return Span(
        service=names.get("service.name", ""),
        instance=names.get("service.instance.id", ""),
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=span.status.code == 2,
        attributes={one.key: _value(one.value) for one in span.attributes},
        links=tuple(
            Link(link.trace_id.hex(), link.span_id.hex(), {one.key: _value(one.value) for one in link.attributes})
            for link in span.links
        ),
    )


def _value(value: AnyValue) -> Value:
    found: Value = getattr(value, value.WhichOneof("value") or "string_value")
    return found


@contextmanager
def otlp_receiver(*, grpc: bool = False) -> Generator[Receiver]:
    """Listen on free loopback ports until the end of the context; serves `GET /api/traces/<trace id>` as Jaeger."""
    receiver = Receiver("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stop = _serve_grpc(receiver) if grpc else None
    try:
        yield receiver
    finally:
        if stop is not None:
            stop()
        server.shutdown()
        server.server_close()
        thread.join(5)


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            encoding = self.headers.get("Content-Encoding", "")
            if encoding == "gzip":
                body = gzip.decompress(body)
            elif encoding == "deflate":
                body = zlib.decompress(body)
            if self.path == "/v1/traces":
                receiver.requests.append({name.lower(): value for name, value in self.headers.items()})
                receiver.take(body)
            elif self.path == "/v1/metrics":
                receiver.take_metrics(body)
            self._answer(b"", "application/x-protobuf")

        def do_GET(self) -> None:
            from tests.observability.jaeger import jaeger_json

            trace = self.path.rpartition("/")[2]
            self._answer(json.dumps(jaeger_json(receiver.trace(trace))).encode(), "application/json")

        def _answer(self, body: bytes, media_type: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Keep standard error quiet."""

    return Handler


def _serve_grpc(receiver: Receiver) -> Callable[[], None]:
    grpc: Any = importlib.import_module("grpc")

    def export(body: bytes, _: object) -> bytes:
        receiver.take(body)
        answer: bytes = ExportTraceServiceResponse().SerializeToString()
        return answer

    def service(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(export) if details.method == _METHOD else None

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, handler_call_details: Any) -> Any:
            return service(handler_call_details)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    receiver.grpc_url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    return lambda: server.stop(1).wait(5)
