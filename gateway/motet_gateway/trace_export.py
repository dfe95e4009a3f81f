"""Where spans and metrics go, as OpenTelemetry's own variables say; headers and certificates are the exporters' own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Final, cast, get_args

from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from motet_bus.trace_context import parse
from motet_observability.metrics import MetricExport
from motet_observability.tracing import Compression, Protocol, TraceExport, Tracing, set_up_tracing
from motet_schemas.errors import InvalidInputError

_OFF: Final = ("always_off", "parentbased_always_off")
_ON: Final = ("always_on", "parentbased_always_on")
_RATIO: Final = ("traceidratio", "parentbased_traceidratio")
_LARGEST: Final = 10**9
_MODULES: Final = ("motet_observability.span_export", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def trace_export_from(environ: Mapping[str, str], *, spool: Path | None = None) -> TraceExport | None:
    """Return where spans go, None when nothing says so; `spool` is where they outlive a killed process.

    Raises `InvalidInputError` that names the variable.
    """
    given = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_") and value.strip()}
    wanted = _one_of(given, "OTEL_TRACES_EXPORTER", ("otlp", "none"), "otlp")
    protocol = cast("Protocol", _one_of(given, _option(given, "PROTOCOL"), get_args(Protocol), "http/protobuf"))
    endpoint = _endpoint(given, protocol, "traces")
    if endpoint is None or wanted == "none" or given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    compression = cast("Compression", _one_of(given, _option(given, "COMPRESSION"), get_args(Compression), "gzip"))
    default = TraceExport(endpoint=endpoint)
    return TraceExport(
        endpoint=endpoint,
        protocol=protocol,
        compression=compression,
        ratio=_ratio(given),
        timeout_s=_number(given, _option(given, "TIMEOUT"), default.timeout_s, least=0.1),
        schedule_delay_ms=int(_number(given, "OTEL_BSP_SCHEDULE_DELAY", default.schedule_delay_ms, least=1)),
        spool=spool,
        queue=int(_number(given, "OTEL_BSP_MAX_QUEUE_SIZE", default.queue, least=1)),
        attribute_length=int(
            _number(
                given,
                _first(given, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
                default.attribute_length,
                least=1,
            )
        ),
    )


def metric_export_from(environ: Mapping[str, str]) -> MetricExport | None:
    """Return where metrics go, None when nothing says so. Raises `InvalidInputError` that names the variable."""
    given = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_") and value.strip()}
    wanted = _one_of(given, "OTEL_METRICS_EXPORTER", ("otlp", "none"), "otlp")
    named = _option(given, "PROTOCOL", "METRICS")
    protocol = cast("Protocol", _one_of(given, named, get_args(Protocol), "http/protobuf"))
    endpoint = _endpoint(given, protocol, "metrics")
    if endpoint is None or wanted == "none" or given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    named = _option(given, "COMPRESSION", "METRICS")
    compression = cast("Compression", _one_of(given, named, get_args(Compression), "gzip"))
    default = MetricExport(endpoint=endpoint)
    return MetricExport(
        endpoint=endpoint,
        protocol=protocol,
        compression=compression,
        timeout_s=_number(given, _option(given, "TIMEOUT", "METRICS"), default.timeout_s, least=0.1),
        every_ms=int(_number(given, "OTEL_METRIC_EXPORT_INTERVAL", default.every_ms, least=1)),
    )


def _endpoint(given: Mapping[str, str], protocol: str, signal: str) -> str | None:
    variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    own = given.get(variable)
    shared = given.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = own or shared
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")) and not (protocol == "grpc" and "://" not in endpoint):
        name = variable if own else "OTEL_EXPORTER_OTLP_ENDPOINT"
        raise _refusal(name, endpoint, "is not an address such as http://127.0.0.1:4318")
    return endpoint if own or protocol == "grpc" else f"{endpoint.rstrip('/')}/v1/{signal}"


def _ratio(given: Mapping[str, str]) -> float:
    sampler = _one_of(given, "OTEL_TRACES_SAMPLER", (*_ON, *_OFF, *_RATIO), _ON[0])
    if sampler in _RATIO:
        return _number(given, "OTEL_TRACES_SAMPLER_ARG", 1.0, least=0, most=1)
    return 0.0 if sampler in _OFF else 1.0


def _first(given: Mapping[str, str], *names: str) -> str:
    return next((name for name in names if name in given), names[-1])


def _option(given: Mapping[str, str], name: str, signal: str = "TRACES") -> str:
    return _first(given, f"OTEL_EXPORTER_OTLP_{signal}_{name}", f"OTEL_EXPORTER_OTLP_{name}")


def _one_of(given: Mapping[str, str], name: str, known: tuple[str, ...], default: str) -> str:
    value = given.get(name, default).lower()
    if value not in known:
        raise _refusal(name, value, f"is none of {', '.join(known)}")
    return value


def _number(given: Mapping[str, str], name: str, default: float, *, least: float, most: float = _LARGEST) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise _refusal(name, text, "is no number") from None
    if not least <= value <= most:
        raise _refusal(name, text, f"is not between {least:g} and {most:g}")
    return value


def _refusal(name: str, value: str, rule: str) -> InvalidInputError:
    return InvalidInputError(f"{name}: {value!r} {rule}", field=name, value=value, rule=rule)


@cache
def _set_up(service: str) -> Tracing:
    return set_up_tracing(service, trace_export_from(os.environ))


@asynccontextmanager
async def traced(service: str) -> AsyncGenerator[None]:
    """Trace what a command does at the bus's door; what is there is sent at the end of the context.

    A `TRACEPARENT` in the environment is the caller's: its span and the conversation are linked to each other. Raises
    what `trace_export_from` and `set_up_tracing` raise.
    """
    tracing = _set_up(service)
    caller = parse(os.environ.get("TRACEPARENT", ""))
    token = None if caller is None else attach(set_span_in_context(NonRecordingSpan(caller)))
    try:
        yield
    finally:
        if token is not None:
            detach(token)
        await asyncio.to_thread(tracing.flush)


@asynccontextmanager
async def recovering(service: str, spool: Path) -> AsyncGenerator[None]:
    """At the end of the context, when all agents have ended, send what the killed ones left in `spool`."""
    try:
        yield
    finally:
        await asyncio.to_thread(_set_up(service).recover, spool)


def needed_modules(environ: Mapping[str, str]) -> list[str]:
    """Return what every traced process imports, for whom it is forked from; what starts threads is not among it."""
    export = trace_export_from(environ)
    return [] if export is None or export.protocol == "grpc" else list(_MODULES)
