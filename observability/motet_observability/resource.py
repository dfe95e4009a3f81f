"""Who measures and traces: the resource that all signals of a process share. Import it where an SDK is set up."""

from __future__ import annotations

from importlib.metadata import version

from opentelemetry.sdk.resources import Resource


def resource_of(service: str, instance: str = "") -> Resource:
    """Return `service.name` and its siblings; `OTEL_RESOURCE_ATTRIBUTES` adds to them."""
    attributes = {"service.name": service, "service.namespace": "motet", "service.version": version("motet")}
    return Resource.create(attributes | ({"service.instance.id": instance} if instance else {}))
