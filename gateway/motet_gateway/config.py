"""Configuration: flags over `MOTET_*` environment over `motet.yaml` in the working directory.

Only the gateway and process entry points read the environment; everybody else is handed values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from motet_observability import LogFormat, LogLevel
from motet_schemas.errors import InvalidInputError
from motet_schemas.subjects import Namespace
from motet_schemas.validation import explain, shown_name, unknown_field

if TYPE_CHECKING:
    from motet_bus.connect import ConnectOptions

FILE: Final = "motet.yaml"
PREFIX: Final = "MOTET_"


class Settings(BaseModel):
    """How to reach the bus and where things are kept. `MOTET_<FIELD>` in the environment sets a field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: str | None = Field(default=None, min_length=1, description="A running nats-server; may hold credentials.")
    nats_creds: Path | None = Field(default=None, description="Credentials file.")
    nats_nkey: Path | None = Field(default=None, description="File that holds an nkey's seed.")
    nats_token: str | None = Field(default=None, repr=False, description="Token, when the URL holds none.")
    nats_tls_ca: Path | None = Field(default=None, description="PEM file of the authorities to trust.")
    nats_tls_cert: Path | None = Field(default=None, description="PEM file of the client's certificate.")
    nats_tls_key: Path | None = Field(default=None, description="PEM file of the client's key.")
    nats_inbox_prefix: str = Field(default="_INBOX", min_length=1, description="Where these credentials get answers.")
    nats_api_prefix: str = Field(
        default="$JS.API", min_length=1, description="What these credentials call JetStream's API."
    )
    outsider: str = Field(default="", description="The name of an outsider: submits and asks, reads nothing.")
    namespace: str = Field(default="", description="One token in front of every subject and stream.")
    replicas: int = Field(default=1, ge=1, le=5, description="Nodes that keep each stream made on a named cluster.")
    store: Path | None = Field(default=None, description="Directory of the embedded server.")
    sync_interval: str = Field(
        default="100ms",
        pattern=r"^(always|[1-9][0-9]{0,5}(ms|s|m))$",
        description="What a power cut may cost the embedded server: a duration such as 100ms, or always (nothing).",
    )
    playbooks: tuple[Path, ...] = Field(default=(), description="Folders of playbooks, besides those shipped.")
    claim_ttl_s: float = Field(
        default=30.0, ge=1, le=3_600, description="Seconds that a silent worker keeps its claim."
    )
    ack_wait_s: float = Field(
        default=10.0, ge=1, le=3_600, description="Seconds until the message of a silent process goes to another."
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65_535, description="Where Prometheus can read metrics; 0 takes a free port."
    )
    metrics_host: str = Field(default="127.0.0.1", min_length=1, description="Address that metrics are shown on.")
    trace_hops: bool = Field(default=False, description="Give each recorded fact a span, not only those of the doors.")
    span_spool: Path | None = Field(default=None, description="Folder in which unsent spans outlive a killed process.")
    log_level: LogLevel = Field(default="warning", description="Least level that is logged.")
    log_format: LogFormat = Field(default="console", description="How log lines look.")

    def connect_options(self, url: str, name: str) -> ConnectOptions:
        """Return how to connect to the server at `url` as `name`. Credentials belong to a server that we name."""
        from motet_bus.connect import ConnectOptions

        if url != self.nats_url:
            return ConnectOptions(url=url, name=name)
        return ConnectOptions(
            url=url,
            name=name,
            creds=self.nats_creds,
            nkey=self.nats_nkey,
            token=self.nats_token,
            tls_ca=self.nats_tls_ca,
            tls_cert=self.nats_tls_cert,
            tls_key=self.nats_tls_key,
            inbox_prefix=self.nats_inbox_prefix,
            api_prefix=self.nats_api_prefix,
            replicas=self.replicas,
        )

    @field_validator("replicas")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be 1, 3 or 5: an even number of nodes survives no more of them dying than one less")
        return value

    def for_agents(self) -> dict[str, str]:
        """Return what reaches an agent's handlers and its bus as settings."""
        shown = {"playbooks": os.pathsep.join(map(str, self.playbooks))}
        return shown | ({"trace_hops": "1"} if self.trace_hops else {})

    def environment(self, url: str, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a child process: `base` with these settings, on the server at `url`."""
        inherited = {name: value for name, value in base.items() if name not in _VARIABLES}
        values: dict[str, object] = dict(self)
        values |= {"nats_url": url, "playbooks": os.pathsep.join(map(str, self.playbooks))}
        values |= {"metrics_port": None}  # each process has its own
        values |= {"log_level": min(self.log_level, "info", key=_LEVELS.index), "log_format": "json"}
        if url != self.nats_url:
            values |= dict.fromkeys(_OF_THE_SERVER)
        shown = {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items() if value}
        return {**inherited, **shown}


_VARIABLES: Final = frozenset(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
_LEVELS: Final[tuple[str, ...]] = get_args(LogLevel)
_OF_THE_SERVER: Final = frozenset(
    name for name in Settings.model_fields if name.startswith("nats_") or name == "replicas"
) - {"nats_url"}
_PATHS: Final = ("nats_creds", "nats_nkey", "nats_tls_ca", "nats_tls_cert", "nats_tls_key", "store", "span_spool")


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    directory: Path | None = None,
) -> Settings:
    """Return the settings that hold in `directory` (default: the working directory). None among `flags` is no flag.

    Paths in `motet.yaml` are relative to it. Raises `InvalidInputError` that names the flag, the variable or the file.
    """
    folder = directory or Path.cwd()
    values = _from_file(folder / FILE)
    places = dict.fromkeys(values, str(folder / FILE))
    for place, found in (("the environment", _from_environment(environ)), ("the command line", flags or {})):
        given = {name: value for name, value in found.items() if value is not None and value != ()}
        values |= given
        places |= dict.fromkeys(given, place)
    try:
        settings = Settings.model_validate(values)
        Namespace(settings.namespace)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        raise explain(error, Settings, places.get(field, "configuration")) from error
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{places['namespace']}: {error}", field="namespace", value=error.value, rule=error.rule
        ) from error
    return settings


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Return the settings of the environment alone, for child processes. Raises `InvalidInputError`."""
    try:
        return Settings.model_validate(_from_environment(environ))
    except ValidationError as error:
        raise explain(error, Settings, "the environment") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in Settings.model_fields:
        value = environ.get(f"{PREFIX}{name.upper()}")
        if value:
            found[name] = tuple(value.split(os.pathsep)) if name == "playbooks" else value
    return found


def _from_file(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        return {}
    from motet_agents.strict_yaml import read_mapping  # child processes have no file, and can do without YAML

    values = read_mapping(path, FILE)
    for name in values:
        if name not in Settings.model_fields:
            rule = unknown_field(name, list(Settings.model_fields))
            name = shown_name(name)
            raise InvalidInputError(f"{path}: {name}: {rule}", field=name, rule=rule)
    folder = path.parent
    for name in _PATHS:
        if isinstance(values.get(name), str):
            values[name] = folder / Path(values[name]).expanduser()
    if "playbooks" in values:
        given: object = values["playbooks"]
        listed = cast("list[object]", given if isinstance(given, list) else [given])
        values["playbooks"] = tuple(
            folder / Path(item).expanduser() if isinstance(item, str) else item for item in listed
        )
    return values
