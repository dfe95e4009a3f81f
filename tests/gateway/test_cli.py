"""The door: quick help, one clear line for every error, and the promised exit statuses. No bus is needed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from motet_gateway import exits
from motet_gateway.cli import main
from motet_schemas import (
    BusUnavailableError,
    BusUnsuitableError,
    ConflictError,
    InvalidInputError,
    MotetError,
    NotAllowedError,
    NotFoundError,
    PermanentError,
)

MODELS = ("anthropic", "openai", "pydantic_ai", "httpx", "textstat")
HEAVY = (
    *MODELS,
    "rapidfuzz",
    "nats",
    "pydantic",
    "yaml",
    "structlog",
    "opentelemetry",
    "jsonschema",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MOTET_NATS_URL", "MOTET_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOTET_STORE", str(tmp_path / "store"))
    return tmp_path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from motet_gateway.cli import main\n"
        "assert main(['--help']) == 0\n"
        "print([name for name in sys.argv[1:] if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


def test_running_a_task_imports_no_model_sdk() -> None:
    code = (
        "import sys\n"
        "import motet_gateway.session, motet_gateway.taskfile, motet_gateway.render, motet_gateway.doctor\n"
        "import motet_agents.desk, motet_agents.playbooks\n"
        "print([name for name in sys.argv[1:] if name in sys.modules])\n"
    )
    heavy = [
        name for name in HEAVY if name in ("anthropic", "openai", "pydantic_ai", "httpx", "textstat", "markdown_it")
    ]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInputError("x"), 2),
        (NotFoundError("x"), 2),
        (ConflictError("x"), 2),
        (BusUnavailableError("x"), 4),
        (BusUnsuitableError("x"), 4),
        (NotAllowedError("x"), 4),
        (PermanentError("x"), 1),
    ],
)
def test_every_error_has_its_exit_status(error: MotetError, status: int) -> None:
    assert exits.exit_status(error) == status


@pytest.mark.parametrize(
    ("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1), ("waiting", 3), ("running", 0)]
)
def test_every_conversation_status_has_its_exit_status(status: str, code: int) -> None:
    assert exits.status_of(status) == code


def test_a_bad_task_is_one_line_and_status_2(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "task.yaml").write_text("kind: content-qa\nchekclist: {}\n")
    assert main(["run", "task.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("motet: task.yaml: chekclist: unknown field, did you mean 'checklist'?")
    assert err.count("\n") == 1
    assert not (elsewhere / "store").exists()


def test_with_json_an_error_is_one_document_on_standard_output(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "task.yaml").write_text("kind: content-qa\nid: a.b\n")
    assert main(["run", "task.yaml", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "invalid_input"
    assert document["error"]["field"] == "id"
    assert "a.b" in document["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument"),
        (["rnu", "task.yaml"], "No such command"),
        (["run", "task.yaml", "--jsno"], "No such option"),
        (["run", "task.yaml", "--fail-on", "never"], "fail-on"),
        (["answer", "c1"], "exactly one of --approve"),
        (["answer", "c1", "--approve", "--reject"], "exactly one of --approve"),
        (["answer", "c1", "--approve", "--all", "--number", "1"], "either --number or --all"),
        (["answer", "c1", "--take-over", "gone.json"], "there is no such file"),
        (["list", "--log-level", "loud"], "log_level"),
        (["list", "--store", "file"], "is not a directory"),
        (["agent", "nonsense"], "is not MODULE:OBJECT"),
        (["agent", "no_such_module:agent"], "there is no module 'no_such_module'"),
        (["agent", "json:loads"], "not an Agent"),
        (["agent", "json:missing"], "nothing of that name"),
    ],
)
def test_bad_usage_is_status_2(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (elsewhere / "file").write_text("")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [["submit", "task.yaml"], ["agents"], ["agent", "motet_agents.planner:agent"]])
def test_what_needs_a_running_bus_says_so_with_status_4(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (elsewhere / "task.yaml").write_text("{kind: content-qa, input: {text: Hi}, checklist: {links: {}}}")
    assert main([*command, "--json"]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "bus_unavailable"
    assert "motet up" in err


def test_a_server_that_does_not_answer_is_status_4_within_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--nats-url", "nats://127.0.0.1:1"]) == 4
    assert "cannot reach a NATS server at nats://127.0.0.1:1" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_and_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("motet_schemas.publish.schema_files", break_down)
    assert main(["schemas", "somewhere", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "unexpected"
    assert "ZeroDivisionError: a defect" in err
    assert err.count("\n") == 1
    saved = Path(err.strip().rpartition(" ")[2])
    assert "break_down" in saved.read_text()
    assert saved.stat().st_mode & 0o077 == 0
    saved.unlink()


def test_schemas_are_written(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemas", "out", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "asyncapi.json" in document["files"]
    assert {path.name for path in (elsewhere / "out").iterdir()} == set(document["files"])
    assert main(["schemas", "out"]) == 0


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"motet", "python", "nats_server"}
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("motet ")


def test_a_bare_motet_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: motet" in "".join(capsys.readouterr())
