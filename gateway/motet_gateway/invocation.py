"""What every command shares: the options that say how to reach the bus, and `--json`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec

import typer

if TYPE_CHECKING:
    from motet_gateway.config import Settings

Parameters = ParamSpec("Parameters")

_PANEL: Final = "Where the bus is"
_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else.")]
_URL = Annotated[
    str | None, typer.Option(help="A running nats-server (MOTET_NATS_URL).", rich_help_panel=_PANEL, metavar="URL")
]
_CREDS = Annotated[
    Path | None, typer.Option(help="Credentials file (MOTET_NATS_CREDS).", rich_help_panel=_PANEL, metavar="FILE")
]
_NKEY = Annotated[
    Path | None,
    typer.Option(help="File with an nkey's seed (MOTET_NATS_NKEY).", rich_help_panel=_PANEL, metavar="FILE"),
]
_CA = Annotated[
    Path | None,
    typer.Option(help="Authorities to trust, PEM (MOTET_NATS_TLS_CA).", rich_help_panel=_PANEL, metavar="FILE"),
]
_CERT = Annotated[
    Path | None,
    typer.Option(help="Client certificate, PEM (MOTET_NATS_TLS_CERT).", rich_help_panel=_PANEL, metavar="FILE"),
]
_KEY = Annotated[
    Path | None, typer.Option(help="Client key, PEM (MOTET_NATS_TLS_KEY).", rich_help_panel=_PANEL, metavar="FILE")
]
_NAMESPACE = Annotated[
    str | None,
    typer.Option(help="Token in front of all subjects (MOTET_NAMESPACE).", rich_help_panel=_PANEL, metavar="NAME"),
]
_STORE = Annotated[
    Path | None,
    typer.Option(help="Directory of the embedded server (MOTET_STORE).", rich_help_panel=_PANEL, metavar="DIR"),
]
_LEVEL = Annotated[
    str | None,
    typer.Option(help="debug, info, warning or error (MOTET_LOG_LEVEL).", rich_help_panel=_PANEL, metavar="LEVEL"),
]
_FORMAT = Annotated[
    str | None,
    typer.Option(help="console or json (MOTET_LOG_FORMAT).", rich_help_panel=_PANEL, metavar="FORMAT"),
]

_COMMON: Final[dict[str, Any]] = {
    "nats_url": _URL,
    "nats_creds": _CREDS,
    "nats_nkey": _NKEY,
    "nats_tls_ca": _CA,
    "nats_tls_cert": _CERT,
    "nats_tls_key": _KEY,
    "namespace": _NAMESPACE,
    "store": _STORE,
    "log_level": _LEVEL,
    "log_format": _FORMAT,
}

Playbooks = Annotated[
    list[Path] | None,
    typer.Option("--playbooks", help="A folder of playbooks of your own (MOTET_PLAYBOOKS).", metavar="DIR"),
]
"""The option `--playbooks`, for commands that read tasks."""

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65_535,
        metavar="PORT",
        help="Show metrics at /metrics of this port, 0 a free one (MOTET_METRICS_PORT).",
    ),
]
"""The option `--metrics-port`, for commands that run for long."""


@dataclass(frozen=True)
class Invocation:
    """One call of a command: whether it answers in JSON, and the flags it was given."""

    json: bool
    flags: Mapping[str, object]

    @cached_property
    def settings(self) -> Settings:
        """Flags over environment over `motet.yaml`; logs follow them from now on. Raises `InvalidInputError`."""
        from motet_gateway.config import load_settings
        from motet_observability import set_up_logs

        settings = load_settings(self.flags)
        set_up_logs(settings.log_level, settings.log_format)
        return settings


def command(
    app: typer.Typer, name: str, *, panel: str
) -> Callable[[Callable[Concatenate[Invocation, Parameters], int]], Callable[Concatenate[Invocation, Parameters], int]]:
    """Register a function as `motet <name>`. It gets an `Invocation` first and returns the exit status."""

    def register(
        function: Callable[Concatenate[Invocation, Parameters], int],
    ) -> Callable[Concatenate[Invocation, Parameters], int]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def run(**values: Any) -> int:
            as_json = bool(values.pop("json"))
            flags = {name: values.pop(name) for name in _COMMON}
            if playbooks := values.pop("playbooks", None):
                flags["playbooks"] = tuple(playbooks)
            if (port := values.pop("metrics_port", None)) is not None:
                flags["metrics_port"] = port
            call: Callable[..., int] = function
            return call(Invocation(json=as_json, flags=flags), **values)

        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter("json", keyword, default=False, annotation=_JSON)]
        shared += [inspect.Parameter(key, keyword, default=None, annotation=kind) for key, kind in _COMMON.items()]
        parameters = [parameter.replace(kind=keyword) for parameter in own] + shared
        described: Any = run
        described.__signature__ = inspect.Signature(parameters, return_annotation=int)
        described.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        described.__doc__ = function.__doc__
        app.command(name, rich_help_panel=panel)(described)
        return function

    return register
