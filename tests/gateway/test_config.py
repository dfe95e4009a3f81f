"""Flags win over the environment, which wins over `motet.yaml`; what is unknown or wrong names its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from motet_gateway.config import Settings, load_settings, settings_from
from motet_schemas import InvalidInputError


def _settings(folder: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    if text:
        (folder / "motet.yaml").write_text(text)
    return load_settings(flags, environ=environ or {}, directory=folder)


def test_nothing_given_is_the_defaults(tmp_path: Path) -> None:
    assert _settings(tmp_path) == Settings()


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    text = "nats_url: nats://file\nnamespace: file\nlog_level: error\n"
    environ = {"MOTET_NATS_URL": "nats://environment", "MOTET_NAMESPACE": "environment"}
    settings = _settings(tmp_path, text, environ, nats_url="nats://flag")
    assert (settings.nats_url, settings.namespace, settings.log_level) == ("nats://flag", "environment", "error")


def test_what_is_empty_or_missing_wins_over_nothing(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "namespace: file\n", {"MOTET_NAMESPACE": ""}, namespace=None, playbooks=())
    assert settings.namespace == "file"


def test_paths_of_the_file_are_relative_to_it(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "store: here\nplaybooks: [mine, /absolute]\nnats_creds: a.creds\n")
    assert settings.store == tmp_path / "here"
    assert settings.playbooks == (tmp_path / "mine", Path("/absolute"))
    assert settings.nats_creds == tmp_path / "a.creds"


def test_one_folder_of_playbooks_needs_no_list(tmp_path: Path) -> None:
    assert _settings(tmp_path, "playbooks: mine\n").playbooks == (tmp_path / "mine",)
    environ = {"MOTET_PLAYBOOKS": os.pathsep.join(["a", "b"])}
    assert _settings(tmp_path, environ=environ).playbooks == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("text", "environ", "flags", "message"),
    [
        ("nats_ulr: x\n", {}, {}, r"motet.yaml: nats_ulr: unknown field, did you mean 'nats_url'\?"),
        ("[a]\n", {}, {}, r"motet.yaml: must be a mapping"),
        ("store: 5\n", {}, {}, r"motet.yaml: store: "),
        ("store: [\n", {}, {}, r"motet.yaml: invalid YAML at line 2, column 1"),
        ("", {"MOTET_LOG_LEVEL": "loud"}, {}, r"the environment: log_level: .*'loud'"),
        ("", {}, {"log_format": "xml"}, r"the command line: log_format: .*'xml'"),
        ("", {"MOTET_NAMESPACE": "a.b"}, {}, r"the environment: namespace: 'a.b' cannot be part of a subject"),
        ("", {}, {"namespace": "task"}, r"the command line: namespace: 'task' is a family"),
    ],
)
def test_what_is_wrong_names_its_place(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        _settings(tmp_path, text, environ, **flags)


def test_a_child_process_gets_the_same_settings_by_its_environment(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path,
        environ={"MOTET_NATS_TOKEN": "s3cret", "MOTET_NATS_URL": "nats://here", "MOTET_PLAYBOOKS": "a"},
        namespace="team-a",
        log_level="debug",
    )
    environment = settings.environment("nats://here", {"PATH": "/bin", "MOTET_NAMESPACE": "another"})
    child = settings_from(environment)
    assert environment["PATH"] == "/bin"
    assert (child.nats_url, child.nats_token, child.namespace) == ("nats://here", "s3cret", "team-a")
    assert (child.log_level, child.log_format, child.playbooks) == ("debug", "json", (Path("a"),))


def test_credentials_go_to_the_server_they_are_for_and_to_no_other(tmp_path: Path) -> None:
    settings = _settings(tmp_path, environ={"MOTET_NATS_TOKEN": "s3cret", "MOTET_NATS_URL": "nats://named"})
    assert settings.connect_options("nats://named", "cli").token == "s3cret"  # noqa: S105
    assert settings.connect_options("nats://embedded", "cli").token is None
    assert "MOTET_NATS_TOKEN" not in settings.environment("nats://embedded", {})
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("replicas: 2\n", {}, "replicas: .*must be 1, 3 or 5"),
        ("", {"MOTET_REPLICAS": "7"}, "the environment: replicas: "),
        ("sync_interval: sometimes\n", {}, "sync_interval: "),
        ("", {"MOTET_SYNC_INTERVAL": "0s"}, "the environment: sync_interval: "),
    ],
)
def test_a_durability_that_cannot_be_is_refused(
    tmp_path: Path, text: str, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        _settings(tmp_path, text, environ)


def test_replicas_are_for_the_cluster_that_is_named_and_not_for_the_embedded_server(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "sync_interval: always\n", {"MOTET_REPLICAS": "3", "MOTET_NATS_URL": "nats://a"})
    assert settings.sync_interval == "always"
    assert settings.connect_options("nats://a", "x").replicas == 3
    assert settings.connect_options("nats://embedded", "x").replicas == 1
    assert settings_from(settings.environment("nats://a", {})).replicas == 3
    assert settings_from(settings.environment("nats://embedded", {})).replicas == 1
