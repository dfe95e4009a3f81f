"""Configuration: flags over `MOTET_*` environment over `motet.yaml` in the working directory.

Only the gateway and process entry points read the environment; everybody else is handed values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motet_observability import LogFormat, LogLevel
from motet_schemas.errors import InvalidInputError
from motet_schemas.subjects import Namespace
from motet_schemas.validation import explain, unknown_field

if TYPE_CHECKING:
    from motet_bus.connect import ConnectOptions

FILE: Final = "motet.yaml"
PREFIX: Final = "MOTET_"


class Settings(BaseModel):
    """How to reach the bus and where things are kept. `MOTET_<FIELD>` in the environment sets a field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: str | None = Field(default=None, min_length=1, description="A running nats-server; may hold credentials.")
    nats_creds: Path | None = Field(default=None, description="Credentials file.")
    nats_token: str | None = Field(default=None, repr=False, description="Token, when the URL holds none.")
    nats_tls_ca: Path | None = Field(default=None, description="PEM file of the authorities to trust.")
    nats_tls_cert: Path | None = Field(default=None, description="PEM file of the client's certificate.")
    nats_tls_key: Path | None = Field(default=None, description="PEM file of the client's key.")
    namespace: str = Field(default="", description="One token in front of every subject and stream.")
    store: Path | None = Field(default=None, description="Directory of the embedded server.")
    playbooks: tuple[Path, ...] = Field(default=(), description="Folders of playbooks, besides those shipped.")
    claim_ttl_s: float = Field(
        default=30.0, ge=1, le=3_600, description="Seconds that a silent worker keeps its claim."
    )
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
            token=self.nats_token,
            tls_ca=self.nats_tls_ca,
            tls_cert=self.nats_tls_cert,
            tls_key=self.nats_tls_key,
        )

    def environment(self, url: str, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a child process: `base` with these settings, on the server at `url`."""
        inherited = {name: value for name, value in base.items() if name not in _VARIABLES}
        values: dict[str, object] = dict(self)
        values |= {"nats_url": url, "playbooks": os.pathsep.join(map(str, self.playbooks))}
        values |= {"log_level": min(self.log_level, "info", key=_LEVELS.index), "log_format": "json"}
        if url != self.nats_url:
            values |= dict.fromkeys(("nats_creds", "nats_token", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"))
        shown = {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items() if value}
        return {**inherited, **shown}


_VARIABLES: Final = frozenset(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
_LEVELS: Final[tuple[str, ...]] = get_args(LogLevel)
_PATHS: Final = ("nats_creds", "nats_tls_ca", "nats_tls_cert", "nats_tls_key", "store")


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
    if not path.exists():
        return {}
    from motet_gateway.strict_yaml import read_mapping  # child processes have no file, and can do without YAML

    values = read_mapping(path, FILE)
    for name in values:
        if name not in Settings.model_fields:
            rule = unknown_field(name, list(Settings.model_fields))
            raise InvalidInputError(f"{path}: {name}: {rule}", field=name, value=values[name], rule=rule)
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
